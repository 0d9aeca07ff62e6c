"""Metrics of a ranking with one relevant item, whose rank is counted from 0."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.errors import InputError


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


def _checked(rank: ArrayLike, k: int) -> NDArray[np.integer]:
    ranks = np.asarray(rank)
    if k < 1:
        raise InputError(f"k is {k}: the cut-off of a metric is at least 1")
    if ranks.size and not ranks.min() >= 0:
        raise InputError(f"rank holds {ranks.min()}: ranks are counted from 0")
    return ranks
