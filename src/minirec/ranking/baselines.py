"""What a recommender must beat: rankings that need no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.errors import InputError
from minirec.ranking.grounding import ground

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# rows of the similarity matrix that are computed before all but the best are dropped
_ROWS = 256


def popularity_scores(prior: NDArray[np.floating], n: int) -> NDArray[np.float32]:
    """Score every item by its popularity, the same for n users.

    Parameters
    ----------
    prior
        (M,) popularity of each item (`minirec.ranking.grounding.popularity_prior`).
    n
        Number of users.

    Returns
    -------
    ndarray
        (n, M), higher is more popular; one row shown n times, read-only.

    Examples
    --------
    >>> popularity_scores(np.array([0.5, 1.0]), n=2)
    array([[0.5, 1. ],
           [0.5, 1. ]], dtype=float32)
    """
    return np.broadcast_to(prior.astype(np.float32), (n, len(prior)))


def nearest_to_history_scores(
    histories: Sequence[NDArray[np.integer]],
    item_embeddings: NDArray[np.floating],
    prior: NDArray[np.floating],
    prior_weight: float,
) -> NDArray[np.float32]:
    """Score every item by its nearness to the mean of each user's history.

    The mean of the history's embeddings, at unit length, stands where a text policy's
    answer would (`minirec.ranking.grounding.ground`), with the same prior, so that a
    policy that beats it has added something.

    Parameters
    ----------
    histories
        For each of N users, the columns of the items in the history. An empty one is
        near no item: the prior alone ranks.
    item_embeddings
        (M, d) of unit length.
    prior, prior_weight
        As in `ground`.

    Returns
    -------
    ndarray
        (N, M), higher is nearer.

    Examples
    --------
    >>> history, prior = [np.array([0, 0])], np.array([0.0, 1.0])
    >>> nearest_to_history_scores(history, np.eye(2), prior, prior_weight=0.5)
    array([[1. , 0.5]], dtype=float32)
    """
    centres = np.zeros((len(histories), item_embeddings.shape[1]))
    for row, columns in enumerate(histories):
        # The sum points where the mean does.
        centres[row] = item_embeddings[columns.astype(np.int64)].sum(axis=0)
    length = np.linalg.norm(centres, axis=1, keepdims=True)
    centres /= np.where(length > 0, length, 1.0)
    return ground(centres, item_embeddings, prior, prior_weight)


def item_similarity(
    users: ArrayLike, items: ArrayLike, n_items: int, neighbours: int
) -> csr_array:
    """Find the items that were chosen by the same users, for each item.

    The cosine of two items i and j over their sets of users U: ``|Ui & Uj| /
    sqrt(|Ui| |Uj|)``. Of each item the most similar are kept. Sources: B. Sarwar, G.
    Karypis, J. Konstan, J. Riedl, "Item-based collaborative filtering recommendation
    algorithms" (2001), whose cosine is taken of choices here, not of ratings; M.
    Deshpande, G. Karypis, "Item-based top-N recommendation algorithms" (2004), section
    4.1, without its normalisation of rows.

    Parameters
    ----------
    users, items
        (I,) of each train interaction the user, as a number from 0, and the item, as a
        column of the catalogue. An interaction that comes twice counts once.
    n_items
        M.
    neighbours
        k, how many similar items are kept of each item, at least 1. Of equally similar
        ones, those in the lowest columns are.

    Returns
    -------
    csr_array
        (M, M) float32 in [0, 1], higher is more similar. Row i has at most k entries
        and none for i itself; it is empty for an item that shares no user with another.

    Raises
    ------
    InputError
        If ``users`` and ``items`` differ in length, hold a negative number, an item is
        out of range, or ``neighbours`` is below 1.

    Examples
    --------
    Item 0 has users 0 and 1, item 1 user 0, item 2 user 1 and 2:

    >>> users, items = [0, 0, 1, 1, 2], [0, 1, 0, 2, 2]
    >>> item_similarity(users, items, n_items=3, neighbours=1).toarray().round(3)
    array([[0.   , 0.707, 0.   ],
           [0.707, 0.   , 0.   ],
           [0.5  , 0.   , 0.   ]], dtype=float32)
    """
    from scipy.sparse import csr_array, vstack  # a noticeable time to import

    user, item = np.asarray(users), np.asarray(items)
    if user.shape != item.shape or user.ndim != 1:
        raise InputError(
            f"users have shape {user.shape} and items {item.shape}: give one of each "
            "an interaction"
        )
    if neighbours < 1:
        raise InputError(f"neighbours is {neighbours}: keep at least 1 of each item")
    if user.size and not (user.min() >= 0 and item.min() >= 0 and item.max() < n_items):
        raise InputError(
            f"users begin with {user.min()}, and items reach from {item.min()} to "
            f"{item.max()}: number both from 0, and items to {n_items - 1} at most"
        )
    shape = n_items, int(user.max(initial=-1)) + 1
    ones = np.ones(user.size, np.float32)
    chosen = csr_array((ones, (item, user)), shape=shape)
    chosen.data[:] = 1.0
    size = np.sqrt(np.diff(chosen.indptr))
    others = chosen.T.tocsr()
    # A block of rows at a time: all pairs that share a user may be too many to hold.
    blocks = [csr_array((0, n_items), dtype=np.float32)]
    for first in range(0, n_items, _ROWS):
        shared = (chosen[first : first + _ROWS] @ others).tocsr()
        shared.sort_indices()  # so that ties are settled by column
        columns, values, counts = [], [], [0]
        for row, (begin, end) in enumerate(
            zip(shared.indptr[:-1], shared.indptr[1:], strict=True), start=first
        ):
            column = shared.indices[begin:end]
            cosine = shared.data[begin:end] / (size[row] * size[column])
            # What is equal may differ in the last bit of float64.
            cosine = np.where(column == row, 0.0, cosine).astype(np.float32)
            best = np.argsort(-cosine, kind="stable")[:neighbours]
            best = np.sort(best[cosine[best] > 0])
            columns.append(column[best])
            values.append(cosine[best])
            counts.append(len(best))
        kept = np.concatenate(values), np.concatenate(columns), np.cumsum(counts)
        blocks.append(csr_array(kept, shape=(len(counts) - 1, n_items)))
    return vstack(blocks, format="csr")


def item_knn_scores(
    histories: Sequence[NDArray[np.integer]],
    similarity: csr_array,
    prior: NDArray[np.floating],
) -> NDArray[np.float32]:
    """Score every item by the items of each history that it is a neighbour of.

    The sum of the similarities of the history's items to it. Source: Deshpande and
    Karypis (2004), section 4.2. An item that is among the neighbours of none would
    score 0, and so would all such: they follow behind, by popularity.

    Parameters
    ----------
    histories
        For each of N users, the columns of the items in the history. An item that
        comes twice counts once; with an empty history popularity alone ranks.
    similarity
        (M, M), see `item_similarity`.
    prior
        (M,) in [0, 1], popularity (`minirec.ranking.grounding.popularity_prior`).

    Returns
    -------
    ndarray
        (N, M), at least 0, higher is nearer; of items that are no neighbours half the
        smallest similarity x prior, which is below that of any neighbour. Items already
        seen are not masked: who ranks does that.

    Examples
    --------
    >>> similarity = item_similarity([0, 0, 1, 1, 2], [0, 1, 0, 2, 2], 3, neighbours=1)
    >>> prior = np.array([1.0, 0.5, 1.0])
    >>> item_knn_scores([np.array([2, 1])], similarity, prior).round(3)
    array([[1.207, 0.125, 0.25 ]], dtype=float32)
    """
    from scipy.sparse import csr_array

    unique = [np.unique(columns).astype(np.int64) for columns in histories]
    ends = np.cumsum([0, *map(len, unique)])
    column = np.concatenate([np.empty(0, np.int64), *unique])
    held = csr_array(
        (np.ones(len(column), np.float32), column, ends),
        shape=(len(unique), similarity.shape[0]),
    )
    scores = (held @ similarity).toarray()
    least = similarity.data.min(initial=1.0) / 2
    return np.where(scores > 0, scores, (least * prior).astype(np.float32))
