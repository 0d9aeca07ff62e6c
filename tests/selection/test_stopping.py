import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.selection.stopping import settled

NO_LIMITS = {"lower": None, "upper": None}
# at a confidence of 0.5, t of 1 degree of freedom is 1, and of 2 it is sqrt(2/3)
HALF = {"confidence": 0.5}


def test_narrow_enough_worked_by_hand():
    # variance (0.6^2 + 2 x 0.4^2) / 2 = 0.34; half width sqrt(2/3) sqrt(0.34 / 2)
    rewards, width = [[0.1, 0.9]], 2 * np.sqrt(2 / 3 * 0.17)
    for share, expected in ((1.001, True), (0.999, False)):
        found = settled(
            rewards, width=share * width, prior_std=0.6, **NO_LIMITS, **HALF
        )
        assert found.tolist() == [expected]


def test_beyond_a_limit_worked_by_hand():
    # one rollout: 0.5 -+ 0.2, and then 0.5 -+ sqrt(2/3) 0.2 / 2
    def judged(k, lower=None, upper=None):
        given = {"width": 1e-9, "prior_std": 0.2, **HALF}
        return settled([[0.5] * k], lower, upper, **given).tolist()

    assert judged(1, lower=0.71) == [True]
    assert judged(1, lower=0.69) == [False]
    assert judged(1, upper=0.29) == [True]
    assert judged(1, upper=0.31) == [False]
    assert judged(2, upper=0.31) == [True]
    assert judged(2, lower=0.5817) == [True]
    assert judged(2, lower=0.5816) == [False]


def test_equal_rewards_are_no_certainty():
    given = {"width": 0.1, "confidence": 0.9, "prior_std": 0.05, **NO_LIMITS}
    # 2.92 x 0.05 / 2 and 2.132 x 0.05 / 4 on either side
    assert settled([[0.3, 0.3]], **given).tolist() == [False]
    assert settled([[0.3] * 4], **given).tolist() == [True]


def test_the_confidence_is_kept():
    # of samples whose variances are drawn from the prior, as many means lie outside
    rng = np.random.default_rng(0)
    n, k, prior, confidence = 20_000, 5, 0.1, 0.8
    std = prior / np.sqrt(rng.chisquare(1, n))
    rewards = 0.4 + std[:, None] * rng.standard_normal((n, k))
    outside = settled(
        rewards, 0.4, 0.4, width=1e-12, confidence=confidence, prior_std=prior
    )
    error = np.sqrt(confidence * (1 - confidence) / n)
    assert outside.mean() == pytest.approx(1 - confidence, abs=4 * error)


tables = st.integers(1, 6).flatmap(
    lambda k: st.lists(
        st.lists(st.floats(0, 1), min_size=k, max_size=k), min_size=1, max_size=5
    )
)


@given(tables, st.floats(0, 0.5), st.floats(0.5, 1), st.floats(0.01, 1))
def test_each_sample_is_judged_alone(rewards, lower, upper, width):
    given = (lower, upper, width, 0.9, 0.05)
    together = settled(rewards, *given).tolist()
    assert together == [settled([own], *given)[0] for own in rewards]
    without = settled(rewards, None, None, *given[2:])
    assert (without <= together).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rewards": [0.1, 0.2]}, r"rewards of shape \(2,\)"),
        ({"rewards": np.empty((2, 0))}, r"rewards of shape \(2, 0\)"),
        ({"rewards": [[0.1, np.nan]]}, "finite number"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"width": 0.0}, "width 0.0"),
        ({"prior_std": 0.0}, "prior_std 0.0"),
    ],
)
def test_what_cannot_be_judged(changed, said):
    given = {"rewards": [[0.1, 0.2]], "width": 0.1, "confidence": 0.9, "prior_std": 0.1}
    with pytest.raises(InputError, match=said):
        settled(**{**given, **changed}, **NO_LIMITS)
