"""What strategies and orders must answer, and how those of one's own are tried early."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minirec.columns import (
    DRAW,
    HISTORY_ITEM_ID,
    ITEM_ID,
    KEPT,
    LEARNABILITY,
    MEAN_REWARD,
    N_TOKENS,
    POPULARITY,
    PROMPT,
    REASON,
    REPRESENTATIVENESS,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    STD_REWARD,
    TARGET_ITEM_ID,
    TEXT,
    TITLE,
    TRAIN,
    USER_ID,
    VALID,
    VALUE,
)
from minirec.errors import InputError
from minirec.functions import call, function_at, is_ours

# of the tables on which functions of one's own are tried; there are others beside the
# candidates, and ids are not places
MADE_UP, OTHERS, CHOSEN = 24, 4, 6
IDS = 7 + 3 * np.arange(MADE_UP + OTHERS)

logger = logging.getLogger(__name__)


def sample_ids(
    answer: Any, known: "pd.Series[int]", size: int, name: str
) -> NDArray[np.int64]:
    """Return what a function named in the parameters answered, if it can be used.

    Parameters
    ----------
    answer
        What it returned.
    known
        Ids of the samples that it was given.
    size
        How many it was to return.
    name
        The parameter and the function's path, for messages.

    Raises
    ------
    InputError
        If these are not ``size`` ids of samples that it was given, each once.
    """
    ids = np.asarray(answer)
    if ids.shape != (size,) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{name} returned an array of shape {ids.shape} and type {ids.dtype}: it "
            f"must return {size} sample ids"
        )
    if len(np.unique(ids)) != size:
        raise InputError(
            f"{name} returned {size - len(np.unique(ids))} repeated samples: it must "
            "return each sample once"
        )
    if not np.isin(ids, known).all():
        stranger = ids[np.argmin(np.isin(ids, known))]
        raise InputError(
            f"{name} returned sample {stranger}, which was not among those given: it "
            "must return ids of these alone"
        )
    return ids.astype(np.int64)


def try_strategy(path: str, parameter: str, with_gradients: bool) -> None:
    """Let a strategy of one's own choose among made-up candidates; warn if it fails.

    It is given the run's own only when they are scored, which may be hours later. No
    more than a warning, since it may look for what made-up tables do not have.

    Parameters
    ----------
    path
        Of the function; those of MiniRec are not tried.
    parameter
        That names it, for messages.
    with_gradients
        Whether the run collects any.

    Raises
    ------
    InputError
        As `function_at`.
    """
    strategy = function_at(path, parameter)
    if not is_ours(strategy):
        tables = made_up_tables(with_gradients)
        _try(strategy, f"{parameter} {path}", CHOSEN, tables, CHOSEN, 0)


def try_order(path: str, parameter: str, n_stages: int) -> None:
    """Let an order of one's own order made-up samples; warn if it fails.

    Parameters
    ----------
    path, parameter
        As of `try_strategy`.
    n_stages
        That it is asked for.

    Raises
    ------
    InputError
        As `function_at`.
    """
    order = function_at(path, parameter)
    if not is_ours(order):
        own = made_up_tables()["candidates"]
        given = (own[SAMPLE_ID].to_numpy(), own[MEAN_REWARD].to_numpy())
        name = f"{parameter} {path}"
        _try(order, name, MADE_UP, *given, min(n_stages, MADE_UP), 0)


def _try(function: Callable[..., Any], name: str, size: int, *given: Any) -> None:
    known = pd.Series(IDS[:MADE_UP])
    try:
        sample_ids(call(function, name, *given), known, size, name)
    except InputError as error:
        said = str(error)
        logger.warning(
            "%s (tried on %d made-up samples, before the run's own are scored: mend it "
            "now if it would fail for those, too)",
            # one of MiniRec's, which the function called, does not know who did
            said if said.startswith(name) else f"{name}: {said}",
            MADE_UP,
        )


def made_up_tables(with_gradients: bool = True) -> dict[str, Any]:
    """Return what a strategy is given: see `minirec.selection.strategies`."""
    rng = np.random.default_rng(0)
    n, n_all = MADE_UP, MADE_UP + OTHERS
    item_ids = np.array([f"item {i}" for i in range(6)])
    items = pd.DataFrame(
        {
            ITEM_ID: item_ids,
            TITLE: item_ids,
            TEXT: item_ids,
            POPULARITY: np.arange(6) + 1,
        }
    )
    prompts = pd.DataFrame(
        {
            SAMPLE_ID: IDS,
            SPLIT: [TRAIN] * n + [VALID] * OTHERS,
            DRAW: [*range(n), *range(OTHERS)],
            USER_ID: [f"user {i // 2}" for i in range(n_all)],
            PROMPT: "What next?",
            N_TOKENS: 3,
            TARGET_ITEM_ID: item_ids[np.arange(n_all) % 6],
        }
    )
    before = pd.Series(
        [item_ids[np.arange(row + 1, row + 4) % 6] for row in range(n_all)]
    )
    prompts = prompts.assign(**{HISTORY_ITEM_ID: before, SEEN_ITEM_ID: before})
    scores = {
        name: rng.random(n)
        for name in (MEAN_REWARD, STD_REWARD, LEARNABILITY, REPRESENTATIVENESS)
    }
    candidates = pd.DataFrame({SAMPLE_ID: IDS[:n], **scores})
    candidates[VALUE] = candidates[LEARNABILITY] + candidates[REPRESENTATIVENESS]
    candidates[REASON] = KEPT
    matrices = {}
    for name, rows in (("gradients", n_all * with_gradients), ("embeddings", n_all)):
        matrix = rng.normal(size=(rows, 8)).astype(np.float32)
        matrix.flags.writeable = False  # as the maps of a run are
        matrices[name] = {SAMPLE_ID: IDS[:rows], "matrix": matrix}
    return {"candidates": candidates, "prompts": prompts, "items": items, **matrices}
