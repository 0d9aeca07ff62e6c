import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minirec.errors import InputError
from minirec.selection.learnability import auto_mu, gaussian_learnability

hundredths = st.integers(0, 100).map(lambda n: n / 100)
rewards = arrays(np.float64, st.integers(1, 20), elements=hundredths)


def test_values_worked_out_by_hand():
    # mean 0.5, so sigma^2 = (0.25 + 0 + 0.25) / 3 = 1/6 and exp(-0.25 / (2/6)) = e^-0.75
    low = math.exp(-0.75)
    assert gaussian_learnability([0, 0.5, 1]) == pytest.approx([0, 1, 0], abs=2e-12)
    # mu = 0: 1, exp(-0.25 * 3) and exp(-1 * 3), then min-max
    last = math.exp(-3)
    assert gaussian_learnability([0, 0.5, 1], mu=0) == pytest.approx(
        [1, (low - last) / (1 - last), 0], abs=2e-12
    )


def test_a_given_sigma_replaces_that_of_the_pool():
    # sigma 0.5, mu 0.5: exp(0) = 1 and exp(-0.25 / 0.5) = e^-0.5; 0.25 away: e^-0.125
    low = math.exp(-0.5)
    expected = [1, (math.exp(-0.125) - low) / (1 - low), 0]
    # the 1e-12 in the denominator, over a range of 0.39
    assert gaussian_learnability([0.5, 0.75, 1], sigma=0.5) == pytest.approx(
        expected, abs=3e-12
    )


@given(rewards, hundredths)
def test_nearer_to_mu_is_never_less_learnable(mean_reward, mu):
    score = gaussian_learnability(mean_reward, mu=mu)
    assert ((score >= 0) & (score <= 1)).all()
    distance = np.abs(mean_reward - mu)
    nearer = distance[:, None] < distance - 0.005  # half a step: no matter of rounding
    assert (score[:, None] >= score)[nearer].all()
    if len(set(mean_reward)) == 1:
        assert (score == 0).all()


# a pool in which some earn something
pools = arrays(
    np.float64, st.integers(1, 30), elements=st.just(0.0) | st.floats(1e-6, 1)
).filter(np.any)
# Sums of 30 numbers above 0 and a handful of operations more are right to so many bits.
near = {"rtol": 64 * np.finfo(float).eps, "atol": 0}


def test_mu_weighs_rewards_by_themselves():
    # (0.04 + 0.16) / (0.2 + 0.4)
    assert auto_mu([0, 0, 0, 0.2, 0.4]) == pytest.approx(1 / 3)
    pool = [0, 0, 0, 0.2, 0.4]
    automatic = gaussian_learnability(pool, mu="auto")
    assert automatic.tolist() == gaussian_learnability(pool, mu=auto_mu(pool)).tolist()


@given(pools)
def test_mu_lies_between_the_mean_and_the_largest_reward(pool):
    assert pool.mean() * (1 - near["rtol"]) <= auto_mu(pool) <= pool.max()


@given(pools)
def test_mu_is_the_mean_and_a_variance_by_the_mean(pool):
    mean = pool.mean()
    np.testing.assert_allclose(auto_mu(pool), mean + pool.var() / mean, **near)


@given(pools)
def test_no_reward_is_at_least_two_standard_deviations_below_mu(pool):
    assert auto_mu(pool) >= 2 * pool.std() * (1 - near["rtol"])


def test_two_standard_deviations_are_attained():
    # mean and standard deviation are both 0.5
    assert auto_mu([0, 1]) == 1


@given(pools, st.sampled_from([1e-300, 1e-3, 3.0, 1e300]))
def test_mu_scales_with_the_rewards(pool, factor):
    np.testing.assert_allclose(auto_mu(pool * factor), auto_mu(pool) * factor, **near)


@pytest.mark.parametrize("factor", [1e-3, 2.0, 7.0])
def test_learnability_by_auto_has_no_unit(factor):
    pool = np.array([0.0, 0.1, 0.25, 0.5])
    scaled = gaussian_learnability(pool * factor, mu="auto")
    # scores of order 1 after some ten roundings of numbers of order 1
    expected = gaussian_learnability(pool, mu="auto")
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=64 * np.finfo(float).eps)


@given(pools, st.integers(1, 5))
def test_mu_does_not_depend_on_what_earns_nothing(pool, n):
    np.testing.assert_allclose(auto_mu([*pool, *[0] * n]), auto_mu(pool), **near)


@pytest.mark.parametrize(
    ("pool", "found"),
    [([0.0, 0.0], "all of them 0"), ([0.5, -0.25], "of -0.25"), ([-1, -2], "of -2")],
)
def test_mu_needs_rewards_above_0(pool, found):
    message = f"mu is auto, .* there are rewards {found}: give a number"
    with pytest.raises(InputError, match=message):
        gaussian_learnability(pool, mu="auto")


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_equal_rewards_cannot_be_told_apart(sigma):
    # 0.1 has no exact mean of three: the standard deviation is not exactly 0
    assert np.std([0.1] * 3) > 0
    assert gaussian_learnability([0.1] * 3, sigma=sigma).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        ([], {}, "mean_reward has shape"),
        ([[0.5]], {}, "mean_reward has shape"),
        ([0.5, math.nan], {}, "mean_reward holds nan at row 1"),
        ([0.5, 0.6], {"sigma": 0}, "score.learnability.sigma is 0"),
        ([0.5, 0.6], {"mu": math.inf}, "score.learnability.mu is inf"),
        ([0.5, 0.6], {"mu": "median"}, "score.learnability.mu is median: give a"),
        ([-1.0, 0.0], {"mu": "auto"}, "there are rewards of -1: give a number"),
        ([0.0, 0.0], {"mu": "auto"}, "there are rewards all of them 0"),
    ],
)
def test_bad_input_is_named(rewards, options, message):
    with pytest.raises(InputError, match=message):
        gaussian_learnability(rewards, **options)
