import math

import numpy as np
import pytest

from minirec.errors import InputError
from minirec.ranking.metrics import (
    coverage,
    hit_ratio,
    metric_named,
    ndcg,
    novelty,
    reciprocal_rank,
)

METRICS = [hit_ratio, ndcg]


def test_hits_end_at_the_cut_off():
    assert hit_ratio(np.array([0, 1, 2, 9]), k=2).tolist() == [1, 1, 0, 0]


def test_ndcg_worked_out_by_hand():
    # 1 / log2(2), 1 / log2(3), 1 / log2(4), and past the cut-off
    expected = [1, 1 / math.log2(3), 0.5, 0]
    assert ndcg([0, 1, 2, 3], k=3).tolist() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_a_number_gives_a_number(metric):
    assert metric(0, k=1) == 1.0
    assert isinstance(metric(0, k=1), float)


@pytest.mark.parametrize("metric", METRICS)
def test_no_ranks_no_values(metric):
    assert metric(np.array([], dtype=int), k=10).shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("rank", "k", "message"), [([0, -1], 10, "rank holds -1"), ([0], 0, "k is 0")]
)
def test_bad_input_is_named(metric, rank, k, message):
    with pytest.raises(InputError, match=message):
        metric(rank, k)


def test_reciprocal_ranks_have_no_cut_off():
    assert reciprocal_rank([0, 3, 999]).tolist() == [1, 0.25, 0.001]
    with pytest.raises(InputError, match="rank holds -1"):
        reciprocal_rank(-1)


def test_novelty_worked_out_by_hand():
    # shares of 8 interactions: 4, 2, 1 and 1; an item without any counts as one with 1
    top = [np.array([0, 1]), np.array([3, 2, 1])]
    expected = [math.log2(8 / 4), math.log2(8 / 1)]
    assert novelty(top, [4, 2, 1, 1], k=1).tolist() == pytest.approx(expected)
    expected = [(1 + 2) / 2, (3 + 3) / 2]
    assert novelty(top, [4, 2, 1, 1], k=2).tolist() == pytest.approx(expected)
    assert novelty(top, [4, 2, 1, 0], k=2).tolist() == pytest.approx(expected)
    # a ranking may hold fewer than k items
    assert novelty(top, [4, 2, 1, 1], k=5)[0] == pytest.approx(1.5)
    # and none where there was no answer, first, last or in between
    none = np.array([], dtype=int)
    found = novelty([none, np.array([0]), none, np.array([3]), none], [4, 2, 1, 1], k=2)
    assert found.tolist() == [0, 1, 0, 3, 0]


def test_coverage_counts_an_item_once():
    top = [np.array([0, 1, 4]), np.array([1, 0, 2])]
    assert coverage(top, n_items=8, k=2) == 2 / 8
    assert coverage(top, n_items=8, k=3) == 4 / 8
    assert coverage([], n_items=8, k=3) == 0


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("hr@5", ("hr", 5)),
        ("ndcg@1000", ("ndcg", 1000)),
        ("mrr", ("mrr", None)),
        ("novelty@10", ("novelty", 10)),
        ("coverage@50", ("coverage", 50)),
    ],
)
def test_metrics_are_named_with_their_cut_off(name, metric):
    assert metric_named(name, "metrics") == metric


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ndgc@10", "did you mean ndcg@10"),
        ("mmr", "did you mean mrr"),
        ("ndcg", "did you mean ndcg@10"),
        ("hr@0", "such as ndcg@10, and mrr"),
        ("mrr@10", "did you mean mrr"),
        ("precision@5", "There are hr@k"),
    ],
)
def test_an_unknown_metric_is_refused(name, hint):
    with pytest.raises(InputError, match=f"metrics names '{name}'.*{hint}"):
        metric_named(name, "train_eval.evaluation.metrics")
