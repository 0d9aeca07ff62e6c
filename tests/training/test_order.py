import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.policy.params import PaceParams
from minirec.training import order
from minirec.training.order import check_pace, draw

# two stages of two, one of three
STAGES = [0, 0, 1, 1, 2, 2, 2]
EXPECTED = [0.9, 0.8, 0.6, 0.5, 0.3, 0.2, 0.1]


def drawn(n, pace, reward):
    """Draw, and let each prompt earn ``reward(position)`` before the next is drawn."""
    earned = []
    positions = []
    for position in draw(STAGES, EXPECTED, n, pace, earned):
        positions.append(position)
        earned.append((position, reward(position)))
    return positions


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    padding=st.integers(0, 7),
)
def test_without_a_pace_all_come_once_and_the_last_stage_fills(sizes, padding):
    stages = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    n, last = len(stages), sizes[-1]
    found = list(draw(stages, [math.nan] * n, n + padding, None, []))
    assert found[:n] == list(range(n))
    assert found[n:] == [n - last + i % last for i in range(padding)]


def test_one_pass_that_never_rises_is_no_pace():
    pace = PaceParams(rise=9, window=1, max_passes=1)
    assert drawn(9, pace, reward=lambda _: 1.0) == [0, 1, 2, 3, 4, 5, 6, 4, 5]


def test_a_stage_that_does_not_rise_is_passed_again(caplog):
    pace = PaceParams(rise=0.1, window=2, max_passes=2)
    with caplog.at_level("INFO"):
        found = drawn(11, pace, reward=EXPECTED.__getitem__)
    assert found == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 6]
    assert caplog.messages == [
        "stage 0 ends after 4 prompts: passed 2 times",
        "stage 1 ends after 8 prompts: passed 2 times",
    ]


def test_a_stage_gives_way_when_its_window_has_risen(caplog):
    pace = PaceParams(rise=0.1, window=3, max_passes=5)
    better = {0: 1.0, 1: 0.9, 2: 0.6, 3: 0.5}  # 0.1 more in stage 0, nothing in 1

    def reward(position):
        return better.get(position, 0.0) + 1e-9

    # three prompts of stage 0 fill the window; stage 1 has to the end of the draws
    with caplog.at_level("INFO"):
        assert drawn(9, pace, reward) == [0, 1, 0, 2, 3, 2, 3, 2, 3]
    assert caplog.messages == [
        "stage 0 ends after 3 prompts: its last 3 earned 0.1 more than the proxy did"
    ]


def test_the_last_stage_takes_what_is_left():
    pace = PaceParams(rise=0.0, window=1, max_passes=1)
    assert drawn(7, pace, reward=lambda _: 1.0) == [0, 2, 4, 5, 6, 4, 5]


def test_only_what_is_trained_on_counts():
    pace = PaceParams(rise=0.0, window=2, max_passes=2)
    earned = []
    positions = draw(STAGES, EXPECTED, 7, pace, earned)
    assert [next(positions) for _ in range(3)] == [0, 1, 0]
    earned += [(0, 1.0), (1, 1.0)]
    assert next(positions) == 2


def test_a_window_that_no_stage_fills_is_refused():
    check_pace(STAGES, PaceParams(rise=0, window=4, max_passes=2))
    with pytest.raises(InputError, match="window is 5, and a stage draws 4 prompts"):
        check_pace(STAGES, PaceParams(rise=0, window=5, max_passes=2))


def test_examples():
    assert doctest.testmod(order).failed == 0
