"""In which order training draws the prompts of a curriculum, to the last one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from minirec.errors import InputError
from minirec.policy.params import PaceParams

logger = logging.getLogger(__name__)


def draw(
    stages: ArrayLike,
    expected: ArrayLike,
    epochs: int,
    prompts_per_step: int,
    pace: PaceParams | None,
    earned: Sequence[tuple[int, float]],
) -> Iterator[int]:
    """Draw the positions of a curriculum, stage by stage, in whole steps.

    Without a pace every position comes once an epoch, in order, and at the end those
    of the last stage again: that fills a last step, which TRL would drop, and with it
    what is hardest.

    With a pace a stage is drawn in its order, again and again, until its reward has
    risen: until its last ``window`` prompts earned ``rise`` more, on average, than the
    proxy did on the same prompts. After ``max_passes`` passes it gives way all the
    same, and the last stage takes what is left of as many draws as without a pace.
    Source: none; a curriculum that is paced by the learner, as self-paced learning
    (Kumar et al., 2010) is, by the reward that MiniRec (arXiv 2602.04278) orders it by.

    Parameters
    ----------
    stages
        (N,) stage of each position, from 0, never falling.
    expected
        (N,) mean reward that the proxy earned on each; of use to a pace alone.
    epochs
        Passes over all positions.
    prompts_per_step
        Draws a step. A step is drawn while the one before is trained on: what a
        step's prompts depend on is what the steps before that one earned, at any pace
        of the machine.
    pace
        How a stage gives way; None: after one pass.
    earned
        What was drawn and is trained on, in that order: a position and the mean reward
        of its completions. It grows while this is iterated.

    Yields
    ------
    int
        A position from 0 to N - 1, as many as fill `n_steps`.

    Examples
    --------
    >>> list(draw([0, 1, 1], [0.3, 0.2, 0.1], 1, 2, None, []))
    [0, 1, 2, 1]
    """
    stage = np.asarray(stages)
    n = n_steps(len(stage), epochs, prompts_per_step) * prompts_per_step
    if pace is None:
        last = np.flatnonzero(stage == stage[-1])
        every = np.tile(np.arange(len(stage)), epochs)
        yield from [*every.tolist(), *np.resize(last, n - len(every)).tolist()]
    else:
        yield from _paced(stage, expected, n, prompts_per_step, pace, earned)


def n_steps(n: int, epochs: int, prompts_per_step: int) -> int:
    """Return how many steps some passes over n prompts take, the last one filled."""
    return -(-n * epochs // prompts_per_step)


def _paced(
    stage: np.ndarray,
    expected: ArrayLike,
    n: int,
    prompts_per_step: int,
    pace: PaceParams,
    earned: Sequence[tuple[int, float]],
) -> Iterator[int]:
    reward = np.asarray(expected, dtype=np.float64)
    last, drawn = stage[-1], 0
    for number in np.unique(stage):
        own = np.flatnonzero(stage == number).tolist()
        most = n if number == last else len(own) * pace.max_passes
        begin = drawn
        why = f"passed {pace.max_passes} times"
        for turn in range(most):
            if drawn == n:
                return
            trained = max(0, drawn // prompts_per_step - 1) * prompts_per_step
            last_of = earned[max(0, trained - pace.window) : trained]
            gain = _gain(own, reward, pace.window, last_of)
            if number != last and gain is not None and gain >= pace.rise:
                why = (
                    f"its last {pace.window} earned {gain:.3g} more than the proxy did"
                )
                break
            yield own[turn % len(own)]
            drawn += 1
        if number != last:
            logger.info(
                "stage %d ends after %d prompts of its own: %s",
                number,
                drawn - begin,
                why,
            )


def check_pace(stages: ArrayLike, pace: PaceParams | None) -> None:
    """Refuse a window of the pace that no stage can fill.

    Raises
    ------
    InputError
        If so.
    """
    if pace is None:
        return
    most = int(np.unique(stages, return_counts=True)[1].min()) * pace.max_passes
    if pace.window > most:
        raise InputError(
            f"train_eval.train.pace.window is {pace.window}, and a stage draws {most} "
            "prompts at most: lower it or select.curriculum.n_stages, or raise "
            "max_passes"
        )


def _gain(
    positions: list[int],
    expected: np.ndarray,
    window: int,
    earned: Sequence[tuple[int, float]],
) -> float | None:
    """Return how much more a stage's last prompts earned than the proxy; None: few."""
    if len(earned) < window or earned[0][0] < positions[0]:
        return None
    return float(np.mean([reward - expected[position] for position, reward in earned]))
