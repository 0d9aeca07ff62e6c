import inspect
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.datasets.matrix import MatrixDataset
from minirec.errors import InputError
from minirec.selection import strategies

METHODS = Path(__file__).parents[2] / "docs" / "methods.md"
ALL = [
    name
    for name, function in inspect.getmembers(strategies, inspect.isfunction)
    if function.__module__ == strategies.__name__ and not name.startswith("_")
]
# a larger k does not add to a smaller one
NOT_NESTED = {"k_means", "strata"}


@pytest.fixture
def tables():
    # every table holds sample 9 too, which was pruned, and in another order; 20 and 21
    # are validation prompts
    return {
        "candidates": pd.DataFrame(
            {
                "sample_id": [3, 5, 7, 8],
                "mean_reward": [0.5, 0.25, 0.75, 0.125],
                "learnability": [0.7, 0.4, 0.1, 0.1],
                "representativeness": [0.3, 0.5, 0.4, 0.1],
                "value": [1.0, 0.9, 0.5, 0.2],
            }
        ),
        "prompts": pd.DataFrame(
            {
                "sample_id": [21, 20, 9, 8, 7, 5, 3],
                "split": ["valid"] * 2 + ["train"] * 5,
                "target_item_id": ["b", "b", "b", "a", "c", "b", "a"],
                "seen_item_id": [list("vwxyz"[:n]) for n in (1, 1, 5, 4, 2, 3, 2)],
            }
        ),
        "items": pd.DataFrame({"item_id": ["a", "b", "c"], "popularity": [2, 9, 4]}),
        "gradients": {
            "sample_id": np.array([20, 9, 8, 7, 5, 3, 21]),
            "matrix": np.array(
                [[2, 0], [9, 9], [0, 0], [-6, 8], [0, 1], [3, 4], [4, 0]], np.float32
            ),
        },
        "embeddings": {
            "sample_id": np.array([9, 8, 7, 5, 3]),
            "matrix": np.array(
                [[0, -1], [-1, 0], [0, 1], [0.8, 0.6], [1, 0]], np.float32
            ),
        },
    }


def embedded(rows):
    """Return tables of candidates 1, 2, ... with these embeddings."""
    ids = np.arange(1, len(rows) + 1)
    return {
        "candidates": pd.DataFrame({"sample_id": ids}),
        "embeddings": {"sample_id": ids, "matrix": np.array(rows, np.float32)},
    }


@pytest.mark.parametrize(
    ("strategy", "picks"),
    [
        # the example of test_diversity, by sample
        ("diverse", [3, 7, 8, 5]),
        # from 5: 0.2 x 0.3, 0.4 x 0.4 and 1.8 x 0.1, so 8, then 7
        ("without_learnability", [5, 8, 7, 3]),
        # from 3: 0.2 x 0.4, 1 x 0.1 and 2 x 0.1, so 8, then 7
        ("without_representativeness", [3, 8, 7, 5]),
        ("without_diversity", [3, 5, 7, 8]),
        # first of a: 3/4, of b and c: 1/2, second of a: 1/4
        ("balanced", [3, 5, 7, 8]),
        # 2, 3, 2 and 4 items
        ("longest_history", [8, 5, 3, 7]),
        # items a, b, c and a, of popularity 2, 9, 4 and 2
        ("most_popular_target", [5, 7, 3, 8]),
        ("highest_reward", [7, 3, 5, 8]),
        # 4/16, 3/16, 3/16 and 7/64
        ("reward_spread", [3, 5, 7, 8]),
        # 5, 1, 10 and 0
        ("gradient_norm", [7, 3, 5, 8]),
        # the cosine with [3, 0] is 0.6, 0, -0.6 and, of zeros, 0
        ("validation_alignment", [3, 5, 8, 7]),
        # from 8, which seed 0 draws: distances 2, 1.8 and 1, so 3, then 7
        ("k_center", [8, 3, 7, 5]),
        # 4.8, 5.6, 5.6 and 3.2, so 5; then 0.2, 1.2 and 1.8, so 8; then 0.2 and 0.4
        ("facility_location", [5, 8, 7, 3]),
    ],
)
def test_picks_worked_out_by_hand(tables, strategy, picks):
    choose = getattr(strategies, strategy)
    assert choose(tables, 4, seed=0).tolist() == picks
    assert choose(tables, 2, seed=0).tolist() == picks[:2]


