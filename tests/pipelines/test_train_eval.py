import numpy as np
import pandas as pd
import pytest

from minirec.pipelines.train_eval import create_pipeline, nodes
from minirec.schemas import Comparisons, Metrics

METRICS = ["hr@2", "hr@10", "ndcg@10", "coverage@2"]


def evaluate(rankings, prompts, items, confidence=0.9):
    return nodes.evaluate_rankings(
        rankings, prompts, items, METRICS, 200, confidence, seed=0
    )


@pytest.fixture
def rankings():
    """Three samples of two users; the best method always ranks the target first."""
    return pd.DataFrame(
        {
            "method": ["best"] * 3 + ["other"] * 3,
            "sample_id": [1, 2, 3] * 2,
            "rank": [0, 0, 0, 0, 2, 10],
            "top_item_id": [["x", "y"], ["y", "z"], ["x", "z"]] + [["x", "y"]] * 3,
        }
    )


@pytest.fixture
def prompts():
    return pd.DataFrame({"sample_id": [1, 2, 3], "user_id": ["ann", "ann", "bob"]})


@pytest.fixture
def items():
    return pd.DataFrame({"item_id": ["w", "x", "y", "z"], "popularity": [0, 4, 2, 2]})


def test_metrics_by_hand(rankings, prompts, items):
    metrics, _ = evaluate(rankings, prompts, items)
    mean = Metrics.validate(metrics).set_index(["method", "metric"])["mean"]
    assert mean["best", "hr@2"] == mean["best", "ndcg@10"] == 1
    assert mean["other", "hr@2"] == pytest.approx(1 / 3)
    assert mean["other", "hr@10"] == pytest.approx(2 / 3)
    # ranks 0 and 2 gain 1 and 1 / log2(4); rank 10 is beyond
    assert mean["other", "ndcg@10"] == pytest.approx((1 + 0.5) / 3)
    assert mean["best", "coverage@2"] == 3 / 4
    assert mean["other", "coverage@2"] == 2 / 4


def test_each_two_methods_are_compared(rankings, prompts, items):
    _, comparisons = evaluate(rankings, prompts, items)
    table = Comparisons.validate(comparisons).set_index("metric")
    table = table[table["method"] == "best"]
    assert list(table.index) == METRICS[:3]  # coverage is none of a sample
    assert set(table["other"]) == {"other"}
    assert table.loc["hr@2", "difference"] == pytest.approx(2 / 3)


def test_users_are_counted_once(rankings, prompts, items):
    for table in evaluate(rankings, prompts, items):
        assert set(table["users"]) == {2}
        assert set(table["samples"]) == {3}


def test_a_wider_confidence_gives_a_wider_interval(rankings, prompts, items):
    (narrow, _), (wide, _) = (evaluate(rankings, prompts, items, c) for c in (0.2, 0.9))
    own = narrow["metric"] != "coverage@2"
    assert np.all(wide["low"][own] <= narrow["low"][own])
    assert np.all(wide["high"][own] >= narrow["high"][own])


@pytest.mark.parametrize("parameter", ["metrics", "bootstrap_draws", "confidence"])
def test_how_rankings_are_summed_up_touches_no_ranking(parameter):
    part = create_pipeline().from_inputs(f"params:train_eval.evaluation.{parameter}")
    assert {node.name for node in part.nodes} == {
        *("evaluate_rankings", "plot_metrics"),
        *("evaluate_groups", "plot_groups"),
    }


def test_a_trained_policy_ranks_no_baseline_again():
    part = create_pipeline().from_inputs("policy_adapter")
    assert "rank_baselines" not in {node.name for node in part.nodes}
    assert "rank_items" in {node.name for node in part.nodes}
