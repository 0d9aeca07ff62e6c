"""From the curriculum to metrics: tables in, tables out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from minirec.columns import (
    COMPLETION,
    HISTORY_ITEM_ID,
    ITEM_ID,
    METHOD,
    METRIC,
    N_TOKENS,
    NEAREST,
    POPULARITY,
    POSITION,
    PROMPT,
    RANK,
    SAMPLE_ID,
    SPLIT,
    STAGE,
    TEST,
    TOP_ITEM_ID,
    TRAINED,
    UNTRAINED,
    USER_ID,
)
from minirec.errors import InputError
from minirec.execution.batches import batches
from minirec.execution.params import ExecutionParams
from minirec.pipelines.keys import work_key
from minirec.pipelines.train_eval.params import TrainParams
from minirec.policy.params import PolicyParams, RankingParams
from minirec.ranking.baselines import nearest_to_history_scores, popularity_scores
from minirec.ranking.grounding import popularity_prior, target_rank, top_items
from minirec.ranking.intervals import bootstrap_mean
from minirec.ranking.metrics import hit_ratio, ndcg
from minirec.types import Adapter, Matrix, Model

TOP = 10

# what ranks: prompts in, scores (N, M) out, and the N answers if any were written
Scorer = Callable[[pd.DataFrame], tuple[np.ndarray, list[str] | None]]

logger = logging.getLogger(__name__)


def train_policy(
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    initial_adapter: Adapter,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    train: TrainParams,
    execution: ExecutionParams,
    checkpoints: Path,
    seed: int,
) -> tuple[Adapter, pd.DataFrame, pd.DataFrame]:
    """Train the policy by GRPO on the curriculum, in its order or at its pace."""
    from minirec.training.launched import train as train_with
    from minirec.training.order import check_pace

    ordered = curriculum.sort_values(POSITION)
    chosen = prompts[prompts[SAMPLE_ID].isin(ordered[SAMPLE_ID])]
    if len(chosen) < len(ordered):
        raise InputError(
            "curriculum holds samples that prompts does not: they were made from "
            "different pools; run `kedro run --pipelines score` and then `select`"
        )
    check_pace(ordered[STAGE], train.pace)
    inputs = {
        "adapter": initial_adapter,
        "curriculum": ordered,
        "prompts": chosen,
        "items": items,
        "item_embeddings": item_embeddings,
        "policy_model": policy_model,
        "encoder_model": encoder_model,
        "policy": policy,
        "ranking": ranking,
        "grpo": train.grpo,
        "prompts_per_step": train.prompts_per_step,
        "pace": train.pace,
        "seed": seed,
        "label": "train_policy",
    }
    key = work_key(train_with, inputs, *(path for path, _ in ranking.rewards))
    adapter, training = train_with(inputs, checkpoints, key, execution)
    return adapter, training.log, training.consumed


def rank_items(
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    initial_adapter: Adapter,
    policy_adapter: Adapter,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    batch_size: int,
) -> pd.DataFrame:
    """Rank the whole catalogue for each test prompt, by the policy and by baselines.

    Seen items are masked. `trained` and `untrained` are the policy with the adapter
    after and before GRPO.
    """
    from minirec.policy.rewards import Tasks

    test = prompts[prompts[SPLIT] == TEST].sort_values(N_TOKENS, ascending=False)
    tasks = Tasks(test, items)
    ids = items[ITEM_ID].to_numpy()
    parts = []

    def rank_all(
        method: str,
        score: Callable[[pd.DataFrame], tuple[np.ndarray, list[str] | None]],
    ) -> None:
        for batch in batches(test, batch_size, f"rank_items: {method}"):
            samples = batch[SAMPLE_ID].to_numpy()
            scores, completions = score(batch)
            masked, targets = tasks.masked(samples, scores)
            parts.append(
                pd.DataFrame(
                    {
                        METHOD: method,
                        SAMPLE_ID: samples,
                        RANK: target_rank(masked, targets),
                        TOP_ITEM_ID: [
                            ids[columns[np.isfinite(own[columns])]]
                            for own, columns in zip(
                                masked, top_items(masked, TOP), strict=True
                            )
                        ],
                        COMPLETION: completions,
                    }
                )
            )

    column = pd.Index(ids)
    prior = popularity_prior(items[POPULARITY].to_numpy())
    rank_all(POPULARITY, lambda batch: (popularity_scores(prior, len(batch)), None))
    if encoder_model:
        rank_all(
            NEAREST,
            lambda batch: (
                nearest_to_history_scores(
                    [column.get_indexer(list(h)) for h in batch[HISTORY_ITEM_ID]],
                    item_embeddings["matrix"],
                    prior,
                    ranking.prior_weight,
                ),
                None,
            ),
        )
    else:
        logger.info(
            "rank_items: no encoder_model, the baseline %s is left out", NEAREST
        )
    for name, score in _recommenders(
        {UNTRAINED: initial_adapter, TRAINED: policy_adapter},
        items,
        item_embeddings,
        policy_model,
        encoder_model,
        policy,
        ranking,
    ):
        rank_all(name, score)
    rankings = pd.concat(parts, ignore_index=True)
    return rankings.sort_values([METHOD, SAMPLE_ID], ignore_index=True)


def _recommenders(
    adapters: dict[str, Adapter],
    items: pd.DataFrame,
    item_embeddings: Matrix,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
) -> Iterator[tuple[str, Scorer]]:
    """Yield each adapter's name and the policy that has it, one at a time."""
    from minirec.policy import item_tokens
    from minirec.policy.text import load_catalogue, load_policy

    if policy.kind == "item_tokens":
        for name, adapter in adapters.items():
            yield name, _by_prompt(item_tokens.load_policy(adapter, policy, items))
        return
    catalogue = load_catalogue(encoder_model, items, item_embeddings, ranking)
    first = next(iter(adapters.values()))
    recommender = load_policy(policy_model, first, catalogue, policy)
    for name, adapter in adapters.items():
        recommender.set_adapter(adapter)
        yield name, _by_prompt(recommender)


def _by_prompt(policy: Any) -> Scorer:
    return lambda batch: policy.recommend(batch[PROMPT].tolist())


def evaluate_rankings(
    rankings: pd.DataFrame,
    prompts: pd.DataFrame,
    cutoffs: list[int],
    bootstrap_draws: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Average HR@k and NDCG@k over the test samples, with bootstrap intervals.

    Intervals resample users, so that several samples of one user count as one.
    """
    user = rankings[SAMPLE_ID].map(prompts.set_index(SAMPLE_ID)[USER_ID])
    rows = []
    for method, own in rankings.assign(user=user).groupby(METHOD, sort=True):
        rank = own[RANK].to_numpy()
        for k in cutoffs:
            for name, value in (("hr", hit_ratio(rank, k)), ("ndcg", ndcg(rank, k))):
                mean, low, high = bootstrap_mean(
                    value,
                    draws=bootstrap_draws,
                    confidence=confidence,
                    seed=seed,
                    groups=own["user"].to_numpy(),
                )
                rows.append(
                    {
                        METHOD: method,
                        METRIC: f"{name}@{k}",
                        "mean": mean,
                        "low": low,
                        "high": high,
                        "users": own["user"].nunique(),
                        "samples": len(own),
                    }
                )
    return pd.DataFrame(rows)
