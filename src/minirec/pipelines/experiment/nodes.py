"""From a pool to what each arm was worth: tables in, tables out."""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pandas as pd

from minirec.columns import (
    ARM,
    ITEM_ID,
    MEAN_REWARD,
    POSITION,
    RANK,
    SAMPLE_ID,
    SEED,
    SPLIT,
    TEST,
    TRAIN,
    USER_ID,
    VALID,
)
from minirec.costs import Costs
from minirec.errors import InputError
from minirec.execution.params import ExecutionParams
from minirec.execution.processes import run_jobs
from minirec.pipelines.experiment import work
from minirec.pipelines.experiment.kept import Kept, keep
from minirec.pipelines.experiment.params import (
    BEFORE,
    ArmSettings,
    ExperimentParams,
    settings_of,
    shown,
)
from minirec.pipelines.preprocess import nodes as preprocess
from minirec.pipelines.preprocess.params import PoolParams
from minirec.pipelines.score.nodes import embed_items
from minirec.pipelines.score.params import ScoreParams
from minirec.pipelines.select.params import SelectParams
from minirec.pipelines.train_eval.params import TrainEvalParams
from minirec.policy.params import PolicyParams, PromptParams, RankingParams
from minirec.ranking.evaluation import arm_comparisons, arm_table, seed_values
from minirec.ranking.metrics import ndcg
from minirec.types import Model

# by which settings are chosen and arms are drawn
METRIC, CUTOFF = "ndcg@10", 10

COSTS = ["seconds", *(field.name for field in fields(Costs))]


def draw_prompts(
    samples: ir.Table,
    interactions: ir.Table,
    items: pd.DataFrame,
    policy_model: Model,
    pool: PoolParams,
    valid: int | None,
    scored_valid: int,
    prompt: PromptParams,
    max_new_tokens: int,
    seed: int,
    kind: str,
) -> pd.DataFrame:
    """Draw the pool and test prompts as for any run, and prompts to validate by."""
    wanted = None if valid is None else valid + scored_valid
    return preprocess.render_prompts(
        samples,
        interactions,
        items,
        policy_model,
        pool.model_copy(update={"valid": wanted}),
        prompt,
        max_new_tokens,
        seed,
        kind,
    )


def tune_arms(
    interactions: ir.Table,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    window: int,
    score: ScoreParams,
    select: SelectParams,
    train_eval: TrainEvalParams,
    experiment: ExperimentParams,
    execution: ExecutionParams,
    folder: Path,
) -> pd.DataFrame:
    """Let each arm try each of its settings on the validation split.

    The setting with the highest mean NDCG@10 over seeds and samples is chosen; of
    equals the first. With one setting there is nothing to try, and no row.
    """
    given = _given(
        interactions,
        prompts,
        items,
        policy_model,
        encoder_model,
        policy,
        ranking,
        window,
        score,
        train_eval,
        experiment,
        execution,
        folder,
    )
    settings = _settings(experiment, score, select, train_eval)
    _check(given, experiment, settings)
    columns = [ARM, "setting", "overrides", SEED, METRIC, "chosen"]
    if not experiment.tunes:
        return pd.DataFrame(columns=columns)
    runs = _runs(given, settings, experiment.tuned_on, VALID)
    _train_and_rank(given, list(runs.values()), "tuning")
    rows = [
        (arm, number, _overrides(experiment, arm, number), seed, _ndcg(run))
        for (arm, number, seed), run in runs.items()
    ]
    table = pd.DataFrame(rows, columns=columns[:-1])
    means = table.groupby([ARM, "setting"])[METRIC].mean().reset_index()
    # of equals the first
    means = means.sort_values([METRIC, "setting"], ascending=[False, True])
    best = means.groupby(ARM)["setting"].first().to_dict()
    table["chosen"] = table["setting"] == table[ARM].map(best)
    kept = [run for (arm, n, _), run in runs.items() if n == best[arm]]
    work.forget_training(list(runs.values()), kept)
    return table


