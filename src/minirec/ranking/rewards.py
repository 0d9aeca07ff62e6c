"""Rewards: what a completion earns for where it placed the true next item.

A reward is a plain function ``f(ranks, scores, targets) -> float array``, named by
dotted path in ``ranking.reward``, alone or with others and weights. It gets the targets'
ranks (N,) counted from 0, the scores (N, M) of all items with masked ones at -inf, and
the targets' columns (N,). One that has a parameter ``items`` gets the table of that name,
too, whose row i is column i of the scores. Higher is better.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minirec.errors import InputError
from minirec.functions import call, function_at
from minirec.ranking.metrics import ndcg

Reward = Callable[..., NDArray[np.floating]]

NDCG_WEIGHT = 0.95
NDCG_CUTOFF = 1000
PROBABILITY_WEIGHT = 0.05
TEMPERATURE = 0.02


def ndcg_and_probability(
    ranks: NDArray[np.integer],
    scores: NDArray[np.floating],
    targets: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Reward the rank of the target and, a little, its softmax probability.

    ``0.95 NDCG@1000 + 0.05 softmax(scores / 0.02)[target]``. The second term tells
    apart completions of equal rank, so that groups of them still have an advantage.
    Source: R2ec, the recommender that MiniRec (arXiv 2602.04278) trains, with its
    weights and temperature.

    Parameters
    ----------
    ranks
        (N,) rank of each target, 0 is best.
    scores
        (N, M) score of every item; masked items at -inf. M may be below 1000.
    targets
        (N,) column of each target.

    Returns
    -------
    ndarray
        (N,) in [0, 1]; higher is better.

    Raises
    ------
    InputError
        If a score is NaN, or a row has no finite score.

    Examples
    --------
    >>> scores = np.array([[0.5, 0.5, -np.inf]])
    >>> ndcg_and_probability(np.array([1]), scores, np.array([0])).round(4).tolist()
    [0.6244]
    """
    highest = scores.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        row = int(np.argmin(np.isfinite(highest[:, 0])))
        raise InputError(
            f"the scores of row {row} have no highest ({highest[row, 0]}): give every "
            "item a number, and mask fewer than all"
        )
    odds = np.exp((scores.astype(np.float64) - highest) / TEMPERATURE)
    probability = odds[np.arange(len(odds)), targets] / odds.sum(axis=1)
    return NDCG_WEIGHT * ndcg(ranks, NDCG_CUTOFF) + PROBABILITY_WEIGHT * probability


def slate_ndcg(
    ranks: NDArray[np.integer],
    scores: NDArray[np.floating],
    targets: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Reward the target's place among the items that were written; elsewhere it is 0.

    ``1 / log2(rank + 2)``, the NDCG of a slate, where the target's score is above 0,
    as a policy of item tokens scores what it wrote: of one item, 1 for a hit.

    Parameters
    ----------
    ranks
        (N,) rank of each target, 0 is best.
    scores
        (N, M) score of every item; masked items at -inf.
    targets
        (N,) column of each target.

    Returns
    -------
    ndarray
        (N,) in [0, 1]; higher is better.

    Examples
    --------
    >>> written = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])  # items 0, 1 and 1, 2
    >>> slate_ndcg(np.array([1, 2]), written, np.array([1, 0])).round(4).tolist()
    [0.6309, 0.0]
    """
    written = scores[np.arange(len(scores)), targets] > 0
    return np.where(written, ndcg(ranks, max(1, scores.shape[1])), 0.0)


def reads_items(reward: Callable[..., Any]) -> bool:
    """Tell whether a reward has a parameter ``items`` behind the three of any."""
    try:
        return "items" in list(signature(reward).parameters)[3:]
    except (TypeError, ValueError):  # as of some that are not written in Python
        return False


def weighted_sum(
    rewards: Sequence[tuple[str, float]], items: pd.DataFrame | None
) -> Reward:
    """Return the reward that several make together: the sum of weight x reward.

    Parameters
    ----------
    rewards
        Dotted paths and weights, as ``ranking.reward`` gives them.
    items
        Table ``items``, for those that read it; None if none does.

    Returns
    -------
    callable
        ``f(ranks, scores, targets)``: of one reward of weight 1 that does not read
        items the function itself.

    Raises
    ------
    InputError
        If a path leads to no function; when called, if one of several functions fails
        or does not return one number a completion.

    Examples
    --------
    >>> path = "minirec.ranking.rewards.ndcg_and_probability"
    >>> together = weighted_sum([(path, 0.5), (path, 1.5)], None)
    >>> scores = np.array([[0.5, 0.5, -np.inf]])
    >>> together(np.array([1]), scores, np.array([0])).round(4).tolist()
    [1.2488]
    """
    functions = [_reward_at(path, items) for path, _ in rewards]
    weights = [weight for _, weight in rewards]
    if weights == [1.0]:
        return functions[0]

    def together(
        ranks: NDArray[np.integer],
        scores: NDArray[np.floating],
        targets: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        total = np.zeros(len(ranks))
        for (path, weight), function in zip(rewards, functions, strict=True):
            said = call(function, f"ranking.reward ({path})", ranks, scores, targets)
            earned = np.asarray(said, dtype=np.float64)
            if earned.shape != total.shape:
                raise InputError(
                    f"ranking.reward ({path}) returned an array of shape "
                    f"{earned.shape} for {len(ranks)} completions: return one number "
                    "for each"
                )
            total += weight * earned
        return total

    together.__module__, together.__qualname__ = "", " + ".join(p for p, _ in rewards)
    return together


def _reward_at(path: str, items: pd.DataFrame | None) -> Reward:
    function = function_at(path, "ranking.reward")
    if not reads_items(function):
        return function
    if items is None:
        raise InputError(f"ranking.reward ({path}) reads items, and none are given")

    @wraps(function)
    def reward(
        ranks: NDArray[np.integer],
        scores: NDArray[np.floating],
        targets: NDArray[np.integer],
    ) -> NDArray[np.floating]:
        return function(ranks, scores, targets, items=items)

    return reward
