"""From the curriculum to metrics: tables in, tables out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from minirec.columns import (
    COMPLETION,
    HISTORY_ITEM_ID,
    ITEM_ID,
    ITEM_KNN,
    MEAN_REWARD,
    METHOD,
    N_TOKENS,
    NEAREST,
    POPULARITY,
    POSITION,
    PRETRAIN,
    PROMPT,
    RANK,
    SAMPLE_ID,
    SASREC,
    SPLIT,
    STAGE,
    TEST,
    TOP_ITEM_ID,
    TRAIN,
    TRAINED,
    UNTRAINED,
    USER_ID,
    VALID,
)
from minirec.errors import InputError
from minirec.execution.batches import batches
from minirec.execution.params import ExecutionParams
from minirec.pipelines.keys import work_key
from minirec.pipelines.preprocess.params import PreprocessParams
from minirec.pipelines.score.params import ScoreParams
from minirec.pipelines.select.params import SelectParams
from minirec.pipelines.train_eval.params import (
    ItemKnnParams,
    TrainEvalParams,
    TrainParams,
)
from minirec.policy.params import PolicyParams, RankingParams
from minirec.ranking.baselines import (
    item_knn_scores,
    item_similarity,
    nearest_to_history_scores,
    popularity_scores,
)
from minirec.ranking.evaluation import (
    comparison_table,
    group_table,
    mean_table,
    sample_values,
)
from minirec.ranking.grounding import popularity_prior, target_rank, top_items
from minirec.reporting import report
from minirec.selection import pruning
from minirec.selection.learnability import mu_and_sigma
from minirec.training.sasrec import SasrecParams
from minirec.types import Adapter, Matrix, Model

# what ranks: prompts in, scores (N, M) out, and the N answers if any were written
Scorer = Callable[[pd.DataFrame], tuple[np.ndarray, list[str] | None]]
# N histories as places in the catalogue in, scores (N, M) out
HistoryScorer = Callable[[list[np.ndarray]], np.ndarray]

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


def rank_baselines(
    prompts: pd.DataFrame,
    interactions: ir.Table,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    encoder_model: Model,
    prior_weight: float,
    window: int,
    batch_size: int,
    baselines: list[str],
    item_knn: ItemKnnParams,
    sasrec: SasrecParams,
    top: int,
    checkpoints: Path,
    seed: int,
) -> pd.DataFrame:
    """Rank the whole catalogue for each test prompt by what needs no policy.

    Seen items are masked. Without an encoder nothing is `NEAREST`.
    """
    if NEAREST in baselines and not encoder_model:
        logger.info("rank_baselines: no encoder_model, %s is left out", NEAREST)
        baselines = [method for method in baselines if method != NEAREST]
    if not baselines:
        return _no_rankings()
    rank = _ranker(prompts, items, batch_size, top, "rank_baselines")
    prior = popularity_prior(items[POPULARITY].to_numpy())
    column = pd.Index(items[ITEM_ID])
    known = _known(interactions, baselines)

    def by_history(score: HistoryScorer) -> Scorer:
        return lambda batch: (
            score([column.get_indexer(list(ids)) for ids in batch[HISTORY_ITEM_ID]]),
            None,
        )

    def scorer(method: str) -> Scorer:
        if method == POPULARITY:
            return lambda batch: (popularity_scores(prior, len(batch)), None)
        if method == NEAREST:
            vectors = item_embeddings["matrix"]
            return by_history(
                lambda h: nearest_to_history_scores(h, vectors, prior, prior_weight)
            )
        if method == ITEM_KNN:
            return by_history(_item_knn(known, column, prior, item_knn))
        return by_history(_sasrec(known, items, sasrec, window, checkpoints, seed))

    parts = [rank(method, scorer(method)) for method in baselines]
    return pd.concat(parts, ignore_index=True)


def _item_knn(
    known: pd.DataFrame, column: pd.Index, prior: np.ndarray, item_knn: ItemKnnParams
) -> HistoryScorer:
    # the validation split is there for SASRec, which stops by it
    own = known[known[SPLIT] != VALID]
    similarity = item_similarity(
        own[USER_ID],
        column.get_indexer(pd.Index(own[ITEM_ID])),
        len(column),
        item_knn.neighbours,
    )
    return lambda histories: item_knn_scores(
        [items[-item_knn.last :] for items in histories], similarity, prior
    )


def _sasrec(
    known: pd.DataFrame,
    items: pd.DataFrame,
    sasrec: SasrecParams,
    window: int,
    checkpoints: Path,
    seed: int,
) -> HistoryScorer:
    from minirec.training.checkpoints import keep_only
    from minirec.training.sasrec import train_sasrec

    inputs: dict[str, Any] = {
        "interactions": known,
        "items": items[[ITEM_ID]],
        "params": sasrec,
        "window": window,
        "seed": seed,
        "label": "rank_baselines: sasrec",
    }
    folder = checkpoints / "rank_baselines" / work_key(train_sasrec, inputs)
    keep_only(folder)
    return train_sasrec(**inputs, folder=folder).scores


def _known(interactions: ir.Table, baselines: list[str]) -> pd.DataFrame:
    """Return what baselines learn from, each user's in order, users as numbers from 0.

    They may be millions: what no baseline asks for stays in the engine.
    """
    splits, columns = [PRETRAIN, TRAIN], [USER_ID, ITEM_ID, SPLIT, POSITION]
    if SASREC in baselines:
        splits.append(VALID)
    elif ITEM_KNN not in baselines:
        return pd.DataFrame(columns=columns)
    own = interactions.filter(interactions[SPLIT].isin(splits))[columns].execute()
    own[USER_ID] = pd.factorize(own[USER_ID], sort=True)[0]
    # An engine gives rows in any order, and checkpoints are known by them.
    return own.sort_values([USER_ID, POSITION], ignore_index=True)


def _no_rankings() -> pd.DataFrame:
    """Return the table without a row."""
    types = {
        METHOD: "str",
        SAMPLE_ID: "int64",
        RANK: "int64",
        TOP_ITEM_ID: "object",
        COMPLETION: "str",
    }
    return pd.DataFrame({name: pd.Series(dtype=of) for name, of in types.items()})


def rank_items(
    baseline_rankings: pd.DataFrame,
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
    top: int,
) -> pd.DataFrame:
    """Rank the whole catalogue for each test prompt by the policy, beside baselines.

    Seen items are masked. `trained` and `untrained` are the policy with the adapter
    after and before GRPO.
    """
    rank = _ranker(prompts, items, batch_size, top, "rank_items")
    recommenders = _recommenders(
        {UNTRAINED: initial_adapter, TRAINED: policy_adapter},
        items,
        item_embeddings,
        policy_model,
        encoder_model,
        policy,
        ranking,
    )
    parts = [rank(name, score) for name, score in recommenders]
    rankings = pd.concat([baseline_rankings, *parts], ignore_index=True)
    return rankings.sort_values([METHOD, SAMPLE_ID], ignore_index=True)


def rank_prompts(
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    adapter: Adapter,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    batch_size: int,
    label: str,
) -> pd.DataFrame:
    """Return the rank of the target of each prompt, of whichever split, by one policy.

    The policy ranks the whole catalogue; seen items are masked.
    """
    rank = _ranker(prompts.assign(**{SPLIT: TEST}), items, batch_size, 1, label)
    ((_, score),) = _recommenders(
        {TRAINED: adapter},
        items,
        item_embeddings,
        policy_model,
        encoder_model,
        policy,
        ranking,
    )
    ranks = rank(TRAINED, score)[[SAMPLE_ID, RANK]]
    return ranks.sort_values(SAMPLE_ID, ignore_index=True)


def _ranker(
    prompts: pd.DataFrame, items: pd.DataFrame, batch_size: int, top: int, label: str
) -> Callable[[str, Scorer], pd.DataFrame]:
    """Return what ranks the catalogue for all test prompts, by a method's scores."""
    from minirec.policy.rewards import Tasks

    test = prompts[prompts[SPLIT] == TEST].sort_values(N_TOKENS, ascending=False)
    tasks = Tasks(test, items)
    ids = items[ITEM_ID].to_numpy()

    def rank(method: str, score: Scorer) -> pd.DataFrame:
        parts = []
        for batch in batches(test, batch_size, f"{label}: {method}"):
            samples = batch[SAMPLE_ID].to_numpy()
            scores, completions = score(batch)
            masked, targets = tasks.masked(samples, scores)
            first = zip(masked, top_items(masked, top), strict=True)
            shown = [ids[columns[np.isfinite(own[columns])]] for own, columns in first]
            parts.append(
                pd.DataFrame(
                    {
                        METHOD: method,
                        SAMPLE_ID: samples,
                        RANK: target_rank(masked, targets),
                        TOP_ITEM_ID: shown,
                        COMPLETION: completions,
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    return rank


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
    items: pd.DataFrame,
    metrics: list[str],
    bootstrap_draws: int,
    confidence: float,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average every metric over the test samples, and compare each two methods.

    Users are drawn, so that several samples of one user count as one.
    """
    found = sample_values(rankings, prompts, items, metrics)
    how = (bootstrap_draws, confidence, seed)
    return mean_table(found, *how), comparison_table(found, *how)


def evaluate_groups(
    rankings: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    metrics: list[str],
    groups: int,
    bootstrap_draws: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Average every metric by length of history and by popularity of the target."""
    found = sample_values(rankings, prompts, items, metrics)
    return group_table(found, prompts, items, groups, bootstrap_draws, confidence, seed)


def report_run(
    interactions: ir.Table,
    policy_model: Model,
    encoder_model: Model,
    base_parameters: dict[str, Any],
    data: str,
    seed: int,
    policy: PolicyParams,
    ranking: RankingParams,
    preprocess: PreprocessParams,
    score: ScoreParams,
    select: SelectParams,
    train_eval: TrainEvalParams,
    *found: pd.DataFrame | go.Figure,
) -> str:
    """Lay out the whole run on one page, from its data to what it was worth.

    ``found`` are the tables and then the figures that `minirec.reporting.report` names.
    """
    groups = {
        "policy": policy,
        "ranking": ranking,
        "preprocess": preprocess,
        "score": score,
        "select": select,
        "train_eval": train_eval,
    }
    tables: dict[str, pd.DataFrame] = dict(zip(report.TABLES, found, strict=False))
    rewards = tables["candidates"][MEAN_REWARD]
    prune, learnability = select.prune, score.learnability
    sizes = interactions.aggregate(
        rows=interactions.count(), users=interactions[USER_ID].nunique()
    ).execute()
    return report.render_run(
        tables,
        dict(zip(report.FIGURES, found[len(tables) :], strict=True)),
        {"seed": seed}
        | {name: group.model_dump(mode="json") for name, group in groups.items()},
        base_parameters,
        data,
        {
            "policy": report.model_name(policy_model),
            "encoder": report.model_name(encoder_model),
        },
        mu_and_sigma(rewards, learnability.mu, learnability.sigma),
        pruning.limits(rewards, prune.too_easy, prune.too_hard),
        int(sizes["rows"].iloc[0]),
        int(sizes["users"].iloc[0]),
    )