def test_random_draws_each_candidate_once_by_the_seed(tables):
    tables["candidates"] = pd.DataFrame({"sample_id": range(50)})
    drawn = strategies.random(tables, 50, seed=1)
    assert sorted(drawn) == list(range(50))
    assert strategies.random(tables, 50, seed=2).tolist() != drawn.tolist()


def test_balanced_takes_as_much_of_each_target_and_draws_among_equals(tables):
    ids = np.arange(60)
    tables["prompts"] = pd.DataFrame(
        {"sample_id": ids, "target_item_id": np.where(ids < 40, "a", "b")}
    )
    # half of each target has a value; those of a are higher
    value = (ids % 2) * np.where(ids < 40, 2.0, 1.0)
    tables["candidates"] = pd.DataFrame({"sample_id": ids, "value": value})

    def picks(k, seed):
        return strategies.balanced(tables, k, seed).tolist()

    few, half, most = picks(12, 0), picks(30, 0), picks(45, 0)
    assert [sum(pick < 40 for pick in own) for own in (few, half, most)] == [8, 20, 30]
    assert sorted(half) == [i for i in ids if i % 2]
    assert most[:30] == half
    assert picks(45, 1) != most
    assert sorted(picks(30, 1)) == sorted(half)


def test_k_center_starts_anywhere(tables):
    starts = {strategies.k_center(tables, 1, seed)[0] for seed in range(50)}
    assert starts == {3, 5, 7, 8}


def test_k_means_takes_what_is_nearest_to_each_centre():
    # rows 2, 3 and 4 lie around [1, 0], which is nearest to their centre
    rows = [[-1, 0], [0.96, 0.28], [1, 0], [0.96, -0.28], [-2, 0]]
    assert strategies.k_means(embedded(rows), 2, seed=0).tolist() == [3, 1]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_k_means_fills_up_where_rows_are_equal():
    rows = [[0, 1], [0, 2], [1, 0], [1, 0], [3, 0]]
    assert strategies.k_means(embedded(rows), 2, seed=0).tolist() == [3, 1]
    assert strategies.k_means(embedded(rows), 4, seed=0).tolist() == [3, 1, 4, 2]


def test_strata_share_the_picks_from_the_smallest_on(tables):
    ids = np.arange(8)
    high = np.isin(ids, [2, 6])
    tables["candidates"] = pd.DataFrame(
        {"sample_id": ids, "representativeness": high.astype(float)}
    )
    tables["gradients"] = {"sample_id": ids, "matrix": np.ones((8, 2))}

    def of_high(k):
        return np.isin(strategies.strata(tables, k, seed=0), [2, 6]).tolist()

    assert of_high(3) == [True, False, False]
    # the two are all that this stratum has
    assert of_high(6) == [True, True, False, False, False, False]
    draws = {tuple(strategies.strata(tables, 3, seed)) for seed in range(9)}
    assert len(draws) > 1


def test_strata_weigh_the_gradient_as_much_as_representativeness(tables):
    # 0.5 + 0.5, 1 + 0.1, 0.75 + 1 and 0 + 0 lie in four strata, and two picks go to
    # the last two of these
    assert strategies.strata(tables, 2, seed=0).tolist() == [5, 7]


