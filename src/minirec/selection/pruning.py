"""Which samples cannot teach, whatever their value."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.columns import KEPT, NO_SPREAD, TOO_EASY, TOO_HARD
from minirec.errors import InputError

# GRPO holds rewards in float32 (TRL does). Numbers that are one number there lie within
# a spacing of it, at most this times their size, so that their standard deviation is at
# most half of that (Popoviciu). What the mean of n equal numbers leaves in float64 is
# at most n x 1.2e-16 times their size, less than the other half up to n = 2^28.
_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Quantile:
    """A limit that lies at a quantile of the pool's mean rewards.

    Parameters
    ----------
    quantile
        From 0, their least, to 1, their largest; linear between two of them.

    Raises
    ------
    InputError
        If it does not lie there.
    """

    quantile: float

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise InputError(f"quantile is {self.quantile}: give one from 0 to 1")


Limit = float | Quantile
"""A mean reward, or where it lies among those of the pool."""


def prune_by_reward(
    mean_reward: ArrayLike,
    std_reward: ArrayLike,
    too_easy: Limit | None = None,
    too_hard: Limit | None = None,
    min_spread: float | None = None,
) -> NDArray[np.str_]:
    """Say of every sample why it stays or goes.

    Parameters
    ----------
    mean_reward, std_reward
        (N,) mean and standard deviation of each sample's rewards over its rollouts.
    too_easy
        Samples with a higher mean reward go: the policy solves them already.
    too_hard
        Samples with a lower mean reward go: the policy cannot learn them yet.
    min_spread
        Samples with a lower standard deviation go: rollouts of equal reward have no
        advantage over one another, so they give no gradient. With any number, 0 too,
        those go whose rewards are equal but for rounding: a standard deviation of at
        most 2^-23 (1.2e-7) times the size of the mean, which is what float32 tells
        apart.

    Returns
    -------
    ndarray
        (N,) of ``kept``, ``too_easy``, ``too_hard`` or ``no_spread``: the first of
        these three that holds. A sample that lies on a limit stays, and a limit of
        None does not exist.

    Raises
    ------
    InputError
        If no sample is kept, if the limits leave no range, or if a reward is not
        finite.

    Examples
    --------
    >>> prune_by_reward([0.95, 0.2, 0.0], [0, 0.1, 0], too_easy=0.9, min_spread=0)
    array(['too_easy', 'kept', 'no_spread'], dtype='<U9')
    >>> prune_by_reward([0.1, 0.2, 0.3], [0.1, 0.1, 0.1], too_hard=Quantile(0.5))
    array(['too_hard', 'kept', 'kept'], dtype='<U9')
    """
    mean = finite_vector(mean_reward, "mean_reward")
    std = finite_vector(std_reward, "std_reward")
    if len(mean) != len(std):
        raise InputError(
            f"mean_reward has {len(mean)} values and std_reward {len(std)}: give one "
            "of each a sample"
        )
    easy, hard = limits(mean, too_easy, too_hard)
    never = np.zeros(len(mean), dtype=bool)
    reasons = np.select(
        [
            never if easy is None else mean > easy,
            never if hard is None else mean < hard,
            never
            if min_spread is None
            else (std < min_spread) | (std <= _ROUNDING * np.abs(mean)),
        ],
        [TOO_EASY, TOO_HARD, NO_SPREAD],
        default=KEPT,
    )
    if not (reasons == KEPT).any():
        raise InputError(
            f"pruning leaves none of {len(mean)} samples: their mean rewards run from "
            f"{mean.min():.4g} to {mean.max():.4g} and their standard deviations from "
            f"{std.min():.4g} to {std.max():.4g}, so loosen select.prune.too_easy "
            f"({shown(too_easy, easy)}), select.prune.too_hard "
            f"({shown(too_hard, hard)}) or select.prune.min_spread "
            f"({shown(min_spread, min_spread)})"
        )
    return reasons


def limits(
    mean_reward: ArrayLike, too_easy: Limit | None, too_hard: Limit | None
) -> tuple[float | None, float | None]:
    """Return the mean rewards at which the limits of a pool lie.

    Parameters
    ----------
    mean_reward
        (N,) mean reward of each sample of the pool.
    too_easy, too_hard
        As `prune_by_reward` takes them.

    Returns
    -------
    tuple
        The mean reward above which a sample is too easy and that below which it is too
        hard; None where there is no limit.

    Raises
    ------
    InputError
        If the first lies below the second, or if a reward is not finite.

    Examples
    --------
    >>> limits([0.0, 0.1, 0.2, 0.8], Quantile(1), 0.05)
    (0.8, 0.05)
    """
    mean = finite_vector(mean_reward, "mean_reward")
    easy, hard = _reward(mean, too_easy), _reward(mean, too_hard)
    if easy is not None and hard is not None and easy < hard:
        raise InputError(
            f"select.prune.too_easy ({shown(too_easy, easy)}) is below "
            f"select.prune.too_hard ({shown(too_hard, hard)}), which leaves no sample: "
            "raise one or lower the other"
        )
    return easy, hard


def shown(limit: Limit | None, reward: float | None) -> str:
    """Write a limit and the mean reward at which it lies, for messages.

    Examples
    --------
    >>> shown(Quantile(0.9), 0.14088), shown(0.1, 0.1), shown(None, None)
    ('0.1409, the quantile 0.9', '0.1', 'null')
    """
    if reward is None:
        return "null"
    if isinstance(limit, Quantile):
        return f"{reward:.4g}, the quantile {limit.quantile:g}"
    return f"{reward:g}"


def _reward(mean: NDArray[np.float64], limit: Limit | None) -> float | None:
    if isinstance(limit, Quantile):
        return float(np.quantile(mean, limit.quantile))
    return limit
