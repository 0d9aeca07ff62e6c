import numpy as np
import pandas as pd
import pytest

from minirec.pipelines.train_eval import nodes
from minirec.pipelines.train_eval.params import EvaluationParams
from minirec.schemas import Metrics


def evaluation(**changes):
    given = {"batch_size": 2, "k": [2, 10], "bootstrap_draws": 200, "confidence": 0.9}
    return EvaluationParams.model_validate({**given, **changes})


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
    metrics = nodes.evaluate_rankings(rankings, prompts, evaluation(), seed=0)
    mean = Metrics.validate(metrics).set_index(["method", "metric"])["mean"]
    assert mean["best", "hr@2"] == mean["best", "ndcg@10"] == 1
    assert mean["other", "hr@2"] == pytest.approx(1 / 3)
    assert mean["other", "hr@10"] == pytest.approx(2 / 3)
    # ranks 0 and 2 gain 1 and 1 / log2(4); rank 10 is beyond
    assert mean["other", "ndcg@10"] == pytest.approx((1 + 0.5) / 3)


def test_users_are_counted_once(rankings, prompts):
    metrics = nodes.evaluate_rankings(rankings, prompts, evaluation(), seed=0)
    assert set(metrics["users"]) == {2}
    assert set(metrics["samples"]) == {3}


def test_a_wider_confidence_gives_a_wider_interval(rankings, prompts):
    narrow, wide = (
        nodes.evaluate_rankings(rankings, prompts, evaluation(confidence=c), seed=0)
        for c in (0.2, 0.99)
    )
    assert np.all(wide["low"] <= narrow["low"])
    assert np.all(wide["high"] >= narrow["high"])
