import numpy as np
import pandas as pd
import pytest

from minirec.errors import InputError
from minirec.ranking import evaluation
from minirec.ranking.evaluation import (
    comparison_table,
    group_table,
    mean_table,
    sample_values,
)
from minirec.ranking.intervals import bootstrap_mean, randomisation_test
from minirec.ranking.metrics import ndcg
from minirec.schemas import Comparisons, GroupMetrics, Metrics

HOW = {"draws": 200, "confidence": 0.9, "seed": 3}
ITEMS = pd.DataFrame({"item_id": ["a", "b", "c"], "popularity": [4, 2, 0]})
PROMPTS = pd.DataFrame(
    {
        "sample_id": [5, 1, 3, 8],
        "user_id": ["u", "v", "u", "w"],
        "target_item_id": ["a", "c", "b", "a"],
        "seen_item_id": [["b"], ["a", "b"], ["c", "a"], ["b", "c"]],
    }
)
RANKINGS = pd.DataFrame(
    {
        "method": np.repeat(["popularity", "trained", "untrained"], 4),
        "sample_id": [1, 3, 5, 8, 8, 5, 3, 1, 1, 3, 5, 8],
        "rank": [2, 1, 0, 0, 0, 0, 0, 1, 2, 2, 1, 0],
        "top_item_id": [["a"], ["b"], ["a"], ["a", "b"]] * 3,
    }
)


@pytest.fixture
def found():
    return sample_values(RANKINGS, PROMPTS, ITEMS, ["ndcg@2", "mrr", "coverage@1"])


def test_values_lie_in_the_order_of_samples_and_policies_come_first(found):
    assert found.names == [
        (method, metric)
        for method in ("trained", "untrained", "popularity")
        for metric in ("ndcg@2", "mrr")
    ]
    assert found.sample_id.tolist() == [1, 3, 5, 8]
    assert found.user.tolist() == [0, 1, 1, 2]  # v, u, u and w
    assert found.earned[:, 0].tolist() == ndcg([1, 0, 0, 0], 2).tolist()
    assert found.earned[:, 3].tolist() == [1 / 3, 1 / 3, 1 / 2, 1]
    assert found.covered == {
        (method, "coverage@1"): 2 / 3
        for method in ("trained", "untrained", "popularity")
    }


def test_means_have_the_interval_of_users(found):
    table = Metrics.validate(mean_table(found, **HOW)).set_index(["method", "metric"])
    own = bootstrap_mean(found.earned[:, 5], **HOW, groups=found.user)
    row = table.loc["popularity", "mrr"]
    # sums of four numbers in another order
    rounding = {"rel": 4 * np.finfo(float).eps}
    assert tuple(row[["mean", "low", "high"]]) == pytest.approx(tuple(own), **rounding)
    assert (row["users"], row["samples"]) == (3, 4)
    assert table.loc["trained", "coverage@1"][["low", "high"]].isna().all()


def test_comparisons_are_those_of_differences(found):
    table = Comparisons.validate(comparison_table(found, **HOW))
    assert len(table) == 2 * 3 * 2
    own = (table["metric"] == "mrr") & (table["method"] == "trained")
    pair = table[own].set_index("other")
    own = found.earned[:, 1] - found.earned[:, 5]
    mean, low, high = bootstrap_mean(own, **HOW, groups=found.user)
    row = pair.loc["popularity"]
    rounding = {"abs": 8 * np.finfo(float).eps}
    assert row["difference"] == pytest.approx(mean, **rounding)
    assert (row["low"], row["high"]) == pytest.approx((low, high), **rounding)
    p = randomisation_test(own[:, None], HOW["draws"], HOW["seed"], found.user)
    assert row["p_value"] == p[0]
    assert (table["p_holm"] >= table["p_value"]).all()
    both = table.set_index(["metric", "method", "other"]).sort_index()
    there, back = (
        both.loc[("mrr", "trained", "popularity")],
        both.loc[("mrr", "popularity", "trained")],
    )
    assert there["difference"] == -back["difference"]
    assert (there["low"], there["p_value"]) == (-back["high"], back["p_value"])
    # the least of two that `trained` meets, twice
    met = both.loc[("mrr", "trained")]
    assert met["p_holm"].min() == min(1, 2 * met["p_value"].min())


def test_groups_by_history_and_by_target(found):
    table = group_table(found, PROMPTS, ITEMS, 2, **HOW)
    GroupMetrics.validate(table)
    own = table[(table["method"] == "trained") & (table["metric"] == "mrr")]
    groups = own.set_index(["by", "least", "most"]).sort_index()
    # sample 5 has a history of one item, the others of two
    assert groups.loc[("history_length", 1, 1), "samples"] == 1
    assert groups.loc[("history_length", 2, 2), "samples"] == 3
    # targets: c with 0 interactions, b with 2, a with 4 twice
    assert groups.loc[("target_popularity", 0, 2), "mean"] == (1 / 2 + 1) / 2
    assert groups.loc[("target_popularity", 4, 4), "mean"] == 1
    assert groups.loc[("target_popularity", 4, 4), "users"] == 2


@pytest.mark.parametrize(
    ("values", "ranges"),
    [
        ([5] * 6, [(5, 5)]),
        ([5], [(5, 5)]),
        ([0] * 7 + [1, 2, 3], [(0, 0), (1, 3)]),
        (range(8), [(0, 1), (2, 3), (4, 5), (6, 7)]),
        ([1, 1, 1, 2, 3, 4, 5, 6], [(1, 1), (2, 2), (3, 4), (5, 6)]),
    ],
)
def test_equal_values_stay_in_one_group(values, ranges):
    assert evaluation._ranges(np.array(values), 4) == ranges


def test_methods_that_rank_other_samples_are_refused():
    other = RANKINGS.assign(sample_id=RANKINGS["sample_id"].replace({8: 9}))
    mixed = pd.concat([RANKINGS.head(8), other.tail(4)])
    with pytest.raises(InputError, match="untrained and trained rank different"):
        sample_values(mixed, PROMPTS, ITEMS, ["mrr"])


def test_an_unknown_metric_is_named():
    with pytest.raises(InputError, match=r"evaluation.metrics names 'map@5'"):
        sample_values(RANKINGS, PROMPTS, ITEMS, ["map@5"])
