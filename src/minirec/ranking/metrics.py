"""Metrics of a ranking with one relevant item, whose rank is counted from 0."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.errors import InputError

HR, NDCG, MRR, NOVELTY, COVERAGE = "hr", "ndcg", "mrr", "novelty", "coverage"

# how well the target ranks: higher is better
OF_RANK = (HR, NDCG, MRR)


class Metric(NamedTuple):
    """A metric as parameters name it, such as ``ndcg@10``."""

    kind: str
    """`HR`, `NDCG`, `MRR`, `NOVELTY` or `COVERAGE`."""
    k: int | None
    """The cut-off; None for `MRR`, which has none."""


def metric_named(name: str, parameter: str) -> Metric:
    """Return the metric that a name means.

    Parameters
    ----------
    name
        ``hr@k``, ``ndcg@k``, ``novelty@k`` or ``coverage@k`` with a cut-off k of at
        least 1, or ``mrr``.
    parameter
        Full path of the parameter that names it, for messages.

    Raises
    ------
    InputError
        If there is no such metric.

    Examples
    --------
    >>> metric_named("ndcg@10", "train_eval.evaluation.metrics")
    Metric(kind='ndcg', k=10)
    """
    kind, _, k = name.partition("@")
    if name == MRR:
        return Metric(MRR, None)
    if kind in (HR, NDCG, NOVELTY, COVERAGE) and k.isdecimal() and int(k) >= 1:
        return Metric(kind, int(k))
    near = get_close_matches(kind, (HR, NDCG, MRR, NOVELTY, COVERAGE), 1)
    meant = near[0] if near and near[0] == MRR else f"{near[0]}@10" if near else ""
    raise InputError(
        f"{parameter} names {name!r}, which is no metric: "
        + (f"did you mean {meant}? " if meant else "")
        + "There are hr@k, ndcg@k, novelty@k and coverage@k, such as ndcg@10, and mrr"
    )


def hit_ratio(rank: ArrayLike, k: int) -> np.float64 | NDArray[np.float64]:
    """Say whether the relevant item is among the first k: ``1 if rank < k else 0``.

    Parameters
    ----------
    rank
        Rank of the relevant item, 0 is best; a number or an array.
    k
        Cut-off, at least 1.

    Returns
    -------
    float or ndarray
        In the shape of ``rank``: 0 or 1, higher is better.

    Raises
    ------
    InputError
        If a rank is negative or ``k`` is below 1.

    Examples
    --------
    >>> hit_ratio([0, 9, 10], k=10)
    array([1., 1., 0.])
    """
    ranks = _checked(rank, k)
    return (ranks < k).astype(np.float64)[()]


def ndcg(rank: ArrayLike, k: int) -> np.float64 | NDArray[np.float64]:
    """Discount a hit by its rank: ``1 / log2(rank + 2) if rank < k else 0``.

    The normalised discounted cumulative gain at k: with one relevant item, the ideal
    ranking has it first and gains 1.

    Parameters
    ----------
    rank
        Rank of the relevant item, 0 is best; a number or an array.
    k
        Cut-off, at least 1.

    Returns
    -------
    float or ndarray
        In the shape of ``rank``: in [0, 1], higher is better.

    Raises
    ------
    InputError
        If a rank is negative or ``k`` is below 1.

    Examples
    --------
    >>> ndcg([0, 2, 10], k=10)
    array([1. , 0.5, 0. ])
    """
    ranks = _checked(rank, k)
    return np.where(ranks < k, 1 / np.log2(ranks + 2.0), 0.0)[()]


def reciprocal_rank(rank: ArrayLike) -> np.float64 | NDArray[np.float64]:
    """Return ``1 / (rank + 1)``, whose mean over users is the MRR; without a cut-off.

    Parameters
    ----------
    rank
        Rank of the relevant item, 0 is best; a number or an array.

    Returns
    -------
    float or ndarray
        In the shape of ``rank``: in (0, 1], higher is better.

    Raises
    ------
    InputError
        If a rank is negative.

    Examples
    --------
    >>> reciprocal_rank([0, 1, 3])
    array([1.  , 0.5 , 0.25])
    """
    return (1 / (_checked(rank, 1) + 1.0))[()]


def novelty(
    top: Sequence[NDArray[np.integer]], popularity: ArrayLike, k: int
) -> NDArray[np.float64]:
    """Say how seldom the first k items are chosen: their mean of ``-log2 p``, in bits.

    ``p`` is an item's share of all train interactions, among which an item without any
    counts as one. Source: the self-information of T. Zhou et al.,
    "Solving the apparent diversity-accuracy dilemma of recommender systems" (2010).

    Parameters
    ----------
    top
        For each of N users, the columns of the items ranked first, best first.
    popularity
        (M,) train interactions of each item.
    k
        Cut-off, at least 1.

    Returns
    -------
    ndarray
        (N,), at least 0; higher is more novel, which need not be better. 0 for a user
        without items.

    Raises
    ------
    InputError
        If ``k`` is below 1.

    Examples
    --------
    >>> novelty([np.array([0, 1]), np.array([1, 0])], popularity=[3, 1], k=1).round(3)
    array([0.415, 2.   ])
    """
    _checked([], k)
    chosen = np.maximum(np.asarray(popularity, dtype=np.float64), 1)
    bits = np.log2(chosen.sum()) - np.log2(chosen)
    shown = [columns[:k] for columns in top]
    sizes = np.array([len(columns) for columns in shown])
    user = np.arange(len(shown)).repeat(sizes)
    columns = np.concatenate(shown).astype(np.int64)  # float64 of empty ones alone
    sums = np.bincount(user, weights=bits[columns], minlength=len(shown))
    return sums / np.maximum(sizes, 1)


def coverage(top: Sequence[NDArray[np.integer]], n_items: int, k: int) -> float:
    """Return the share of the catalogue that stands among anybody's first k items.

    It grows with the number of users: compare only what ranks for the same ones.

    Parameters
    ----------
    top
        For each of N users, the columns of the items ranked first, best first.
    n_items
        Size of the catalogue, M.
    k
        Cut-off, at least 1.

    Returns
    -------
    float
        In [0, 1], higher covers more.

    Raises
    ------
    InputError
        If ``k`` is below 1.

    Examples
    --------
    >>> coverage([np.array([0, 1]), np.array([0, 2])], n_items=4, k=2)
    0.75
    """
    _checked([], k)
    shown = [columns[:k] for columns in top]
    return len(np.unique(np.concatenate(shown))) / n_items if shown else 0.0


def _checked(rank: ArrayLike, k: int) -> NDArray[np.integer]:
    ranks = np.asarray(rank)
    if k < 1:
        raise InputError(f"k is {k}: the cut-off of a metric is at least 1")
    if ranks.size and not ranks.min() >= 0:
        raise InputError(f"rank holds {ranks.min()}: ranks are counted from 0")
    return ranks
