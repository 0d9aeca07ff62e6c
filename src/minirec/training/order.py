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
    n: int,
    pace: PaceParams | None,
    earned: Sequence[tuple[int, float]],
) -> Iterator[int]:
    """Draw the positions of a curriculum, stage by stage.

    Without a pace every position comes once, in order, and then those of the last
    stage again: that fills a last step, which TRL would drop, and with it what is
    hardest.

    With a pace a stage is drawn in its order, again and again, until its reward has
    risen: until its last ``window`` prompts earned ``rise`` more, on average, than the
    proxy did on the same prompts. After ``max_passes`` passes it gives way all the
    same, and the last stage takes what is left of the n draws. Source: none; a
    curriculum that is paced by the learner, as self-paced learning (Kumar et al., 2010)
    is, by the reward that MiniRec (arXiv 2602.04278) orders it by.

    Parameters
    ----------
    stages
        (N,) stage of each position, from 0, never falling.
    expected
        (N,) mean reward that the proxy earned on each; of use to a pace alone.
    n
        Number of draws.
    pace
        How a stage gives way; None: after one pass.
    earned
        What was drawn and is trained on, in that order: a position and the mean reward
        of its completions. It grows while this is iterated, and may lag behind.

    Yields
    ------
    int
        A position from 0 to N - 1.

    Examples
    --------
    >>> list(draw([0, 1, 1], [0.3, 0.2, 0.1], 4, None, []))
    [0, 1, 2, 1]
    """
    stage, reward = np.asarray(stages), np.asarray(expected, dtype=np.float64)
    last, drawn = stage[-1], 0
    for number in np.unique(stage):
        own = np.flatnonzero(stage == number).tolist()
        most = n if number == last else len(own) * (pace.max_passes if pace else 1)
        for turn in range(most):
            if drawn == n:
                return
            gain = None
            if pace and number != last:
                gain = _gain(own, reward, pace.window, earned)
            if pace and gain is not None and gain >= pace.rise:
                why = (
                    f"its last {pace.window} earned {gain:.3g} more than the proxy did"
                )
                break
            yield own[turn % len(own)]
            drawn += 1
        else:
            why = f"passed {pace.max_passes} times" if pace else ""
        if pace and number != last:
            logger.info("stage %d ends after %d prompts: %s", number, drawn, why)


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
    last = earned[-window:]
    if len(last) < window or last[0][0] < positions[0]:
        return None
    return float(np.mean([reward - expected[position] for position, reward in last]))
