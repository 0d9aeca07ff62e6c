import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minirec.errors import InputError
from minirec.selection.learnability import gaussian_learnability

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
    ],
)
def test_bad_input_is_named(rewards, options, message):
    with pytest.raises(InputError, match=message):
        gaussian_learnability(rewards, **options)
