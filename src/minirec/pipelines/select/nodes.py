"""From scores to the curriculum: tables in, tables out."""

import logging
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
    STRATEGY,
    VALUE,
)
from minirec.errors import InputError
from minirec.functions import call, function_at
from minirec.pipelines.score.params import LearnabilityParams, RepresentativenessParams
from minirec.pipelines.select.params import CurriculumParams, PruneParams
from minirec.progress import Progress
from minirec.reporting import figures, picks
from minirec.selection import pruning
from minirec.selection.answers import sample_ids
from minirec.selection.curriculum import stage_of
from minirec.selection.learnability import mu_and_sigma
from minirec.types import Matrix

logger = logging.getLogger(__name__)


def prune_by_reward(scores: pd.DataFrame, prune: PruneParams) -> pd.DataFrame:
    """Give every sample the reason why it stays or goes.

    Logs at which mean rewards limits lie that are quantiles.
    """
    easy, hard = pruning.limits(scores[MEAN_REWARD], prune.too_easy, prune.too_hard)
    for name, limit, reward in (
        ("too_easy", prune.too_easy, easy),
        ("too_hard", prune.too_hard, hard),
    ):
        if isinstance(limit, pruning.Quantile):
            logger.info("prune_by_reward: %s is %s", name, pruning.shown(limit, reward))
    reasons = pruning.prune_by_reward(
        scores[MEAN_REWARD], scores[STD_REWARD], **dict(prune)
    )
    return scores.assign(**{REASON: reasons.astype(object)})


def select_samples(
    candidates: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    gradients: Matrix,
    embeddings: Matrix,
    strategy: str,
    size: int | None,
    seed: int,
) -> pd.DataFrame:
    """Choose ``size`` of the kept samples, or all, by the strategy, a dotted path.

    Raises
    ------
    InputError
        If the strategy does not return so many different samples, all of them kept.
    """
    tables = _tables(candidates, prompts, items, gradients, embeddings)
    size = _size_of(candidates, size)
    chosen = _choose(strategy, "select.strategy", tables, size, seed)
    value = tables["candidates"].set_index(SAMPLE_ID)[VALUE]
    return pd.DataFrame(
        {
            POSITION: np.arange(size),
            SAMPLE_ID: chosen,
            VALUE: value.reindex(chosen).to_numpy(),
        }
    )


def compare_strategies(
    candidates: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    gradients: Matrix,
    embeddings: Matrix,
    compare: list[str],
    size: int | None,
    seed: int,
) -> pd.DataFrame:
    """Choose ``size`` of the kept samples, or all, by each strategy, of the same tables.

    Raises
    ------
    InputError
        If a strategy does not return so many different samples, all of them kept.
    """
    tables = _tables(candidates, prompts, items, gradients, embeddings)
    size = _size_of(candidates, size)
    chosen: list[NDArray[np.int64]] = []
    with Progress(compare, desc="compare_strategies", unit=" strategies") as bar:
        for path in bar:
            try:
                chosen.append(_choose(path, "select.compare", tables, size, seed))
            except InputError as error:
                raise InputError(
                    f"{error}; or leave {path} out of select.compare"
                ) from None
    return pd.DataFrame(
        {
            STRATEGY: pd.array(compare, dtype="str").repeat(size),
            POSITION: np.tile(np.arange(size), len(compare)),
            SAMPLE_ID: np.array(chosen, dtype=np.int64).ravel(),
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
    name = f"select.curriculum.order {path}"
    reward = scores.set_index(SAMPLE_ID)[MEAN_REWARD]
    ids = selection[SAMPLE_ID].to_numpy()
    if not np.isin(ids, reward.index).all():
        raise InputError(
            "selection holds samples that scores does not: they were made from "
            "different pools; run `kedro run --pipelines select`"
        )
    ordered = sample_ids(
        call(order, name, ids, reward.reindex(ids).to_numpy(), n_stages, seed),
        selection[SAMPLE_ID],
        len(ids),
        name,
    )
    return pd.DataFrame(
        {
            POSITION: np.arange(len(ids)),
            SAMPLE_ID: ordered,
            STAGE: stage_of(len(ids), n_stages),
            MEAN_REWARD: reward.reindex(ordered).to_numpy(),
        }
    )


def explain_picks(
    strategy: str,
    candidates: pd.DataFrame,
    selection: pd.DataFrame,
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    embeddings: Matrix,
    learnability: LearnabilityParams,
    representativeness: RepresentativenessParams | None,
) -> pd.DataFrame:
    """Say of each chosen sample what it was chosen for, in numbers and in words."""
    explanations = picks.explain_picks(
        candidates,
        selection,
        curriculum,
        prompts,
        items,
        embeddings,
        *mu_and_sigma(candidates[MEAN_REWARD], learnability.mu, learnability.sigma),
        representativeness.direction if representativeness else None,
    )
    function = function_at(strategy, "select.strategy")
    return picks.say_what_decided(explanations, function)


def _tables(
    candidates: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    gradients: Matrix,
    embeddings: Matrix,
) -> dict[str, Any]:
    """Return what a strategy is given: see `minirec.selection.strategies`."""
    return {
        "candidates": candidates[candidates[REASON] == KEPT].reset_index(drop=True),
        "prompts": prompts,
        "items": items,
        "gradients": gradients,
        "embeddings": embeddings,
    }


def _size_of(candidates: pd.DataFrame, size: int | None) -> int:
    """Return how many to choose; None: all that are kept."""
    reasons, rewards = candidates[REASON].value_counts(), candidates[MEAN_REWARD]
    kept = int(reasons.get(KEPT, 0))
    if size is not None and size > kept:
        counts = ", ".join(
            f"{n} {str(reason).replace('_', ' ')}" for reason, n in reasons.items()
        )
        raise InputError(
            f"select.size is {size}, and of {len(candidates)} samples, with mean "
            f"rewards from {rewards.min():.4g} to {rewards.max():.4g}, there are "
            f"{counts}: lower select.size, loosen select.prune or raise "
            "preprocess.pool.train"
        )
    return size or kept


def _choose(
    path: str, parameter: str, tables: dict[str, Any], size: int, seed: int
) -> NDArray[np.int64]:
    """Let the strategy that a parameter names choose, and check its answer."""
    name = f"{parameter} {path}"
    chosen = call(function_at(path, parameter), name, tables, size, seed)
    return sample_ids(chosen, tables["candidates"][SAMPLE_ID], size, name)


def plot_rewards(
    candidates: pd.DataFrame,
    selection: pd.DataFrame,
    prune: PruneParams,
    learnability: LearnabilityParams,
) -> go.Figure:
    """Draw the rewards of the pool, the limits at which it was pruned, and mu."""
    rewards = candidates[MEAN_REWARD]
    easy, hard = pruning.limits(rewards, prune.too_easy, prune.too_hard)
    mu, _ = mu_and_sigma(rewards, learnability.mu, learnability.sigma)
    return figures.plot_rewards(candidates, selection, easy, hard, mu)
