import numpy as np
import pytest
from scipy import stats

from minirec.errors import InputError
from minirec.ranking import intervals
from minirec.ranking.intervals import (
    bootstrap_mean,
    bootstrap_means,
    holm,
    randomisation_test,
)


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, size=2000)
    mean, low, high = bootstrap_mean(values, draws=4000, confidence=0.95, seed=1)
    error = values.std() / np.sqrt(len(values))
    assert mean == values.mean()
    # an end is a quantile of 4,000 draws: its own standard error is
    # sqrt(0.025 x 0.975 / 4000) / density(1.96) = 0.042 of the error; four of them
    assert low == pytest.approx(mean - 1.96 * error, abs=0.17 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.17 * error)


def test_two_values_worked_out_by_hand():
    # a draw of two users: mean 0 in a quarter of the draws, 1/2 in a half, 1 in a quarter
    mean, low, high = bootstrap_mean([0, 1], draws=1000, confidence=0.9, seed=0)
    assert (mean, low, high) == (0.5, 0, 1)
    _, low, high = bootstrap_mean([0, 1], draws=1000, confidence=0.4, seed=0)
    assert (low, high) == (0.5, 0.5)


def test_samples_of_a_user_are_drawn_together():
    # one user with 0, 0, 0 and one with 1: the mean is over samples, 1/4, and a draw
    # takes one user twice (0 or 1) or each once (1/4)
    users = ["a", "a", "b", "a"]
    mean, low, high = bootstrap_mean([0, 0, 1, 0], 1000, 0.4, seed=0, groups=users)
    assert (mean, low, high) == (0.25, 0.25, 0.25)
    _, low, high = bootstrap_mean([0, 0, 1, 0], 1000, 0.9, seed=0, groups=users)
    assert (low, high) == (0, 1)


def test_groups_of_one_change_nothing():
    values = np.random.default_rng(0).random(30)
    alone = bootstrap_mean(values, 200, 0.9, seed=0)
    assert bootstrap_mean(values, 200, 0.9, seed=0, groups=range(30)) == alone


@pytest.mark.parametrize("block", [1, 7 * 30, 10**6])
def test_blocks_change_nothing(monkeypatch, block):
    values = np.random.default_rng(0).random(30)
    whole = bootstrap_mean(values, 100, 0.9, seed=0)
    monkeypatch.setattr(intervals, "_BLOCK", block)
    # sums of 30 numbers in another order
    same = pytest.approx(whole, rel=30 * np.finfo(float).eps)
    assert bootstrap_mean(values, 100, 0.9, seed=0) == same
    assert bootstrap_mean(values, 100, 0.9, seed=1) != same


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values has shape"),
        ([0.5, np.nan], {}, "values holds nan at row 1"),
        ([0.5], {"draws": 0}, "train_eval.evaluation.bootstrap_draws is 0"),
        ([0.5], {"confidence": 1}, "train_eval.evaluation.confidence is 1"),
        ([0.5], {"groups": ["a", "b"]}, r"groups has shape \(2,\) for 1 values"),
    ],
)
def test_bad_input_is_named(values, options, message):
    options = {"draws": 10, "confidence": 0.9, "seed": 0, **options}
    with pytest.raises(InputError, match=message):
        bootstrap_mean(values, **options)


def test_columns_share_their_draws():
    values = np.random.default_rng(0).random((30, 2))
    means = bootstrap_means(values, 100, seed=0, groups=np.arange(30) // 3)
    apart = bootstrap_means(values[:, :1] - values[:, 1:], 100, 0, np.arange(30) // 3)
    # sums of 30 numbers below 1 in another order, over 30
    rounding = 30 * np.finfo(float).eps
    np.testing.assert_allclose(means[:, 0] - means[:, 1], apart[:, 0], atol=rounding)


def test_the_p_value_is_that_of_scipys_permutation_test():
    differences = np.random.default_rng(0).normal(0.3, 1, 12)
    exact = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    draws = 20_000
    (found,) = randomisation_test(differences[:, None], draws, seed=0)
    # a share of 20,000 random signs: four standard errors
    error = np.sqrt(exact * (1 - exact) / draws)
    assert found == pytest.approx(exact, abs=4 * error)


def test_signs_worked_out_by_hand():
    # of three users all with a difference of 1 a quarter of the signs give 3 or -3
    (found,) = randomisation_test(np.ones((3, 1)), draws=9999, seed=0)
    assert found == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 9999))
    # samples of one user change their signs together: as large in all draws
    one = randomisation_test(np.ones((3, 1)), 99, seed=0, groups=["a"] * 3)
    assert one.tolist() == [1.0]


def test_a_difference_that_rounding_splits_is_as_large_as_itself():
    # 0.1 + 0.2 - 0.3 is not 0; another order of the same numbers is as far from 0
    differences = np.array([[0.1], [0.2], [-0.3]])
    assert randomisation_test(differences, 99, seed=0).tolist() == [1.0]


def test_holm_multiplies_by_what_is_left_and_never_falls():
    # 3 x 0.02, 2 x 0.021 is less and stays at 0.06, 1 x 0.5
    assert holm([0.5, 0.02, 0.021]).tolist() == pytest.approx([0.5, 0.06, 0.06])
    assert holm([0.6, 0.9]).tolist() == [1, 1]
    assert holm([]).tolist() == []