matrices = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(-2, 2), min_size=width, max_size=width),
        min_size=1,
        max_size=9,
    )
)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("strategy", ALL)
@settings(max_examples=15, deadline=None)
@given(rows=matrices, seed=st.integers(0, 9), data=st.data())
def test_what_all_promise(strategy, rows, seed, data):
    """K different candidates, whatever the order of rows, and the first of more."""
    choose = getattr(strategies, strategy)
    n, matrix = len(rows), np.array(rows, np.float32)
    coarse = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=n, max_size=n)
    ids = np.arange(10, 10 + n)
    columns = ("mean_reward", "learnability", "representativeness", "value")
    candidates = pd.DataFrame(
        {"sample_id": ids, **{name: data.draw(coarse) for name in columns}}
    )
    items = pd.DataFrame({"item_id": ["a", "b"], "popularity": [1, 2]})

    def told(order):
        """Return the tables with their rows in this order, and sample 1 held out."""
        prompts = pd.DataFrame(
            {
                "sample_id": [1, *ids[order]],
                "split": ["valid"] + ["train"] * n,
                "target_item_id": ["a", *np.where(ids % 2, "a", "b")[order]],
                "seen_item_id": [[], *(["a"] * (i % 3) for i in ids[order])],
            }
        )
        both = {
            "sample_id": np.array([1, *ids[order]]),
            "matrix": np.concatenate([matrix[:1], matrix[order]]),
        }
        return {
            "candidates": candidates.iloc[order],
            "prompts": prompts,
            "items": items.iloc[:: 1 if order[0] == 0 else -1],
            "gradients": both,
            "embeddings": both,
        }

    k = data.draw(st.integers(1, n))
    order = data.draw(st.permutations(range(n)))
    picks = choose(told(list(range(n))), k, seed).tolist()
    assert len(set(picks)) == k
    assert set(picks) <= set(ids)
    assert choose(told(order), k, seed).tolist() == picks
    if strategy not in NOT_NESTED:
        assert choose(told(order), n, seed).tolist()[:k] == picks


@settings(max_examples=30, deadline=None)
@given(rows=matrices)
def test_facility_location_always_takes_the_largest_gain(rows):
    n = len(rows)
    units = np.array(rows, float)
    length = np.linalg.norm(units, axis=1, keepdims=True)
    units = np.divide(units, length, out=np.zeros_like(units), where=length > 0)
    cosine = units @ units.T

    def total(chosen):
        return (1 + cosine[:, chosen].max(axis=1)).sum()

    picks = (strategies.facility_location(embedded(rows), n, seed=0) - 1).tolist()
    for done in range(1, n):
        totals = [total([*picks[:done], j]) for j in range(n) if j not in picks[:done]]
        # sums of at most 9 cosines, each known to a few roundings
        assert total(picks[: done + 1]) == pytest.approx(max(totals), abs=1e-13)


def test_facility_location_in_blocks_picks_the_same(monkeypatch):
    rows = np.random.default_rng(0).standard_normal((60, 5))
    whole = strategies.facility_location(embedded(rows), 20, seed=0)
    monkeypatch.setattr(strategies, "_BLOCK", 128)
    in_blocks = strategies.facility_location(embedded(rows), 20, seed=0)
    assert in_blocks.tolist() == whole.tolist()


@pytest.mark.parametrize("strategy", ALL)
def test_more_picks_than_candidates(tables, strategy):
    with pytest.raises(InputError, match=r"select.size is 5, .* candidates \(4\)"):
        getattr(strategies, strategy)(tables, 5, seed=0)


@pytest.mark.parametrize(
    ("strategy", "table"),
    [
        ("diverse", "embeddings"),
        ("k_center", "embeddings"),
        ("k_means", "embeddings"),
        ("facility_location", "embeddings"),
        ("gradient_norm", "gradients"),
        ("validation_alignment", "gradients"),
        ("strata", "gradients"),
        ("longest_history", "prompts"),
        ("most_popular_target", "prompts"),
    ],
)
def test_a_candidate_that_a_table_lacks_is_named(tables, strategy, table):
    ids = tables[table]["sample_id"]
    tables[table]["sample_id"] = np.where(ids == 5, 4, ids)
    with pytest.raises(InputError, match=f"{table} lacks 1 of 4 candidates, 5 among"):
        getattr(strategies, strategy)(tables, 2, seed=0)


