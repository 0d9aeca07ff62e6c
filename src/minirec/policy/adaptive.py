"""How many rollouts a sample is probed by, if not all by the same number."""

from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from minirec.columns import REWARD
from minirec.errors import InputError
from minirec.policy.params import Params
from minirec.selection.stopping import settled


class AdaptiveParams(Params):
    """Rollouts in rounds, of each sample until its mean reward is known well enough.

    It is known if its interval lies beyond a limit or is narrow, see
    `minirec.selection.stopping.settled`.
    """

    first: int = Field(ge=2)
    """Rollouts of the first round."""
    step: int = Field(ge=1)
    """Rollouts of every further round."""
    too_easy: float | None
    """Mean reward above which it need not be known better; None: no limit."""
    too_hard: float | None
    """Mean reward below which it need not be known better; None: no limit."""
    width: float = Field(gt=0)
    """Of the interval of the mean reward, from end to end, that is narrow enough."""
    confidence: float = Field(gt=0, lt=1)
    """Probability that the mean reward lies in its interval."""
    prior_std: float = Field(gt=0)
    """Standard deviation of a prompt's rewards that is expected before any is known."""

    @model_validator(mode="after")
    def leave_a_range(self) -> Self:
        """Refuse limits that every mean reward is beyond."""
        easy, hard = self.too_easy, self.too_hard
        if easy is not None and hard is not None and easy < hard:
            raise InputError(
                f"score.probe.adaptive.too_easy ({easy:g}) is below "
                f"score.probe.adaptive.too_hard ({hard:g}): raise one or lower the other"
            )
        return self

    def settled(self, rewards: np.ndarray) -> np.ndarray:
        """Tell which samples (N,) need no more than these rewards (N, k)."""
        return settled(
            rewards,
            self.too_hard,
            self.too_easy,
            self.width,
            self.confidence,
            self.prior_std,
        )


def rounds(most: int, adaptive: AdaptiveParams | None) -> Iterator[range]:
    """Yield the numbers of each round's rollouts: one round if it is not adaptive."""
    if adaptive is None:
        yield range(most)
        return
    start, end = 0, adaptive.first
    while start < most:
        yield range(start, min(end, most))
        start, end = end, end + adaptive.step


def in_rounds(
    n: int,
    most: int,
    adaptive: AdaptiveParams | None,
    answer: Callable[[np.ndarray, range], pa.Table],
) -> pa.Table:
    """Let n samples be answered until each of them is settled, or has ``most`` rollouts.

    Parameters
    ----------
    n
        Samples.
    most
        Rollouts of each; if it is not ``adaptive``, all have so many.
    adaptive
        When a sample is settled.
    answer
        From the places of samples, ascending, and the numbers of rollouts to a table
        with a row of each, of one sample after the other; its ``reward`` settles. The
        places of a later round are among those of the one before.

    Returns
    -------
    Table
        All rows, of one sample after the other.
    """
    rows = np.arange(n)  # that are not settled
    earned = np.empty((n, 0))
    tables, order = [], []
    for numbers in rounds(most, adaptive):
        if adaptive is not None and numbers.start:
            left = np.flatnonzero(~adaptive.settled(earned))
            rows, earned = rows[left], earned[left]
            if not len(rows):
                break
        tables.append(answer(rows, numbers))
        order.append(rows.repeat(len(numbers)))
        new = tables[-1][REWARD].to_numpy().reshape(len(rows), -1)
        earned = np.hstack([earned, new])
    # stable: the rollouts of a row stay in their order
    return pa.concat_tables(tables).take(np.concatenate(order).argsort(kind="stable"))
