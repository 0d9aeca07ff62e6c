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


def drawn(pace, reward, epochs=1, prompts_per_step=1):
    """Draw, and let each prompt earn ``reward(position)`` before the next is drawn."""
    earned = []
    positions = []
    for position in draw(STAGES, EXPECTED, epochs, prompts_per_step, pace, earned):
        positions.append(position)
        earned.append((position, reward(position)))
    return positions


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    epochs=st.integers(1, 3),
    prompts_per_step=st.integers(1, 7),
)
def test_without_a_pace_all_come_once_an_epoch_and_the_last_stage_fills(
    sizes, epochs, prompts_per_step
):
    stages = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    n, last = len(stages), sizes[-1]
    found = list(draw(stages, [math.nan] * n, epochs, prompts_per_step, None, []))
    padding = -n * epochs % prompts_per_step
    assert found[: n * epochs] == list(range(n)) * epochs
    assert found[n * epochs :] == [n - last + i % last for i in range(padding)]


def test_one_pass_that_never_rises_is_no_pace():
    pace = PaceParams(rise=9, window=1, max_passes=1)
    found = drawn(pace, reward=lambda _: 1.0, prompts_per_step=3)
    assert found == [0, 1, 2, 3, 4, 5, 6, 4, 5]


def test_a_stage_that_does_not_rise_is_passed_again(caplog):
    pace = PaceParams(rise=0.1, window=2, max_passes=2)
    with caplog.at_level("INFO"):
        found = drawn(pace, reward=EXPECTED.__getitem__, epochs=2)
    assert found == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 6, 4, 5, 6]
    assert caplog.messages == [
        "stage 0 ends after 4 prompts of its own: passed 2 times",
        "stage 1 ends after 4 prompts of its own: passed 2 times",
    ]


def test_a_stage_gives_way_when_its_window_has_risen(caplog):
    pace = PaceParams(rise=0.1, window=3, max_passes=5)
    better = {0: 1.0, 1: 0.9, 2: 0.6, 3: 0.5}  # 0.1 more in stage 0, nothing in 1

    def reward(position):
        return better.get(position, 0.0) + 1e-9

    # three prompts of stage 0 fill the window, and one more was drawn before that was
    # known; stage 1 has to the end of the draws
    with caplog.at_level("INFO"):
        assert drawn(pace, reward) == [0, 1, 0, 1, 2, 3, 2]
    assert caplog.messages == [
        "stage 0 ends after 4 prompts of its own: its last 3 earned 0.1 more than the "
        "proxy did"
    ]


def test_the_last_stage_takes_what_is_left():
    pace = PaceParams(rise=0.0, window=1, max_passes=2)
    found = drawn(pace, reward=lambda _: 1.0, epochs=2)
    assert found == [0, 1, 2, 3, *[4, 5, 6] * 3, 4]


def test_what_is_drawn_does_not_depend_on_when_rewards_come():
    pace = PaceParams(rise=0.0, window=2, max_passes=3)
    earned = []
    positions = draw(STAGES, EXPECTED, 1, 2, pace, earned)
    early = [next(positions) for _ in range(4)]
    earned += [(position, 1.0) for position in early[:2]]
    late = [*early, *positions]
    at_once = [(position, 1.0) for position in late]
    assert list(draw(STAGES, EXPECTED, 1, 2, pace, at_once)) == late


def test_a_window_that_no_stage_fills_is_refused():
    check_pace(STAGES, PaceParams(rise=0, window=4, max_passes=2))
    with pytest.raises(InputError, match="window is 5, and a stage draws 4 prompts"):
        check_pace(STAGES, PaceParams(rise=0, window=5, max_passes=2))


def test_examples():
    assert doctest.testmod(order).failed == 0
