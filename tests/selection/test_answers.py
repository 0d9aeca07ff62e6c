import logging

import numpy as np
import pytest

from minirec.errors import InputError
from minirec.schemas import Candidates, Items, Prompts
from minirec.selection import strategies
from minirec.selection.answers import (
    made_up_tables,
    sample_ids,
    try_order,
    try_strategy,
)

OURS = [
    name
    for name, found in vars(strategies).items()
    if getattr(found, "__module__", "") == strategies.__name__
    and callable(found)
    and not name.startswith("_")
]


def first(tables, k, seed):
    return tables["candidates"]["sample_id"][:k]


def breaks(tables, k, seed):
    return tables["candidates"]["no_such_column"][:k]


def places(tables, k, seed):
    return np.argsort(-tables["candidates"]["value"].to_numpy())[:k]


def in_place(tables, k, seed):
    tables["embeddings"]["matrix"] /= 2
    return tables["candidates"]["sample_id"][:k]


def asks_ours(tables, k, seed):
    return strategies.k_center(tables, 10**6, seed)


def by_gradient(tables, k, seed):
    return strategies.gradient_norm(tables, k, seed)


def backwards(ids, mean_reward, n_stages, seed):
    return ids[::-1]


def halves(ids, mean_reward, n_stages, seed):
    return ids[::2]


def places_of(ids, mean_reward, n_stages, seed):
    return np.argsort(mean_reward)


def by_stage(ids, mean_reward, n_stages, seed):
    return ids.reshape(n_stages, -1).ravel()


STRATEGY, ORDER = (try_strategy, True), (try_order, 6)


def test_made_up_tables_are_as_those_of_a_run():
    tables = made_up_tables()
    Candidates.validate(tables["candidates"])
    Prompts.validate(tables["prompts"])
    Items.validate(tables["items"])
    assert tables["prompts"]["target_item_id"].isin(tables["items"]["item_id"]).all()


@pytest.mark.parametrize("name", OURS)
def test_each_of_our_strategies_chooses_among_made_up_candidates(name):
    tables = made_up_tables()
    chosen = getattr(strategies, name)(tables, 6, 0)
    assert len(sample_ids(chosen, tables["candidates"]["sample_id"], 6, name)) == 6


@pytest.mark.parametrize(
    ("attempt", "function"),
    [
        (STRATEGY, first),
        (STRATEGY, by_gradient),
        (ORDER, backwards),
        (ORDER, by_stage),
        ((try_order, 100), backwards),
    ],
)
def test_a_function_that_works_is_tried_in_silence(attempt, function, caplog):
    attempt, *given = attempt
    attempt(f"{__name__}.{function.__name__}", "select.strategy", *given)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("attempt", "function", "said"),
    [
        (STRATEGY, breaks, "failed: KeyError: 'no_such_column' (test_answers.py"),
        (STRATEGY, places, "which was not among those given"),
        (STRATEGY, in_place, "failed: ValueError: output array is read-only"),
        (STRATEGY, asks_ours, ": select.size is 1000000"),
        ((try_strategy, False), by_gradient, ": gradients lack"),
        (ORDER, halves, "returned an array of shape (12,)"),
        (ORDER, places_of, "which was not among those given"),
        (ORDER, first, "failed: TypeError"),
    ],
)
def test_a_function_that_fails_is_told_of_before_anything_is_scored(
    attempt, function, said, caplog
):
    caplog.set_level(logging.WARNING)
    attempt, *given = attempt
    attempt(f"{__name__}.{function.__name__}", "select.x", *given)
    (told,) = caplog.messages
    assert told.startswith(f"select.x {__name__}.{function.__name__}")
    assert said in told
    assert "tried on 24 made-up samples" in told


def test_a_path_that_leads_nowhere_is_refused():
    with pytest.raises(InputError, match=r"select\.strategy is 'no\.such'"):
        try_strategy("no.such", "select.strategy", True)
