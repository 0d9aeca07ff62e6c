import numpy as np
import pandas as pd
import pytest

from minirec.errors import InputError
from minirec.selection import strategies


@pytest.fixture
def tables():
    # the embeddings hold sample 9 too, which was pruned, and in another order
    return {
        "candidates": pd.DataFrame(
            {"sample_id": [3, 5, 7, 8], "value": [1.0, 0.9, 0.5, 0.2]}
        ),
        "embeddings": {
            "sample_id": np.array([9, 8, 7, 5, 3]),
            "matrix": np.array(
                [[0, -1], [-1, 0], [0, 1], [0.8, 0.6], [1, 0]], np.float32
            ),
        },
    }


def test_diverse_finds_the_embedding_of_each_candidate(tables):
    # the example of test_diversity, by sample
    assert strategies.diverse(tables, 4, seed=0).tolist() == [3, 7, 8, 5]


def test_random_draws_each_candidate_once(tables):
    drawn = strategies.random(tables, 4, seed=0)
    assert sorted(drawn) == [3, 5, 7, 8]
    assert strategies.random(tables, 2, seed=0).tolist() == drawn[:2].tolist()


def test_random_depends_on_the_seed_and_not_on_the_order_of_rows(tables):
    tables["candidates"] = pd.DataFrame({"sample_id": range(50)})
    drawn = strategies.random(tables, 10, seed=1)
    tables["candidates"] = tables["candidates"].iloc[::-1]
    assert strategies.random(tables, 10, seed=1).tolist() == drawn.tolist()
    assert strategies.random(tables, 10, seed=2).tolist() != drawn.tolist()


@pytest.mark.parametrize("strategy", [strategies.diverse, strategies.random])
def test_more_picks_than_candidates(tables, strategy):
    with pytest.raises(InputError, match=r"select.size asks for 5 .* candidates \(4\)"):
        strategy(tables, 5, seed=0)


def test_a_candidate_without_embedding_is_named(tables):
    tables["embeddings"]["sample_id"][3] = 4
    with pytest.raises(
        InputError, match="embeddings lacks 1 of 4 candidates, sample 5"
    ):
        strategies.diverse(tables, 2, seed=0)
