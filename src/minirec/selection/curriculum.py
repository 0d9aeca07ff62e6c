"""In what order the chosen samples are trained on: easy first, hard last.

An order is a plain function ``f(sample_id, mean_reward, n_stages, seed) -> sample
ids``, named by dotted path in ``select.curriculum.order``; where it ends one stage and
begins the next, `stage_of` says.

All orders here start from the same shuffle: samples in ascending id, shuffled by
``random.Random(seed)``. So they depend on the seed and on which samples there are, not
on the order in which they come. Samples of equal mean reward stay as shuffled.
"""

import random

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.errors import InputError


def order_in_groups(
    sample_id: ArrayLike, mean_reward: ArrayLike, n_groups: int, seed: int
) -> NDArray[np.int64]:
    """Order samples as published: random groups, each from easy to hard.

    The shuffled samples are cut into groups (`stage_of`), and each group is sorted by
    mean reward, highest first. Source: the published code of MiniRec
    (arXiv 2602.04278); it has no order from easy to hard over all.

    Parameters
    ----------
    sample_id
        (N,) ids, each once.
    mean_reward
        (N,) mean reward of each; higher is easier.
    n_groups
        Number of groups, from 1 to N.
    seed
        Seed of the shuffle.

    Returns
    -------
    ndarray
        (N,) the sample ids in the order of training.

    Raises
    ------
    InputError
        If an id is repeated, a reward is not finite, or ``n_groups`` is not from 1
        to N.

    Examples
    --------
    >>> order_in_groups([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], n_groups=2, seed=42)
    array([3, 2, 4, 1])
    """
    ids, rewards = _shuffled(sample_id, mean_reward, seed)
    return ids[np.lexsort((-rewards, stage_of(len(ids), n_groups)))]


def order_in_stages(
    sample_id: ArrayLike, mean_reward: ArrayLike, n_stages: int, seed: int
) -> NDArray[np.int64]:
    """Order samples from easy to hard over all, shuffled within each stage.

    Samples are sorted by mean reward, highest first, and cut into stages (`stage_of`);
    within a stage they stand as shuffled. Source: none; the easy-to-hard order that
    MiniRec (arXiv 2602.04278) describes, where its code has `order_in_groups`.

    Parameters
    ----------
    sample_id
        (N,) ids, each once.
    mean_reward
        (N,) mean reward of each; higher is easier.
    n_stages
        Number of stages, from 1 to N.
    seed
        Seed of the shuffle.

    Returns
    -------
    ndarray
        (N,) the sample ids in the order of training: no sample of a stage has a higher
        mean reward than one of the stage before.

    Raises
    ------
    InputError
        If an id is repeated, a reward is not finite, or ``n_stages`` is not from 1
        to N.

    Examples
    --------
    >>> order_in_stages([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], n_stages=2, seed=42)
    array([3, 4, 2, 1])
    """
    ids, rewards = _shuffled(sample_id, mean_reward, seed)
    stage = np.empty(len(ids), dtype=np.int64)
    stage[np.argsort(-rewards, kind="stable")] = stage_of(len(ids), n_stages)
    return ids[np.argsort(stage, kind="stable")]


def order_sorted(
    sample_id: ArrayLike, mean_reward: ArrayLike, n_stages: int, seed: int
) -> NDArray[np.int64]:
    """Order samples from easy to hard, nothing left to chance but ties.

    Source: curriculum learning in its plain form (Bengio et al., ICML 2009).

    Parameters
    ----------
    sample_id
        (N,) ids, each once.
    mean_reward
        (N,) mean reward of each; higher is easier.
    n_stages
        Makes no difference to the order.
    seed
        Seed of the shuffle, by which samples of equal reward are ordered.

    Returns
    -------
    ndarray
        (N,) the sample ids, highest mean reward first.

    Raises
    ------
    InputError
        If an id is repeated, or a reward is not finite.

    Examples
    --------
    >>> order_sorted([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], n_stages=2, seed=42)
    array([4, 3, 2, 1])
    """
    ids, rewards = _shuffled(sample_id, mean_reward, seed)
    return ids[np.argsort(-rewards, kind="stable")]


def order_shuffled(
    sample_id: ArrayLike, mean_reward: ArrayLike, n_stages: int, seed: int
) -> NDArray[np.int64]:
    """Order samples by chance: training without a curriculum.

    Parameters
    ----------
    sample_id
        (N,) ids, each once.
    mean_reward
        (N,) mean reward of each; makes no difference.
    n_stages
        Makes no difference to the order.
    seed
        Seed of the shuffle.

    Returns
    -------
    ndarray
        (N,) the sample ids, shuffled.

    Raises
    ------
    InputError
        If an id is repeated, or a reward is not finite.

    Examples
    --------
    >>> order_shuffled([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], n_stages=2, seed=42)
    array([3, 2, 4, 1])
    """
    return _shuffled(sample_id, mean_reward, seed)[0]


def stage_of(n: int, n_stages: int) -> NDArray[np.int64]:
    """Return the stage (or group) of each of n positions, counted from 0.

    Every stage has ``n // n_stages`` positions; the last takes the remainder.

    Raises
    ------
    InputError
        If ``n_stages`` is not from 1 to n.

    Examples
    --------
    >>> stage_of(7, 3)
    array([0, 0, 1, 1, 2, 2, 2])
    """
    if not 1 <= n_stages <= n:
        raise InputError(
            f"select.curriculum.n_stages is {n_stages} for {n} samples: give a number "
            f"from 1 to {n}"
        )
    return np.minimum(np.arange(n) // (n // n_stages), n_stages - 1)


def _shuffled(
    sample_id: ArrayLike, mean_reward: ArrayLike, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    ids = np.asarray(sample_id)
    rewards = finite_vector(mean_reward, "mean_reward")
    unique, first = np.unique(ids, return_index=True)
    if ids.shape != rewards.shape or len(unique) != len(ids):
        raise InputError(
            f"sample_id has {ids.size} values, {len(unique)} of them different, for "
            f"{len(rewards)} of mean_reward: give each sample once"
        )
    order = first.tolist()
    random.Random(seed).shuffle(order)  # noqa: S311 (an order, not a secret)
    return ids[order].astype(np.int64), rewards[order]
