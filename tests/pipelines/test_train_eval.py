import numpy as np
import pandas as pd
import pytest

from minirec.pipelines.train_eval import create_pipeline, nodes
from minirec.schemas import Metrics


def evaluate(rankings, prompts, confidence=0.9):
    return nodes.evaluate_rankings(rankings, prompts, [2, 10], 200, confidence, seed=0)


@pytest.fixture
def rankings():
    """Three samples of two users; the best method always ranks the target first."""
    return pd.DataFrame(
        {
            "method": ["best"] * 3 + ["other"] * 3,
            "sample_id": [1, 2, 3] * 2,
            "rank": [0, 0, 0, 0, 2, 10],
        }
    )


@pytest.fixture
def prompts():
    return pd.DataFrame({"sample_id": [1, 2, 3], "user_id": ["ann", "ann", "bob"]})


def test_metrics_by_hand(rankings, prompts):
    metrics = evaluate(rankings, prompts)
    mean = Metrics.validate(metrics).set_index(["method", "metric"])["mean"]
    assert mean["best", "hr@2"] == mean["best", "ndcg@10"] == 1
    assert mean["other", "hr@2"] == pytest.approx(1 / 3)
    assert mean["other", "hr@10"] == pytest.approx(2 / 3)
    # ranks 0 and 2 gain 1 and 1 / log2(4); rank 10 is beyond
    assert mean["other", "ndcg@10"] == pytest.approx((1 + 0.5) / 3)


def test_users_are_counted_once(rankings, prompts):
    metrics = evaluate(rankings, prompts)
    assert set(metrics["users"]) == {2}
    assert set(metrics["samples"]) == {3}


def test_a_wider_confidence_gives_a_wider_interval(rankings, prompts):
    narrow, wide = (evaluate(rankings, prompts, c) for c in (0.2, 0.99))
    assert np.all(wide["low"] <= narrow["low"])
    assert np.all(wide["high"] >= narrow["high"])


@pytest.mark.parametrize("parameter", ["k", "bootstrap_draws", "confidence"])
def test_how_rankings_are_summed_up_touches_no_ranking(parameter):
    part = create_pipeline().from_inputs(f"params:train_eval.evaluation.{parameter}")
    assert {node.name for node in part.nodes} == {"evaluate_rankings", "plot_metrics"}
