"""What completions earn: grounded, ranked, and rewarded by a plain function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from minirec.columns import (
    ITEM_ID,
    NOT_FINITE,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    TARGET_ITEM_ID,
)
from minirec.errors import InputError
from minirec.functions import where
from minirec.ranking.grounding import mask_seen, target_rank
from minirec.ranking.rewards import reads_items

if TYPE_CHECKING:
    from minirec.policy.head import HeadPolicy
    from minirec.policy.text import TextReader


class Written(NamedTuple):
    """N completions; of those of another trainer, the texts alone are known."""

    texts: Sequence[str]
    tokens: Sequence[Sequence[int]] = ()
    prompts: Sequence[str] = ()
    """What each completion answers, rendered."""


class Grounded(NamedTuple):
    """What N completions mean: scores (N, M), and why there is no answer, or None."""

    scores: np.ndarray
    failure: list[str | None]


class Outcome(NamedTuple):
    """Of N completions: rank of the target, reward, and why there is no answer."""

    rank: np.ndarray
    """(N,), 0 is best; without an answer the number of items, which is after all."""
    reward: np.ndarray
    """(N,), 0 without an answer."""
    failure: list[str | None]
    """N times None, or `EMPTY`, `UNPARSABLE` or `NOT_FINITE`."""


class Tasks:
    """The tasks of a table ``prompts``, as column numbers of the catalogue.

    Parameters
    ----------
    prompts
        Table ``prompts``.
    items
        Table ``items``; row i is item i of every score matrix.
    """

    def __init__(self, prompts: pd.DataFrame, items: pd.DataFrame) -> None:
        column = pd.Index(items[ITEM_ID])
        target = column.get_indexer(pd.Index(prompts[TARGET_ITEM_ID]))
        seen = [column.get_indexer(list(ids)) for ids in prompts[SEEN_ITEM_ID]]
        if (target < 0).any() or any((ids < 0).any() for ids in seen):
            raise InputError(
                "prompts names items that items does not have: they were made from "
                "different data; run `kedro run --pipelines preprocess`"
            )
        self._row = {s: row for row, s in enumerate(prompts[SAMPLE_ID])}
        self._target = target
        self._seen = seen

    def targets(self, sample_ids: Iterable[int]) -> np.ndarray:
        """Return the samples' targets (N,)."""
        return self._target[[self._row[int(sample_id)] for sample_id in sample_ids]]

    def masked(
        self, sample_ids: Iterable[int], scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores (N, M) with seen items at -inf, and the targets (N,)."""
        ids = list(sample_ids)
        seen = [self._seen[self._row[int(sample_id)]] for sample_id in ids]
        targets = self.targets(ids)
        return mask_seen(scores, seen, targets), targets


def reward_completions(
    policy: TextReader | HeadPolicy,
    tasks: Tasks,
    reward: Callable[..., np.ndarray],
    sample_ids: Sequence[int] | np.ndarray,
    written: Written,
    finite: Sequence[bool] | None = None,
) -> Outcome:
    """Ground N completions, rank each one's target, and reward the rank.

    A completion without an answer earns 0: the policy says that there is none
    (`Grounded`), or it gave a token no finite probability.

    Parameters
    ----------
    policy
        Who wrote them, or another that reads answers of the same form.
    tasks
        Their targets and seen items.
    reward
        ``f(ranks, scores, targets)``, see `minirec.ranking.rewards`.
    sample_ids
        N.
    written
        N completions.
    finite
        N times whether all logits were finite. None: they were.

    Raises
    ------
    InputError
        As `checked`.
    """
    grounded, failures = _with_broken(policy.ground(written), finite)
    scores, targets = tasks.masked(sample_ids, grounded)
    rank = target_rank(scores, targets)
    earned = checked(reward, rank, scores, targets, sample_ids)
    failed = np.array([why is not None for why in failures], bool)
    return Outcome(
        np.where(failed, scores.shape[1], rank), np.where(failed, 0.0, earned), failures
    )


def answered_scores(grounded: Grounded, finite: Sequence[bool]) -> np.ndarray:
    """Return the scores (N, M), all -inf where there is no answer.

    Parameters
    ----------
    grounded
        N completions.
    finite
        As of `reward_completions`.
    """
    scores, failures = _with_broken(grounded, finite)
    scores[[why is not None for why in failures]] = -np.inf
    return scores


def _with_broken(grounded: Grounded, finite: Sequence[bool] | None) -> Grounded:
    """Count completions that a logit broke off, too, among those without an answer."""
    scores, failures = grounded
    if finite is not None:
        pairs = zip(failures, finite, strict=True)
        failures = [why if whole else NOT_FINITE for why, whole in pairs]
    return Grounded(scores, failures)


def checked(
    reward: Callable[..., np.ndarray],
    rank: np.ndarray,
    scores: np.ndarray,
    targets: np.ndarray,
    sample_ids: Sequence[Any] | np.ndarray,
) -> np.ndarray:
    """Return what N completions earn, float64, if it can be used.

    Parameters
    ----------
    reward
        ``f(ranks, scores, targets)``, see `minirec.ranking.rewards`.
    rank, scores, targets
        Its arguments.
    sample_ids
        N, for what is said of an error.

    Raises
    ------
    InputError
        If it fails, or returns another number of values, or one that is not finite;
        the message names the first sample.
    """
    name = f"{reward.__module__}.{reward.__qualname__}".removeprefix(".")
    name = f"ranking.reward ({name})"
    try:
        earned = np.asarray(reward(rank, scores, targets), dtype=np.float64)
    except InputError:
        raise
    except Exception as error:  # whatever a function of the user's own may raise
        which = _failing(reward, rank, scores, targets, np.asarray(sample_ids))
        given = "ranks, scores, targets" + ", items" * reads_items(reward)
        raise InputError(
            f"{name}, called with ({given}), failed for {which}: "
            f"{type(error).__name__}: {error}{where(error, reward)}"
        ) from error
    if earned.shape != rank.shape:
        raise InputError(
            f"{name} returned an array of shape {earned.shape} for {len(rank)} "
            "completions: return one number for each"
        )
    if not np.isfinite(earned).all():
        worst = sample_ids[int(np.flatnonzero(~np.isfinite(earned))[0])]
        raise InputError(
            f"{name} returned a value that is not finite for sample {worst}: return "
            "a finite number for every rank"
        )
    return earned


def try_reward(reward: Callable[..., np.ndarray], n_items: int) -> None:
    """Ask a reward for two made-up completions, so that what is wrong shows at once.

    Items score less and less, the second one is masked as if it had been seen, and the
    targets are the first and the last item.

    Parameters
    ----------
    reward
        As of `checked`.
    n_items
        Size of the catalogue.

    Raises
    ------
    InputError
        As `checked`.
    """
    targets = np.array([0, n_items - 1])
    scores = np.linspace([1, 1], [0, 0], n_items, axis=1, dtype=np.float32)
    scores[:, 1:-1][:, :1] = -np.inf
    rank = target_rank(scores, targets)
    try:
        checked(reward, rank, scores, targets, [1, 2])
    except InputError as error:
        # not from ``error``: of a chain, what is told is how it began
        raise InputError(
            f"tried on two samples that are made up: {error.message}"
        ) from error.__cause__


def _failing(
    reward: Callable[..., np.ndarray],
    rank: np.ndarray,
    scores: np.ndarray,
    targets: np.ndarray,
    sample_ids: np.ndarray,
) -> str:
    """Say which sample a reward fails for, by asking it for each alone."""
    for sample_id in dict.fromkeys(sample_ids.tolist()):
        own = sample_ids == sample_id
        try:
            reward(rank[own], scores[own], targets[own])
        except Exception:  # the same as of all together
            return f"sample {sample_id}"
    return f"samples {', '.join(map(str, dict.fromkeys(sample_ids.tolist())))} together"
