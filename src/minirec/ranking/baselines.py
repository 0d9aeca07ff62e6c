"""What a recommender must beat: rankings that need no training."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minirec.ranking.grounding import ground


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
