import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.selection.pruning import prune_by_reward

limits = st.none() | st.floats(0, 1)
samples = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 0.5)), min_size=1, max_size=20
)


def test_every_sample_keeps_its_reason():
    reasons = prune_by_reward(
        mean_reward=[0.95, 0.9, 0.5, 0.001, 0.0005, 0.4],
        std_reward=[0.1, 0.1, 0.01, 0.1, 0.1, 0.009],
        too_easy=0.9,
        too_hard=0.001,
        min_spread=0.01,
    )
    # what lies on a limit stays
    assert reasons.tolist() == [
        "too_easy",
        "kept",
        "kept",
        "kept",
        "too_hard",
        "no_spread",
    ]


def test_the_mean_is_judged_before_the_spread():
    reasons = prune_by_reward([1, 0.5, 0], [0, 1, 0], 0.9, 0.1, 0.01)
    assert reasons.tolist() == ["too_easy", "kept", "too_hard"]


def test_without_limits_all_stay():
    assert prune_by_reward([0, 1], [0, 0]).tolist() == ["kept", "kept"]


@given(samples, limits, limits, limits)
def test_what_stays_lies_within_the_limits(samples, too_easy, too_hard, min_spread):
    def reason(mean, std):
        if too_easy is not None and mean > too_easy:
            return "too_easy"
        if too_hard is not None and mean < too_hard:
            return "too_hard"
        if min_spread is not None and std < min_spread:
            return "no_spread"
        return "kept"

    expected = [reason(*sample) for sample in samples]
    assume("kept" in expected)
    mean, std = zip(*samples, strict=True)
    assert prune_by_reward(mean, std, too_easy, too_hard, min_spread).tolist() == (
        expected
    )


def test_nothing_left_names_limits_and_rewards():
    with pytest.raises(InputError) as caught:
        prune_by_reward([0.1, 0.25], [0.02, 0.03], too_hard=0.5)
    message = str(caught.value)
    assert "mean rewards run from 0.1 to 0.25" in message
    assert "standard deviations from 0.02 to 0.03" in message
    assert "select.prune.too_hard (0.5)" in message
    assert "select.prune.too_easy (null)" in message


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([], [], "mean_reward has shape"),
        ([np.nan], [0], "mean_reward holds nan"),
        ([0.5], [np.nan], "std_reward holds nan"),
        ([0.5, 0.6], [0.1], "mean_reward has 2 values and std_reward 1"),
    ],
)
def test_bad_input_is_named(mean, std, message):
    with pytest.raises(InputError, match=message):
        prune_by_reward(mean, std)
