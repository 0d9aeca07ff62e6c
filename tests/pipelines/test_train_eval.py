import ibis
import numpy as np
import pandas as pd
import pytest

from minirec.datasets.files import ParquetDataset
from minirec.pipelines.train_eval import create_pipeline, nodes
from minirec.pipelines.train_eval.params import ItemKnnParams
from minirec.schemas import Comparisons, Metrics, Rankings
from minirec.training import sasrec
from minirec.training.sasrec import SasrecParams

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
        *("evaluate_groups", "plot_groups", "report_run"),
    }


def test_a_trained_policy_ranks_no_baseline_again():
    part = create_pipeline().from_inputs("policy_adapter")
    assert "rank_baselines" not in {node.name for node in part.nodes}
    assert "rank_items" in {node.name for node in part.nodes}


@pytest.fixture
def chosen():
    """Six users who go round eight items; the last three interactions are held out."""
    splits = ["pretrain", "train", "train", "valid", "test"]
    rows = [
        (f"u{user}", f"i{(user + step) % 8}", step, split)
        for user in range(6)
        for step, split in enumerate(splits)
    ]
    columns = ["user_id", "item_id", "position", "split"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)


@pytest.fixture
def rank(chosen, parameters, tmp_path):
    """Return a function that ranks by some baselines, without an encoder."""
    n = chosen[chosen["split"].isin(["pretrain", "train"])].groupby("item_id").size()
    items = pd.DataFrame({"item_id": [f"i{i}" for i in range(8)]})
    items["popularity"] = items["item_id"].map(n).fillna(0).astype(int)
    past = [[f"i{(user + step) % 8}" for step in range(4)] for user in range(6)]
    asked = pd.DataFrame(
        {
            "sample_id": range(6),
            "split": "test",
            "n_tokens": 4,
            "target_item_id": [f"i{(user + 4) % 8}" for user in range(6)],
            "history_item_id": past,
            "seen_item_id": past,
        }
    )
    given = parameters["train_eval"]["evaluation"]

    def by(*baselines, interactions=chosen):
        return nodes.rank_baselines(
            asked,
            ibis.memtable(interactions),
            items,
            {"matrix": np.empty((8, 0), np.float32)},
            {},
            prior_weight=0.0,
            window=3,
            batch_size=4,
            baselines=list(baselines),
            item_knn=ItemKnnParams.model_validate(given["item_knn"]),
            sasrec=SasrecParams.model_validate(given["sasrec"]),
            top=2,
            checkpoints=tmp_path / "checkpoints",
            seed=0,
        )

    return by


@pytest.mark.parametrize("baselines", [[], ["nearest"]])
def test_no_baseline_is_an_empty_table(rank, baselines, tmp_path):
    none, some = rank(*baselines), rank("popularity")
    file = ParquetDataset(filepath=str(tmp_path / "rankings.parquet"))
    file.save(Rankings.validate(none))
    assert list(none) == list(some)
    both = pd.concat([file.load(), some], ignore_index=True)
    pd.testing.assert_frame_equal(Rankings.validate(both), some)


def test_baselines_learn_neither_validation_nor_test(rank, chosen):
    methods = ["item_knn", "sasrec"]
    found = Rankings.validate(rank(*methods))
    assert found.groupby("method").size().to_dict() == dict.fromkeys(methods, 6)
    for split, of in (("test", methods), ("valid", ["item_knn"])):
        without = chosen[chosen["split"] != split]
        again = rank(*of, interactions=without)
        own = found[found["method"].isin(of)].reset_index(drop=True)
        pd.testing.assert_frame_equal(again, own)


def test_only_what_a_baseline_learns_leaves_the_engine(chosen):
    table = ibis.memtable(chosen)
    assert len(nodes._known(None, ["popularity", "nearest"])) == 0
    assert set(nodes._known(table, ["item_knn"])["split"]) == {"pretrain", "train"}
    known = nodes._known(table, ["item_knn", "sasrec"])
    assert len(known) == 6 * 4
    assert known["user_id"].tolist() == np.repeat(range(6), 4).tolist()
    assert known["position"].tolist() == [0, 1, 2, 3] * 6


def test_a_sasrec_that_was_trained_is_not_trained_again(rank, monkeypatch, chosen):
    before = rank("sasrec")
    monkeypatch.setattr(sasrec, "_epoch", lambda *_: pytest.fail("trained again"))
    in_other_order = chosen.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(rank("sasrec", interactions=in_other_order), before)
