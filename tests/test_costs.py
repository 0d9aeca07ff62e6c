import math
from dataclasses import asdict
from threading import Thread

from minirec import costs


def test_whoever_counts_is_told_what_was_done_meanwhile():
    costs.add(tokens_read=1000)
    with costs.counting() as whole:
        costs.add(tokens_read=2, flops=10.0)
        with costs.counting() as part:
            costs.add(tokens_generated=3, flops=5.0)
        costs.add(tokens_trained=4)
    costs.add(tokens_read=1000)
    assert part == costs.Costs(tokens_generated=3, flops=5.0)
    assert whole == costs.Costs(3, 4, 2, 15.0)


def test_what_another_process_did_can_be_added():
    theirs = costs.Costs(1, 2, 3, 4.0)
    with costs.counting() as own:
        costs.add(**asdict(theirs))
    assert own == theirs


def test_threads_are_told_apart():
    with costs.counting() as own:
        other = Thread(target=costs.add, kwargs={"tokens_read": 1})
        other.start()
        other.join()
    assert own == costs.Costs()


def test_what_is_unknown_stays_unknown():
    with costs.counting() as own:
        costs.add(flops=math.nan)
        costs.add(flops=1.0)
    assert math.isnan(own.flops)
