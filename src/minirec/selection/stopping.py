"""When a sample's mean reward is known well enough."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from minirec.errors import InputError


def settled(
    rewards: ArrayLike,
    lower: float | None,
    upper: float | None,
    width: float,
    confidence: float,
    prior_std: float,
) -> NDArray[np.bool_]:
    """Tell which samples need no further rollouts.

    A sample is settled if the interval of its mean reward lies below ``lower``, lies
    above ``upper``, or is at most ``width`` wide. With k rewards r of mean m and the
    quantile t of Student's distribution of k degrees of freedom, it is

    - variance = (prior_std^2 + sum((r - m)^2)) / k,
    - interval = m -+ t((1 + confidence) / 2) sqrt(variance / k).

    The prior standard deviation weighs as much as one rollout, so that rewards which
    happen to be equal are no certainty. Source: the posterior of a normal mean with a
    flat prior, and a scaled inverse chi-squared prior of one degree of freedom on the
    variance (Gelman et al., Bayesian Data Analysis, 3rd edition, sections 3.2 and 3.3).

    Parameters
    ----------
    rewards
        (N, k) rewards of the first k rollouts of each sample, k at least 1.
    lower, upper
        Limits of the mean reward; None: no such limit.
    width
        Of the interval, from end to end; above 0.
    confidence
        Probability that the mean lies in the interval, between 0 and 1.
    prior_std
        Expected standard deviation of a sample's rewards; above 0.

    Returns
    -------
    ndarray
        (N,) True where settled. It depends on the sample's own rewards alone.

    Raises
    ------
    InputError
        If ``rewards`` is no such table or holds a value that is not finite, or if
        another argument is out of its range.

    Examples
    --------
    >>> rewards = [[0.0, 0.01], [0.3, 0.7]]
    >>> settled(rewards, 0.1, 0.5, 0.1, confidence=0.8, prior_std=0.05).tolist()
    [True, False]
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or not rewards.shape[1] or not np.isfinite(rewards).all():
        raise InputError(
            f"rewards of shape {rewards.shape} cannot be judged: give one row a "
            "sample of one finite number a rollout, and at least one rollout"
        )
    if not (0 < confidence < 1 and width > 0 and prior_std > 0):
        raise InputError(
            f"confidence is {confidence}, width {width} and prior_std {prior_std}: give "
            "a confidence between 0 and 1, and the others above 0"
        )
    k = rewards.shape[1]
    mean = rewards.mean(axis=1)
    squares = ((rewards - mean[:, None]) ** 2).sum(axis=1)
    half = stdtrit(k, (1 + confidence) / 2) * np.sqrt(prior_std**2 + squares) / k
    known = 2 * half <= width
    if lower is not None:
        known |= mean + half < lower
    if upper is not None:
        known |= mean - half > upper
    return known
