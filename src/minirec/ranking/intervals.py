"""How sure a mean over users is."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minirec.arrays import finite_vector
from minirec.errors import InputError

# users drawn at once: 8 MiB
_BLOCK = 2**20


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: ArrayLike,
    draws: int,
    confidence: float,
    seed: int,
    groups: ArrayLike | None = None,
) -> Interval:
    """Return the mean of the values with its percentile bootstrap interval.

    Each draw takes as many users as there are, with replacement, and the mean over all
    their samples; the interval holds the middle ``confidence`` of these means. Source:
    B. Efron, "Bootstrap methods: another look at the jackknife" (1979).

    Parameters
    ----------
    values
        (N,) one number a sample.
    draws
        Number of draws, at least 1.
    confidence
        Share of the draws inside the interval, between 0 and 1.
    seed
        Seed of the draws.
    groups
        (N,) the user of each sample: samples of a user are drawn together, as they
        are not independent. None takes each sample as a user of its own.

    Raises
    ------
    InputError
        If there are no values, one is not finite, ``groups`` has another length, or
        ``draws`` or ``confidence`` is out of range.

    Examples
    --------
    >>> bootstrap_mean([1, 1, 1], draws=100, confidence=0.95, seed=0)
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    samples = finite_vector(values, "values")
    if draws < 1:
        raise InputError(
            f"train_eval.evaluation.bootstrap_draws is {draws}: give at least 1"
        )
    if not 0 < confidence < 1:
        raise InputError(
            f"train_eval.evaluation.confidence is {confidence}: give a number between "
            "0 and 1, such as 0.95"
        )
    users = np.arange(len(samples)) if groups is None else np.asarray(groups)
    if users.shape != samples.shape:
        raise InputError(
            f"groups has shape {users.shape} for {len(samples)} values: give the user "
            "of every sample"
        )
    user = np.unique(users, return_inverse=True)[1]
    size = np.bincount(user)
    total = np.bincount(user, weights=samples)

    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    block = max(1, _BLOCK // len(size))
    for first in range(0, draws, block):
        part = means[first : first + block]
        drawn = rng.integers(len(size), size=(len(part), len(size)))
        part[:] = total[drawn].sum(axis=1) / size[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(samples.mean()), float(low), float(high))
