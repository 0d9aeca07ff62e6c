import numpy as np
import pytest

from minirec.errors import InputError
from minirec.ranking import intervals
from minirec.ranking.intervals import bootstrap_mean


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
    assert bootstrap_mean(values, 100, 0.9, seed=0) == whole
    assert bootstrap_mean(values, 100, 0.9, seed=1) != whole


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
