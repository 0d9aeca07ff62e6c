import numpy as np
import pandas as pd
import pytest

from minirec.errors import InputError
from minirec.ranking import evaluation
from minirec.ranking.evaluation import (
    arm_comparisons,
    arm_table,
    comparison_table,
    group_table,
    mean_table,
    sample_values,
    seed_values,
)
from minirec.ranking.intervals import bootstrap_means, interval, randomisation_test
from minirec.ranking.metrics import ndcg
from minirec.schemas import (
    Comparisons,
    ExperimentComparisons,
    ExperimentMetrics,
    GroupMetrics,
    Metrics,
)

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


def interval_of(values, users):
    means = bootstrap_means(values[:, None], HOW["draws"], HOW["seed"], users)
    return interval(means[:, 0], HOW["confidence"])


def test_means_have_the_interval_of_users(found):
    table = Metrics.validate(mean_table(found, **HOW)).set_index(["method", "metric"])
    own = found.earned[:, 5]
    row = table.loc["popularity", "mrr"]
    # sums of four numbers in another order
    rounding = {"rel": 4 * np.finfo(float).eps}
    assert tuple(row[["mean", "low", "high"]]) == pytest.approx(
        (own.mean(), *interval_of(own, found.user)), **rounding
    )
    assert (row["users"], row["samples"]) == (3, 4)
    assert table.loc["trained", "coverage@1"][["low", "high"]].isna().all()


def test_comparisons_are_those_of_differences(found):
    table = Comparisons.validate(comparison_table(found, **HOW))
    assert len(table) == 2 * 3 * 2
    own = (table["metric"] == "mrr") & (table["method"] == "trained")
    pair = table[own].set_index("other")
    own = found.earned[:, 1] - found.earned[:, 5]
    low, high = interval_of(own, found.user)
    row = pair.loc["popularity"]
    rounding = {"abs": 8 * np.finfo(float).eps}
    assert row["difference"] == pytest.approx(own.mean(), **rounding)
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


# two arms under two seeds, on the samples 1 and 3 of two users
ARMS = pd.DataFrame(
    {
        "arm": ["good"] * 4 + ["bad"] * 4,
        "seed": [1, 1, 2, 2] * 2,
        "sample_id": [1, 3] * 4,
        "rank": [0, 0, 0, 1, 2, 2, 2, 0],
    }
)


def test_what_arms_earned_under_each_seed():
    found = seed_values(ARMS, PROMPTS, ITEMS, ["hr@1", "novelty@1", "mrr"])
    assert found.names == [
        (arm, metric) for arm in ("bad", "good") for metric in ("hr@1", "mrr")
    ]
    assert found.user.tolist() == [0, 1]  # v and u
    assert found.earned.shape == (2, 2, 4)
    assert found.earned[:, :, 3].tolist() == [[1, 1], [1, 1 / 2]]  # mrr of the good
    assert found.earned[:, :, 0].tolist() == [[0, 0], [0, 1]]  # hits of the bad


def test_arms_have_the_mean_over_seeds_and_samples():
    found = seed_values(ARMS, PROMPTS, ITEMS, ["hr@1"])
    table = ExperimentMetrics.validate(arm_table(found, **HOW)).set_index("arm")
    assert table["mean"].to_dict() == {"bad": 1 / 4, "good": 3 / 4}
    assert (table["low"] <= table["mean"]).all()
    assert (table["mean"] <= table["high"]).all()
    assert table.iloc[0][["seeds", "users", "samples"]].tolist() == [2, 2, 2]


def test_seeds_of_other_samples_are_refused():
    with pytest.raises(InputError, match="seeds have different arms or samples"):
        seed_values(ARMS.iloc[[0, 1, 2, 4, 5, 6]], PROMPTS, ITEMS, ["hr@1"])


def many(better_under):
    """Sixty users, each of whom the arm `new` serves better, under some of three seeds."""
    n = 60
    rows = [
        pd.DataFrame(
            {
                "arm": arm,
                "seed": seed,
                "sample_id": np.arange(n),
                "rank": 0 if arm == "new" and seed in better_under else 1,
            }
        )
        for arm in ("new", "old", "third")
        for seed in (1, 2, 3)
    ]
    prompts = pd.DataFrame({"sample_id": np.arange(n), "user_id": np.arange(n)})
    found = seed_values(
        pd.concat(rows), prompts.astype({"user_id": str}), ITEMS, ["hr@1"]
    )
    table = arm_comparisons(found, draws=500, confidence=0.95, seed=0)
    return ExperimentComparisons.validate(table).set_index(["arm", "other"])


def test_an_arm_is_better_if_users_and_seeds_both_say_so():
    table = many(better_under={1, 2, 3})
    row = table.loc["new", "old"]
    assert (row["difference"], row["low"], row["high"]) == (1, 1, 1)
    # none of 500 random choices of 60 signs comes near; two others are allowed for
    assert row["p_value"] == pytest.approx(1 / 501)
    assert row["p_holm"] == pytest.approx(2 / 501)
    assert row["verdict"] == "better"
    assert table.loc[("old", "new"), "verdict"] == "worse"
    assert table.loc[("old", "third"), "verdict"] == "open"


def test_one_lucky_seed_of_three_is_open_though_all_users_gain():
    row = many(better_under={2}).loc["new", "old"]
    # a draw of three seeds misses that one with a chance of 8/27
    assert row["low"] == 0
    assert row["difference"] == pytest.approx(1 / 3)
    assert row["p_holm"] < 0.05
    assert row["verdict"] == "open"
