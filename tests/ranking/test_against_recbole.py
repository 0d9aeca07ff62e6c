"""HR, NDCG and MRR are those of an independent library."""

import importlib

import numpy as np
import pytest

from minirec.ranking.grounding import target_rank, top_items
from minirec.ranking.metrics import coverage, hit_ratio, ndcg, reciprocal_rank

USERS, ITEMS, K = 200, 60, 20


@pytest.fixture
def recbole(monkeypatch):
    # names that NumPy 2 no longer has; RecBole sets them when it reads a configuration
    monkeypatch.setattr(np, "float", float, raising=False)
    return importlib.import_module("recbole.evaluator.metrics")


@pytest.fixture
def scores():
    return np.random.default_rng(0).normal(size=(USERS, ITEMS))


@pytest.fixture
def targets():
    return np.random.default_rng(1).integers(ITEMS, size=USERS)


def test_metrics_are_recboles(recbole, scores, targets):
    rank = target_rank(scores, targets)
    # RecBole is given the first K places, and whether the target stands there
    found = np.argsort(-scores, axis=1)[:, :K] == targets[:, None]
    config = {"topk": [5, 10, K], "metric_decimal_place": 17}
    hit = recbole.Hit(config).metric_info(found)
    gain = recbole.NDCG(config).metric_info(found, np.ones(USERS, int))
    reciprocal = recbole.MRR(config).metric_info(found)
    for k in config["topk"]:
        assert hit_ratio(rank, k).tolist() == hit[:, k - 1].tolist()
        # one rounding of a quotient
        np.testing.assert_allclose(ndcg(rank, k), gain[:, k - 1], rtol=4e-16)
    shown = rank < K  # RecBole cuts its MRR
    assert reciprocal_rank(rank)[shown].tolist() == reciprocal[shown, K - 1].tolist()
    assert 0 < shown.sum() < USERS


def test_coverage_is_recboles(recbole, scores):
    config = {"topk": [5], "metric_decimal_place": 17}
    first = np.argsort(-scores[:3], axis=1)[:, :5]
    found = recbole.ItemCoverage(config).get_coverage(first, ITEMS)
    assert coverage(list(top_items(scores[:3], 5)), ITEMS, 5) == found
