"""Real processes of Ray, two at a time; starting them takes seconds."""

import sys

import batch_workers
import pandas as pd
import pytest
from batch_workers import given, make_doubler

from minirec.costs import Costs, counting
from minirec.errors import InputError
from minirec.execution.map_batches import map_batches
from minirec.execution.params import ExecutionParams
from minirec.execution.parts import in_order

KEY = "0123abcd"


@pytest.fixture(scope="module")
def two_workers():
    pytest.importorskip("ray.data", reason='pip install "ray[data]~=2.60"')
    return ExecutionParams(engine="ray", workers=2, gpus_per_worker=0, address=None)


@pytest.fixture
def run(tmp_path):
    """Work on a table, three rows at once, in a folder that stays."""

    def run(execution, table, init=None, *, make=make_doubler, label="run"):
        return in_order(
            map_batches(
                make,
                init or {},
                table,
                batch_size=3,
                key=KEY,
                folder=tmp_path / "batches",
                label=label,
                execution=execution,
            )
        )

    return run


@pytest.fixture(scope="module")
def running_ray(two_workers):
    """A Ray that somebody has started before."""
    import ray

    from minirec.execution.on_ray import start

    start(two_workers)
    yield
    assert ray.is_initialized()
    ray.shutdown()


def test_two_processes_of_which_one_is_killed_find_what_one_process_finds(
    run, two_workers, local, samples, notes
):
    import ray

    table = samples(range(40))
    init = {"notes": str(notes), "seconds": 0.2, "kills_once": [20]}
    with counting() as costs:
        found = run(two_workers, table, init)
    assert costs == Costs(tokens_read=40, flops=7.0)  # of 14 batches
    assert not ray.is_initialized()
    assert found.equals(run(local, table, label="alone"))
    # two processes, and the one in the killed one's place
    assert len([path for path in notes.iterdir() if path.name.isdigit()]) == 3
    again = [batch for batch in given(notes) if given(notes).count(batch) > 1]
    assert set(again) >= {"[21, 20, 19]"}
    with counting() as costs:
        run(local, table, make=batch_workers.never)
    assert costs == Costs()  # they lie finished


@pytest.mark.usefixtures("running_ray")
def test_a_workers_error_is_raised_as_it_is_and_what_was_finished_stays(
    run, two_workers, local, samples, notes
):
    table = samples(range(12))
    with pytest.raises(OSError, match="No space left on device") as raised:
        run(two_workers, table, {"fails_at": [1]})
    assert "in finish" in raised.value.__notes__[0]
    run(local, table, {"notes": str(notes)})
    assert 1 <= len(given(notes)) < 4


@pytest.mark.usefixtures("running_ray")
def test_memory_that_runs_out_is_told_to_the_user(run, two_workers, samples, caplog):
    found = run(two_workers, samples(range(7)), {"fits": 2})
    batches = ["0", "1", "3 2", "3 2", "4", "6 5", "6 5"]
    assert found["batch"].to_pylist()[::2] == batches
    assert caplog.text.count("3 rows at once do not fit the memory") == 1
    with pytest.raises(
        InputError, match=r"sample_id [25] alone does not fit the memory"
    ):
        run(two_workers, samples(range(6)), {"fits": 0}, label="other")


@pytest.mark.usefixtures("running_ray")
def test_a_batch_that_ends_every_process_is_given_up(run, two_workers, local, samples):
    table = samples(range(6))
    with pytest.raises(InputError, match="run: one batch has ended 4 processes"):
        run(two_workers, table, {"kills_at": [1]})
    run(two_workers, table)  # counts anew
    run(local, table, make=batch_workers.never)


@pytest.mark.usefixtures("running_ray")
def test_a_batch_comes_as_from_a_parquet_file(run, two_workers):
    """As in one process: see the same test there."""
    table = pd.DataFrame(
        {
            "sample_id": [7, 8],
            "history": [["a", "b"], []],
            "rating": [None, 1.5],
            "name": ["x", None],
        },
        index=[3, 3],
    )
    found = run(two_workers, table, make=batch_workers.make_witness)
    assert found["index"].to_pylist() == [0, 1]
    assert found["types"].to_pylist() == ["int64 object float64 str ndarray"] * 2


def test_without_ray_the_user_is_told_how_to_get_it(run, samples, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    two_workers = ExecutionParams(
        engine="ray", workers=2, gpus_per_worker=0, address=None
    )
    with pytest.raises(InputError, match=r'pip install "ray\[data\]'):
        run(two_workers, samples(range(3)))
