import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.selection.pruning import Quantile, limits, prune_by_reward

fractions = st.floats(0, 1)
rewards = st.none() | fractions
any_limit = rewards | fractions.map(Quantile)
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


@given(samples, rewards, rewards, rewards)
def test_what_stays_lies_within_the_limits(samples, too_easy, too_hard, min_spread):
    assume(None in (too_easy, too_hard) or too_easy >= too_hard)

    def reason(mean, std):
        if too_easy is not None and mean > too_easy:
            return "too_easy"
        if too_hard is not None and mean < too_hard:
            return "too_hard"
        if min_spread is not None and (std < min_spread or std <= mean * 2**-23):
            return "no_spread"
        return "kept"

    expected = [reason(*sample) for sample in samples]
    assume("kept" in expected)
    mean, std = zip(*samples, strict=True)
    assert prune_by_reward(mean, std, too_easy, too_hard, min_spread).tolist() == (
        expected
    )


def test_a_quantile_is_of_the_mean_rewards():
    # of 0, 1, 2, 3 the quantile 0.9 lies at 2.7, the quantile 0.25 at 0.75
    mean, std = [3, 0, 2, 1], [1, 1, 1, 1]
    assert limits(mean, Quantile(0.9), Quantile(0.25)) == pytest.approx((2.7, 0.75))
    reasons = prune_by_reward(mean, std, Quantile(0.9), Quantile(0.25))
    assert reasons.tolist() == ["too_easy", "too_hard", "kept", "kept"]
    assert limits(mean, 2.5, Quantile(0)) == (2.5, 0)
    assert limits(mean, None, None) == (None, None)


def test_quantiles_leave_equal_rewards_alone():
    # most of such a pool lies on its quantile 0.3, and what lies on a limit stays
    reasons = prune_by_reward([0, 0, 0, 0.5], [0, 0, 0, 0.5], too_hard=Quantile(0.3))
    assert reasons.tolist() == ["kept"] * 4


@given(samples, any_limit, any_limit)
def test_limits_that_contradict_each_other_are_refused(samples, too_easy, too_hard):
    mean, _ = zip(*samples, strict=True)

    def resolved(limit):
        if isinstance(limit, Quantile):
            return np.quantile(mean, limit.quantile)
        return limit

    expected = easy, hard = resolved(too_easy), resolved(too_hard)
    if easy is not None and hard is not None and easy < hard:
        with pytest.raises(InputError, match=r"too_easy .* is below .*too_hard"):
            limits(mean, too_easy, too_hard)
    else:
        assert limits(mean, too_easy, too_hard) == expected


def test_a_contradiction_names_quantiles_and_rewards():
    message = (
        r"^select.prune.too_easy \(0.15, the quantile 0.5\) is below "
        r"select.prune.too_hard \(0.2\), which leaves no sample"
    )
    with pytest.raises(InputError, match=message):
        prune_by_reward([0.1, 0.2], [0, 0], too_easy=Quantile(0.5), too_hard=0.2)


@pytest.mark.parametrize("quantile", [-0.1, 1.1, np.nan])
def test_a_quantile_lies_between_0_and_1(quantile):
    with pytest.raises(InputError, match=f"quantile is {quantile}: give one"):
        Quantile(quantile)


sizes = st.floats(1e-30, 1) | st.floats(-1, -1e-30)


@given(sizes, st.lists(st.integers(-9, 9), min_size=2, max_size=64))
def test_rewards_that_float32_cannot_tell_apart_have_no_spread(size, moves):
    """Rewards that round to one number of float32, wherever they lie around it."""
    one = np.float64(np.float32(size))
    # nine steps are less than half the way to the next number, on either side
    step = min(abs(np.spacing(np.float32(x))) for x in (one, one * (1 - 2**-24))) / 20
    rewards = one + np.array(moves) * np.float64(step)
    assert set(rewards.astype(np.float32)) == {np.float32(size)}
    assert spread(rewards) == "no_spread"


@given(sizes, st.integers(2, 64))
def test_the_mean_of_equal_rewards_may_be_rounded(size, n):
    assert spread(np.full(n, size)) == "no_spread"


@given(sizes, st.integers(2, 64))
def test_one_reward_among_many_that_differs_is_a_spread(size, n):
    # the standard deviation is sqrt(n - 1) / n > 0.12 of 2e-6, twice 2^-23
    assert spread(np.array([size * (1 + 2e-6)] + [size] * (n - 1))) == "kept"


def spread(rewards):
    """Return what becomes of a sample with these rewards, without a floor above 0."""
    reasons = prune_by_reward(
        [rewards.mean(), 0.5], [rewards.std(), 0.5], min_spread=0.0
    )
    return reasons[0]


def test_the_floor_that_is_null_leaves_equal_rewards():
    assert prune_by_reward([0.1], [0.0], min_spread=None).tolist() == ["kept"]


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