def test_a_target_that_items_lack_is_named(tables):
    tables["items"] = tables["items"].iloc[1:]
    with pytest.raises(InputError, match="items lacks 2 of 4 targets, a among them"):
        strategies.most_popular_target(tables, 2, seed=0)


def test_alignment_needs_validation_prompts(tables):
    tables["prompts"] = tables["prompts"].iloc[2:]
    with pytest.raises(InputError, match=r"set preprocess\.pool\.valid to a number"):
        strategies.validation_alignment(tables, 2, seed=0)


def test_a_spread_needs_rewards_from_0_to_1(tables):
    tables["candidates"]["mean_reward"] += 1
    with pytest.raises(InputError, match=r"from 1\.125 to 1\.75"):
        strategies.reward_spread(tables, 2, seed=0)


@pytest.fixture(scope="module")
def on_disk(test_run):
    """The tables of a run in ``test``, two prompts of its pool as if held out."""
    data = test_run.path / "data" / "test"
    prompts = pd.read_parquet(data / "03_primary/prompts.parquet")
    candidates = pd.read_parquet(data / "05_model_input/candidates.parquet")
    kept = candidates[candidates["reason"] == "kept"]
    held_out = prompts["sample_id"].isin(kept["sample_id"].iloc[:2])
    prompts.loc[held_out, "split"] = "valid"
    features = data / "04_feature"
    return {
        "candidates": kept.iloc[2:],
        "prompts": prompts,
        "items": pd.read_parquet(data / "02_intermediate/items.parquet"),
        "gradients": MatrixDataset(
            filepath=str(features / "gradients.safetensors")
        ).load(),
        "embeddings": MatrixDataset(
            filepath=str(features / "embeddings.safetensors")
        ).load(),
    }


@pytest.mark.parametrize("strategy", ALL)
def test_each_runs_on_the_tables_of_a_project(on_disk, strategy):
    picks = getattr(strategies, strategy)(on_disk, 8, seed=42)
    assert len(set(picks)) == 8
    assert set(picks) <= set(on_disk["candidates"]["sample_id"])


def test_the_example_of_the_docs(tables):
    mine = {}
    exec(re.search(r"```python\n(.*?)```", METHODS.read_text(), re.DOTALL)[1], mine)
    # 3 and 8 have one target, so 8 comes when every target was there
    tables["candidates"].loc[3, "value"] = 0.95
    assert mine["one_per_target"](tables, 4, seed=0).tolist() == [3, 5, 7, 8]
    assert mine["discounted_rank"](np.array([0, 2]), None, None).tolist() == [1, 0.5]
    ordered = mine["from_the_middle"](np.array([1, 2, 3]), np.array([0, 9, 2]), 1, 0)
    assert ordered.tolist() == [3, 1, 2]


def test_the_embeddings_of_a_large_pool_are_never_copied_whole():
    n = 40_000
    rows = np.random.default_rng(0).normal(size=(n, 256)).astype(np.float32)
    ids = np.arange(n)
    candidates = pd.DataFrame({"sample_id": ids, "value": 1 + ids / n})
    given = {
        "candidates": candidates[ids % 5 > 0],
        "embeddings": {"sample_id": ids, "matrix": rows},
    }
    tracemalloc.start()
    strategies.diverse(given, 20, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < rows.nbytes / 2


@pytest.mark.parametrize(
    "strategy", ["diverse", "k_center", "k_means", "facility_location"]
)
def test_an_embedding_that_is_not_finite_is_named(strategy):
    given = embedded([[1, 0], [0, np.nan], [0, 1]])
    given["candidates"]["value"] = 1.0
    with pytest.raises(InputError, match="embeddings"):
        getattr(strategies, strategy)(given, 2, seed=0)
