"""How much a sample can teach, judged by what the proxy earns on it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.errors import InputError
from minirec.selection.scaling import min_max


def gaussian_learnability(
    mean_reward: ArrayLike, mu: float = 0.5, sigma: float | None = None
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
        The mean reward that teaches most.
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
        If there are no rewards, one is not finite, or ``sigma`` is not positive.

    Examples
    --------
    >>> gaussian_learnability([0.0, 0.5, 1.0], sigma=0.5).round(3).tolist()
    [0.0, 1.0, 0.0]
    """
    rewards = finite_vector(mean_reward, "mean_reward")
    if not np.isfinite(mu):
        raise InputError(f"score.learnability.mu is {mu}: give a finite number")
    if sigma is not None and not (np.isfinite(sigma) and sigma > 0):
        raise InputError(
            f"score.learnability.sigma is {sigma}: give a number above 0, or null for "
            "the standard deviation of the mean rewards"
        )
    width = rewards.std() if sigma is None else sigma
    # The standard deviation of equal numbers can be a rounding error above 0, and the
    # square of a tiny one is 0.
    if rewards.min() == rewards.max() or width**2 == 0:
        return np.zeros_like(rewards)
    return min_max(np.exp(-((rewards - mu) ** 2) / (2 * width**2)))