def run_arms(
    tuning: pd.DataFrame,
    interactions: ir.Table,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    window: int,
    score: ScoreParams,
    select: SelectParams,
    train_eval: TrainEvalParams,
    experiment: ExperimentParams,
    execution: ExecutionParams,
    folder: Path,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Train each arm on every seed as it was tuned, and rank the test split.

    Returns
    -------
    experiment_runs, experiment_costs, experiment_rankings
        See `minirec.schemas`.
    """
    given = _given(
        interactions,
        prompts,
        items,
        policy_model,
        encoder_model,
        policy,
        ranking,
        window,
        score,
        train_eval,
        experiment,
        execution,
        folder,
    )
    chosen = dict.fromkeys(experiment.names, 0)
    chosen |= tuning[tuning["chosen"].astype(bool)].groupby(ARM)["setting"].first()
    settings = {
        (arm, number): own
        for (arm, number), own in _settings(
            experiment, score, select, train_eval
        ).items()
        if chosen[arm] == number
    }
    runs = _runs(given, settings, experiment.seeds, TEST)
    _train_and_rank(given, list(runs.values()), "arms")
    pool = int((prompts[SPLIT] == TRAIN).sum())
    rows: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    rankings = []
    for (arm, number, seed), run in runs.items():
        own: dict[str, Any] = {ARM: arm, SEED: seed}
        spent = [own | {"part": n} | s for n, s in work.costs_of(run).items()]
        overrides = _overrides(experiment, arm, number)
        what = own | {"setting": number, "overrides": overrides}
        rows.append(what | _came_out(run, pool, spent))
        costs += spent
        rankings.append(Kept(run.ranks).load("ranks").assign(**own))
    counts = dict.fromkeys([name for name in COSTS if name.startswith("tokens")], int)
    return (
        pd.DataFrame(rows).astype(counts),
        pd.DataFrame(costs).astype(counts),
        pd.concat(rankings, ignore_index=True)[[ARM, SEED, SAMPLE_ID, RANK]],
    )


def evaluate_experiment(
    rankings: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    metrics: list[str],
    bootstrap_draws: int,
    confidence: float,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average every metric over seeds and test samples, and compare each two arms."""
    wanted = list(dict.fromkeys([METRIC, *metrics]))
    found = seed_values(rankings, prompts, items, wanted)
    how = (bootstrap_draws, confidence, seed)
    return arm_table(found, *how), arm_comparisons(found, *how)


def list_results(
    runs: pd.DataFrame,
    rankings: pd.DataFrame,
    metrics: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    experiment: ExperimentParams,
    kind: str,
    bootstrap_draws: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """List NDCG@10 and costs of each arm and seed, and of all seeds together.

    The interval of one seed is over users alone, that of all over users and seeds;
    costs of all seeds are means.
    """
    parts = []
    for name, own in rankings.groupby(SEED):
        found = seed_values(own, prompts, items, [METRIC])
        table = arm_table(found, bootstrap_draws, confidence, seed)
        parts.append(table.assign(**{SEED: str(name)}))
    together = metrics[metrics["metric"] == METRIC].assign(**{SEED: "all"})
    table = pd.concat([*parts, together], ignore_index=True)
    cost = runs.assign(
        tokens=runs.filter(like="tokens_").sum(axis=1),
        fraction=runs["samples"] / runs["pool"],
    )
    spent = ["seconds", "tokens", "flops"]
    columns = ["fraction", *spent]
    of_seeds = cost.assign(**{SEED: cost[SEED].astype(str)})[[ARM, SEED, *columns]]
    # what is unknown of one seed is of all
    of_all = cost.groupby(ARM)[columns].mean(skipna=False).reset_index()
    of_all = of_all.assign(**{SEED: "all"})
    table = table.merge(pd.concat([of_seeds, of_all]), on=[ARM, SEED])
    table = table.assign(data=experiment.data, policy=kind)
    renamed = table.rename(columns={"mean": METRIC, "samples": "windows"})
    order = {arm: place for place, arm in enumerate(runs[ARM].unique())}
    renamed = renamed.sort_values(ARM, key=lambda arms: arms.map(order), kind="stable")
    return renamed[
        [
            *("data", "policy", ARM, "fraction", SEED, "windows"),
            *(METRIC, "low", "high", *spent),
        ]
    ].reset_index(drop=True)


def _given(
    interactions: ir.Table,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    window: int,
    score: ScoreParams,
    train_eval: TrainEvalParams,
    experiment: ExperimentParams,
    execution: ExecutionParams,
    folder: Path,
) -> work.Given:
    read = [USER_ID, ITEM_ID, POSITION, SPLIT]
    of_items = policy.kind == "item_tokens"
    return work.Given(
        # engines give rows in an order of their own
        interactions.select(read)
        .execute()
        .sort_values([USER_ID, POSITION], ignore_index=True)
        if of_items
        else None,
        prompts,
        experiment.scored_valid,
        items,
        embed_items(items, encoder_model),
        policy_model,
        encoder_model,
        policy,
        ranking,
        score,
        window,
        train_eval.evaluation.batch_size,
        execution,
        folder,
    )


def _settings(
    experiment: ExperimentParams,
    score: ScoreParams,
    select: SelectParams,
    train_eval: TrainEvalParams,
) -> dict[tuple[str, int], ArmSettings]:
    """Return what each arm tries, by its name and the number of the setting."""
    return {
        (arm, number): settings_of(overrides, score, select, train_eval.train)
        for arm in experiment.names
        for number, overrides in enumerate(experiment.settings(arm))
    }


def _check(
    given: work.Given,
    experiment: ExperimentParams,
    settings: dict[tuple[str, int], ArmSettings],
) -> None:
    """Refuse what parameters alone do not show, before anything is trained."""
    pool = int((given.prompts[SPLIT] == TRAIN).sum())
    for (arm, _), own in settings.items():
        size = own.select.size
        if size is not None and size > pool:
            raise InputError(
                f"experiment.arms.{arm}: select.size is {size}, and the pool has "
                f"{pool}: lower it, or raise preprocess.pool.train"
            )
    if experiment.tunes and given.ranked(VALID).empty:
        raise InputError(
            f"experiment.search has {len(experiment.search)} settings to choose from, "
            f"and the validation split has no prompts beyond the "
            f"{experiment.scored_valid} of experiment.scored_valid: lower that, raise "
            "preprocess.split.valid, or leave one setting"
        )


def _runs(
    given: work.Given,
    settings: dict[tuple[str, int], ArmSettings],
    seeds: list[int],
    split: str,
) -> dict[tuple[str, int, int], work.Run]:
    """Do what the arms of each seed share, let each choose, and name its training.

    On the test split there is the policy before, too.
    """
    folders = work.Folders(given)
    shared = {seed: folders.shared(seed) for seed in seeds}
    processes = given.execution.processes
    run_jobs(work.share_seed, given, list(shared.items()), processes, "seeds")
    runs = {}
    for seed, keys in shared.items():
        if split == TEST:
            runs[BEFORE, 0, seed] = folders.run(
                f"{BEFORE}-seed-{seed}", seed, split, keys, None, None
            )
        for (arm, number), own in settings.items():
            path = folders.curriculum(keys, own)
            try:
                keep(path, partial(work.choose, given, keys, own, seed))
            except InputError as error:
                raise InputError(
                    f"experiment.arms.{arm}, setting {number}, seed {seed}: {error}"
                ) from None
            label = f"{arm}-{number}-seed-{seed}"
            runs[arm, number, seed] = folders.run(
                label, seed, split, keys, path, own.train
            )
    return runs


def _train_and_rank(given: work.Given, runs: list[work.Run], label: str) -> None:
    """Do all runs, the longest first: one that begins last would train alone."""
    answers, trained = dict.fromkeys((run.label for run in runs), 0.0), set()
    for run in runs:
        # a training that several share is one's work, for which the others would wait
        if run.curriculum is not None and run.train and run.trained not in trained:
            trained.add(run.trained)
            grpo = run.train.grpo
            samples = len(Kept(run.curriculum).load("curriculum"))
            answers[run.label] = samples * grpo.num_train_epochs * grpo.num_generations
    jobs = sorted(runs, key=lambda run: answers[run.label], reverse=True)
    run_jobs(work.rank_run, given, jobs, given.execution.processes, label)


def _came_out(run: work.Run, pool: int, spent: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a run trained on, what came of it, and what it cost in all."""
    mean_reward, samples = float("nan"), 0
    if run.curriculum is not None:
        curriculum = Kept(run.curriculum).load("curriculum")
        mean_reward, samples = curriculum[MEAN_REWARD].mean(), len(curriculum)
    total = pd.DataFrame(spent, columns=COSTS).astype(float).sum(skipna=False)
    return {
        "samples": samples,
        "pool": pool,
        MEAN_REWARD: mean_reward,
        METRIC: _ndcg(run),
        **{str(name): value for name, value in total.items()},
    }


def _overrides(experiment: ExperimentParams, arm: str, number: int) -> str | None:
    return None if arm == BEFORE else shown(experiment.settings(arm)[number]) or None


def _ndcg(run: work.Run) -> float:
    return float(ndcg(Kept(run.ranks).load("ranks")[RANK].to_numpy(), CUTOFF).mean())
