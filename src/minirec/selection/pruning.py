"""Which samples cannot teach, whatever their value."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.columns import KEPT, NO_SPREAD, TOO_EASY, TOO_HARD
from minirec.errors import InputError


def prune_by_reward(
    mean_reward: ArrayLike,
    std_reward: ArrayLike,
    too_easy: float | None = None,
    too_hard: float | None = None,
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
        advantage over one another, so they give no gradient.

    Returns
    -------
    ndarray
        (N,) of ``kept``, ``too_easy``, ``too_hard`` or ``no_spread``: the first of
        these three that holds. A sample that lies on a limit stays, and a limit of
        None does not exist.

    Raises
    ------
    InputError
        If no sample is kept, or if a reward is not finite.

    Examples
    --------
    >>> prune_by_reward([0.95, 0.2, 0.0], [0, 0.1, 0], too_easy=0.9, min_spread=0.01)
    array(['too_easy', 'kept', 'no_spread'], dtype='<U9')
    """
    mean = finite_vector(mean_reward, "mean_reward")
    std = finite_vector(std_reward, "std_reward")
    if len(mean) != len(std):
        raise InputError(
            f"mean_reward has {len(mean)} values and std_reward {len(std)}: give one "
            "of each a sample"
        )
    never = np.zeros(len(mean), dtype=bool)
    reasons = np.select(
        [
            never if too_easy is None else mean > too_easy,
            never if too_hard is None else mean < too_hard,
            never if min_spread is None else std < min_spread,
        ],
        [TOO_EASY, TOO_HARD, NO_SPREAD],
        default=KEPT,
    )
    if not (reasons == KEPT).any():
        raise InputError(
            f"pruning leaves none of {len(mean)} samples: their mean rewards run from "
            f"{mean.min():.4g} to {mean.max():.4g} and their standard deviations from "
            f"{std.min():.4g} to {std.max():.4g}, so loosen select.prune.too_easy "
            f"({_shown(too_easy)}), select.prune.too_hard ({_shown(too_hard)}) or "
            f"select.prune.min_spread ({_shown(min_spread)})"
        )
    return reasons


def _shown(limit: float | None) -> str:
    return "null" if limit is None else f"{limit:g}"
