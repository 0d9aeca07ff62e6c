"""How much a sample can teach, judged by what the proxy earns on it."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.errors import InputError
from minirec.selection.scaling import min_max


def gaussian_learnability(
    mean_reward: ArrayLike,
    mu: float | Literal["auto"] = 0.5,
    sigma: float | None = None,
) -> NDArray[np.float64]:
    """Score samples by how near their mean reward lies to ``mu``.

    ``exp(-(r - mu)^2 / (2 sigma^2))``, then min-max over the samples: a sample that
    the proxy always or never solves teaches little. Source: MiniRec
    (arXiv 2602.04278), with the constants of its published code.

    Parameters
    ----------
    mean_reward
        (N,) mean reward of each sample over its rollouts.
    mu
        The mean reward that teaches most; ``auto`` takes `auto_mu` of the rewards.
    sigma
        Width around ``mu``; None takes the population standard deviation of
        ``mean_reward``.

    Returns
    -------
    ndarray
        (N,) in [0, 1]; higher teaches more. Samples whose mean rewards are all equal
        cannot be told apart: all score 0, whatever ``sigma``.

    Raises
    ------
    InputError
        If there are no rewards, one is not finite, ``sigma`` is not positive, or
        `auto_mu` has no answer.

    Examples
    --------
    >>> gaussian_learnability([0.0, 0.5, 1.0], sigma=0.5).round(3).tolist()
    [0.0, 1.0, 0.0]
    >>> gaussian_learnability([0.0, 0.0, 0.0, 0.2, 0.4], mu="auto").round(3).tolist()
    [0.0, 0.0, 0.0, 0.738, 1.0]
    """
    rewards = finite_vector(mean_reward, "mean_reward")
    mu, width = mu_and_sigma(rewards, mu, sigma)
    if isinstance(mu, str) or not np.isfinite(mu):
        raise InputError(
            f"score.learnability.mu is {mu}: give a finite number, or auto"
        )
    if sigma is not None and not (np.isfinite(sigma) and sigma > 0):
        raise InputError(
            f"score.learnability.sigma is {sigma}: give a number above 0, or null for "
            "the standard deviation of the mean rewards"
        )
    # The standard deviation of equal numbers can be a rounding error above 0, and the
    # square of a tiny one is 0.
    if rewards.min() == rewards.max() or width**2 == 0:
        return np.zeros_like(rewards)
    return min_max(np.exp(-((rewards - mu) ** 2) / (2 * width**2)))


def mu_and_sigma(
    mean_reward: ArrayLike, mu: float | Literal["auto"], sigma: float | None
) -> tuple[float, float]:
    """Return the mu and sigma that `gaussian_learnability` takes for these.

    Parameters
    ----------
    mean_reward, mu, sigma
        As `gaussian_learnability` takes them.

    Raises
    ------
    InputError
        If there are no rewards, one is not finite, or `auto_mu` has no answer.

    Examples
    --------
    >>> mu_and_sigma([0.0, 0.4], "auto", None)
    (0.4, 0.2)
    """
    rewards = finite_vector(mean_reward, "mean_reward")
    return (
        auto_mu(rewards) if mu == "auto" else mu,
        float(rewards.std()) if sigma is None else sigma,
    )


def auto_mu(mean_reward: ArrayLike) -> float:
    """Return the mean reward of the sample that an average unit of reward comes from.

    ``sum(r^2) / sum(r)``, the contraharmonic mean of the rewards: their mean if each
    sample counts by its reward. A policy gradient learns from reward that is earned, so
    the pool's centre is taken over reward instead of over samples, most of which may
    earn nothing.

    Parameters
    ----------
    mean_reward
        (N,) at least 0: mean reward of each sample over its rollouts.

    Returns
    -------
    float
        From the mean of the rewards to the largest, in their unit: rewards twice as
        large give twice the mu.

    Raises
    ------
    InputError
        If there are no rewards, one is negative or not finite, or all are 0.

    Notes
    -----
    With the mean m and the population standard deviation s of the rewards it is
    ``m + s^2/m``, which is at least ``2 s`` whatever the pool, as an arithmetic mean is
    at least the geometric one. So a reward of 0 lies 2 s below mu or more, and
    `gaussian_learnability` gives it at most exp(-2) before the min-max. There is no such
    bound at the upper end: where the proxy solves most samples, mu comes near to what
    they earn, and it is pruning that leaves them out.

    Examples
    --------
    >>> round(auto_mu([0.0, 0.0, 0.0, 0.2, 0.4]), 3)
    0.333
    """
    rewards = finite_vector(mean_reward, "mean_reward")
    least, largest = rewards.min(), rewards.max()
    if least < 0 or largest == 0:
        found = f"of {least:.4g}" if least < 0 else "all of them 0"
        raise InputError(
            "score.learnability.mu is auto, which weighs mean rewards by themselves, and "
            f"there are rewards {found}: give a number"
        )
    # The square of a small number would be 0.
    share = rewards / largest
    return float(largest * ((share**2).sum() / share.sum()))
