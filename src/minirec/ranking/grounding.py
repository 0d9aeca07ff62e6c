"""From the embedding of what was written to a ranking of the whole catalogue."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.errors import InputError


def ground(
    text_embeddings: NDArray[np.floating],
    item_embeddings: NDArray[np.floating],
    prior: NDArray[np.floating],
    prior_weight: float,
) -> NDArray[np.float32]:
    """Score every item for every text: cosine plus ``prior_weight`` x prior.

    Parameters
    ----------
    text_embeddings
        (N, d) of unit length.
    item_embeddings
        (M, d) of unit length, from the same encoder.
    prior
        (M,) in [0, 1] (`popularity_prior`).
    prior_weight
        At least 0.

    Returns
    -------
    ndarray
        (N, M) float32 in [-1, 1 + prior_weight]; higher is nearer.

    Raises
    ------
    InputError
        If the shapes do not fit.

    Examples
    --------
    >>> text, items = np.array([[1.0, 0]]), np.array([[1.0, 0], [0, 1]])
    >>> ground(text, items, prior=np.array([0.0, 1]), prior_weight=0.5)
    array([[1. , 0.5]], dtype=float32)
    """
    if text_embeddings.shape[1:] != item_embeddings.shape[1:]:
        raise InputError(
            f"text embeddings have shape {text_embeddings.shape} and item embeddings "
            f"{item_embeddings.shape}: both must come from the same encoder_model"
        )
    if prior.shape != (len(item_embeddings),):
        raise InputError(
            f"the prior has shape {prior.shape} for {len(item_embeddings)} items: give "
            "one number an item, in the order of items"
        )
    texts, items = (m.astype(np.float32) for m in (text_embeddings, item_embeddings))
    return texts @ items.T + np.float32(prior_weight) * prior.astype(np.float32)


def popularity_prior(counts: ArrayLike) -> NDArray[np.float64]:
    """Map how often each item was chosen to [0, 1]: ``n / max n``.

    Source: none.

    Parameters
    ----------
    counts
        (M,) train interactions of each item, at least 0.

    Returns
    -------
    ndarray
        (M,) in [0, 1]; higher is more popular. All 0 if no item was ever chosen.

    Raises
    ------
    InputError
        If a count is negative or not a number.

    Examples
    --------
    >>> popularity_prior([0, 1, 4]).tolist()
    [0.0, 0.25, 1.0]
    """
    chosen = np.asarray(counts, dtype=np.float64)
    if not (chosen >= 0).all():
        raise InputError(
            "popularity in items holds a negative or missing count: count train "
            "interactions from 0"
        )
    return chosen / (chosen.max(initial=0) or 1.0)


def mask_seen(
    scores: NDArray[np.floating],
    seen: Sequence[NDArray[np.integer]],
    targets: NDArray[np.integer] | None = None,
) -> NDArray[np.floating]:
    """Return a copy of the scores with each row's seen items at -inf.

    Parameters
    ----------
    scores
        (N, M).
    seen
        For each row, the columns that the user has had. A target among them stays:
        the user chose it again.
    targets
        (N,) column of each target. None: none is known, as where a user is served.

    Examples
    --------
    >>> mask_seen(np.array([[1.0, 2, 3]]), [np.array([0, 2])], np.array([2]))
    array([[-inf,   2.,   3.]])
    """
    masked = scores.copy()
    if len(seen):
        rows = np.repeat(np.arange(len(seen)), [len(columns) for columns in seen])
        masked[rows, np.concatenate(seen).astype(np.int64)] = -np.inf
    if targets is not None:
        rows = np.arange(len(targets))
        masked[rows, targets] = scores[rows, targets]
    return masked


def target_rank(
    scores: NDArray[np.floating], targets: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Count the items that stand before each row's target.

    Ties count against the target: a policy that scores all items alike ranks it last.
    A target at -inf is not ranked at all, and stands behind all items.

    Parameters
    ----------
    scores
        (N, M); higher ranks first.
    targets
        (N,) column of each target.

    Returns
    -------
    ndarray
        (N,) from 0, the best, to M - 1; M of a target that is not ranked.

    Raises
    ------
    InputError
        If a score is NaN.

    Examples
    --------
    >>> target_rank(np.array([[0.3, 0.9, 0.3], [-np.inf] * 3]), np.array([0, 0]))
    array([2, 3])
    """
    _refuse_nan(scores)
    own = scores[np.arange(len(scores)), targets]
    return (scores >= own[:, None]).sum(axis=1) - (own > -np.inf)


def top_items(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return the columns of each row's k highest scores, best first.

    Parameters
    ----------
    scores
        (N, M); higher ranks first. Masked items, at -inf, come last.
    k
        How many; all M where there are fewer.

    Returns
    -------
    ndarray
        (N, min(k, M)); of equal scores the lowest column comes first. Where masked
        items are among them, `scores` tells which.

    Raises
    ------
    InputError
        If a score is NaN or ``k`` is below 1.

    Examples
    --------
    >>> top_items(np.array([[0.1, 0.9, 0.9, 0.5]]), k=3)
    array([[1, 2, 3]])
    """
    _refuse_nan(scores)
    if k < 1:
        raise InputError(f"k is {k}: ask for at least 1 item")
    k = min(k, scores.shape[1])
    # All that reach the k-th highest score, so that ties at the edge are settled too.
    edge = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    best = np.empty((len(scores), k), dtype=np.int64)
    for row, (own, least) in enumerate(zip(scores, edge, strict=True)):
        columns = np.flatnonzero(own >= least)
        best[row] = columns[np.argsort(-own[columns], kind="stable")[:k]]
    return best


def _refuse_nan(scores: NDArray[np.floating]) -> None:
    if np.isnan(scores).any():
        row, column = np.argwhere(np.isnan(scores))[0].tolist()
        raise InputError(
            f"the score of item {column} in row {row} is NaN: check the embeddings of "
            "items and texts"
        )
