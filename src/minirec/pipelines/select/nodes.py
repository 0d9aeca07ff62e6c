"""From scores to the curriculum: tables in, tables out."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from minirec.columns import (
    KEPT,
    MEAN_REWARD,
    POSITION,
    REASON,
    SAMPLE_ID,
    STAGE,
    STD_REWARD,
    VALUE,
)
from minirec.errors import InputError
from minirec.functions import function_at
from minirec.pipelines.select.params import CurriculumParams, PruneParams
from minirec.reporting import figures
from minirec.selection import pruning
from minirec.selection.curriculum import stage_of


def prune_by_reward(scores: pd.DataFrame, prune: PruneParams) -> pd.DataFrame:
    """Give every sample the reason why it stays or goes."""
    limits = prune.model_dump()
    reasons = pruning.prune_by_reward(scores[MEAN_REWARD], scores[STD_REWARD], **limits)
    return scores.assign(**{REASON: reasons.astype(object)})


def select_diverse(
    candidates: pd.DataFrame,
    embeddings: dict[str, np.ndarray],
    strategy: str,
    size: int,
    seed: int,
) -> pd.DataFrame:
    """Choose ``size`` of the kept samples by the strategy, a dotted path.

    Raises
    ------
    InputError
        If the strategy does not return so many different samples, all of them kept.
    """
    kept = candidates[candidates[REASON] == KEPT].reset_index(drop=True)
    choose = function_at(strategy, "select.strategy")
    chosen = _samples_among(
        choose({"candidates": kept, "embeddings": embeddings}, size, seed),
        kept[SAMPLE_ID],
        size,
        f"select.strategy {strategy}",
    )
    return pd.DataFrame(
        {
            POSITION: np.arange(size),
            SAMPLE_ID: chosen,
            VALUE: kept.set_index(SAMPLE_ID)[VALUE].reindex(chosen).to_numpy(),
        }
    )


def stage_curriculum(
    selection: pd.DataFrame,
    scores: pd.DataFrame,
    curriculum: CurriculumParams,
    seed: int,
) -> pd.DataFrame:
    """Put the chosen samples in the order of training, by ``curriculum.order``.

    Raises
    ------
    InputError
        If the order leaves a sample out or repeats one, or if ``scores`` lacks one.
    """
    path, n_stages = curriculum.order, curriculum.n_stages
    order = function_at(path, "select.curriculum.order")
    reward = scores.set_index(SAMPLE_ID)[MEAN_REWARD]
    ids = selection[SAMPLE_ID].to_numpy()
    if not np.isin(ids, reward.index).all():
        raise InputError(
            "selection holds samples that scores does not: they were made from "
            "different pools; run `kedro run --pipelines select`"
        )
    ordered = _samples_among(
        order(ids, reward.reindex(ids).to_numpy(), n_stages, seed),
        selection[SAMPLE_ID],
        len(ids),
        f"select.curriculum.order {path}",
    )
    return pd.DataFrame(
        {
            POSITION: np.arange(len(ids)),
            SAMPLE_ID: ordered,
            STAGE: stage_of(len(ids), n_stages),
            MEAN_REWARD: reward.reindex(ordered).to_numpy(),
        }
    )


def plot_rewards(
    candidates: pd.DataFrame, selection: pd.DataFrame, prune: PruneParams
) -> go.Figure:
    """Draw the rewards of the pool with the limits at which it was pruned."""
    return figures.plot_rewards(candidates, selection, prune.too_easy, prune.too_hard)


def _samples_among(
    answer: Any, known: "pd.Series[int]", size: int, name: str
) -> NDArray[np.int64]:
    """Check that a function named in the parameters returned ``size`` known samples."""
    ids = np.asarray(answer)
    if ids.shape != (size,) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{name} returned an array of shape {ids.shape} and type {ids.dtype}: it "
            f"must return {size} sample ids"
        )
    if len(np.unique(ids)) != size:
        raise InputError(
            f"{name} returned {size - len(np.unique(ids))} repeated samples: it must "
            "return each sample once"
        )
    if not np.isin(ids, known).all():
        stranger = ids[np.argmin(np.isin(ids, known))]
        raise InputError(
            f"{name} returned sample {stranger}, which was not among those given: it "
            "must return ids of these alone"
        )
    return ids.astype(np.int64)
