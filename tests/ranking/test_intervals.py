import numpy as np
import pytest
from scipy import stats

from minirec.errors import InputError
from minirec.ranking import intervals
from minirec.ranking.intervals import (
    bootstrap_means,
    bootstrap_means_over_seeds,
    holm,
    interval,
    randomisation_test,
)


def interval_of(values, draws, confidence, seed, groups=None):
    values = np.array(values, dtype=float)
    return interval(
        bootstrap_means(values[:, None], draws, seed, groups)[:, 0], confidence
    )


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, size=2000)
    low, high = interval_of(values, draws=4000, confidence=0.95, seed=1)
    error = values.std() / np.sqrt(len(values))
    mean = values.mean()
    # an end is a quantile of 4,000 draws: its own standard error is
    # sqrt(0.025 x 0.975 / 4000) / density(1.96) = 0.042 of the error; four of them
    assert low == pytest.approx(mean - 1.96 * error, abs=0.17 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.17 * error)


def test_two_values_worked_out_by_hand():
    # a draw of two users: mean 0 in a quarter of the draws, 1/2 in a half, 1 in a quarter
    assert interval_of([0, 1], draws=1000, confidence=0.9, seed=0) == (0, 1)
    assert interval_of([0, 1], draws=1000, confidence=0.4, seed=0) == (0.5, 0.5)


def test_samples_of_a_user_are_drawn_together():
    # one user with 0, 0, 0 and one with 1: the mean is over samples, 1/4, and a draw
    # takes one user twice (0 or 1) or each once (1/4)
    users = ["a", "a", "b", "a"]
    assert interval_of([0, 0, 1, 0], 1000, 0.4, 0, users) == (0.25, 0.25)
    assert interval_of([0, 0, 1, 0], 1000, 0.9, 0, users) == (0, 1)


def test_groups_of_one_change_nothing():
    values = np.random.default_rng(0).random(30)
    alone = interval_of(values, 200, 0.9, seed=0)
    assert interval_of(values, 200, 0.9, seed=0, groups=range(30)) == alone


@pytest.mark.parametrize("block", [1, 7 * 30, 10**6])
def test_blocks_change_nothing(monkeypatch, block):
    values = np.random.default_rng(0).random(30)
    whole = interval_of(values, 100, 0.9, seed=0)
    monkeypatch.setattr(intervals, "_BLOCK", block)
    # sums of 30 numbers in another order
    same = pytest.approx(whole, rel=30 * np.finfo(float).eps)
    assert interval_of(values, 100, 0.9, seed=0) == same
    assert interval_of(values, 100, 0.9, seed=1) != same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "train_eval.evaluation.bootstrap_draws is 0"),
        ({"confidence": 1}, "train_eval.evaluation.confidence is 1"),
        ({"groups": ["a", "b"]}, r"groups has shape \(2,\) for 1 values"),
    ],
)
def test_bad_input_is_named(options, message):
    options = {"draws": 10, "confidence": 0.9, "seed": 0, **options}
    with pytest.raises(InputError, match=message):
        interval_of([0.5], **options)


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


def test_users_and_seeds_are_drawn_apart():
    # two users under two seeds: 0 and 0 under the one, 0 and 4 under the other. A draw
    # has 0, 1 or 2 times the second seed and 0, 1 or 2 times the second user, half of
    # the times once: a mean of 4 x (times / 2) x (times / 2)
    values = np.array([[[0.0], [0.0]], [[0.0], [4.0]]])
    draws = 10_000
    means = bootstrap_means_over_seeds(values, draws, seed=0)[:, 0]
    chance = {0.0: 7 / 16, 1.0: 1 / 4, 2.0: 1 / 4, 4.0: 1 / 16}
    assert set(means) == set(chance)
    for mean, p in chance.items():
        error = np.sqrt(p * (1 - p) / draws)
        assert (means == mean).mean() == pytest.approx(p, abs=4 * error)


def test_one_seed_leaves_the_draws_of_users():
    values = np.random.default_rng(0).random((1, 30, 2))
    users = np.arange(30) // 3
    means = bootstrap_means_over_seeds(values, 4000, seed=1, groups=users)
    alone = bootstrap_means(values[0], 4000, seed=2, groups=users)
    # two standard deviations of 4,000 draws: each has a relative error of 1.1%
    np.testing.assert_allclose(means.std(axis=0), alone.std(axis=0), rtol=0.07)


def test_samples_of_a_user_are_drawn_together_under_all_seeds():
    # one user has both samples: a draw takes all of them, whichever seeds it takes
    values = np.array([[[0.0], [1.0]], [[0.0], [1.0]]])
    means = bootstrap_means_over_seeds(values, 50, seed=0, groups=["a", "a"])
    assert set(means[:, 0]) == {0.5}


@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_blocks_of_two_ways_give_every_draw(monkeypatch, block):
    monkeypatch.setattr(intervals, "_BLOCK", block)
    values = np.random.default_rng(0).random((3, 30, 2))
    means = bootstrap_means_over_seeds(values, 101, seed=0)
    assert means.shape == (101, 2)
    assert ((means > 0.2) & (means < 0.8)).all()
