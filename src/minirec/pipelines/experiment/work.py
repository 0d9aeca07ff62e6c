"""What an experiment does once for a seed, and once for each arm of it.

Everything lies in one folder, each piece under a hash of the code, the parameters and
the tables that decide what comes out. So an experiment that was killed goes on with the
piece that was under way, arms whose curricula are the same are trained once, and one
with more arms, settings or seeds does only what is new.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import ibis
import numpy as np
import pandas as pd

from minirec.columns import (
    DRAW,
    EMBEDDINGS,
    GRADIENTS,
    KEPT,
    LEARNABILITY,
    MEAN_REWARD,
    POSITION,
    PROXY,
    REASON,
    REPRESENTATIVENESS,
    REWARDS,
    SAMPLE_ID,
    SELECTION,
    SPLIT,
    STAGE,
    STD_REWARD,
    TEST,
    TRAIN,
    TRAINING,
    VALID,
    VALUE,
)
from minirec.execution.fingerprint import fingerprint, of_model
from minirec.execution.params import ExecutionParams
from minirec.functions import function_at
from minirec.lineage.code import Code
from minirec.pipelines.experiment.kept import Kept, Spent, forget, keep
from minirec.pipelines.experiment.params import ArmSettings
from minirec.pipelines.score import nodes as score
from minirec.pipelines.score.params import GradientParams, ProbeParams, ScoreParams
from minirec.pipelines.select import nodes as select
from minirec.pipelines.train_eval.nodes import rank_prompts
from minirec.pipelines.train_eval.params import TrainParams
from minirec.policy.params import PolicyParams, RankingParams
from minirec.training.launched import train
from minirec.training.order import check_pace
from minirec.types import Matrix, Model

# columns of `scores` that come from rewards alone, and from gradients
OF_REWARDS = [MEAN_REWARD, STD_REWARD, LEARNABILITY]
OF_GRADIENTS = [REPRESENTATIVENESS]


class Given(NamedTuple):
    """What all seeds and arms have in common."""

    interactions: pd.DataFrame | None
    """None if the kind of policy does not read them."""
    prompts: pd.DataFrame
    """The pool, test prompts, and validation prompts."""
    scored_valid: int
    """How many of the latter, the first drawn, are scored; the others tune."""
    items: pd.DataFrame
    item_embeddings: Matrix
    policy_model: Model
    encoder_model: Model
    policy: PolicyParams
    ranking: RankingParams
    score: ScoreParams
    window: int
    batch_size: int
    """Prompts that are ranked at once."""
    execution: ExecutionParams
    folder: Path

    @property
    def models(self) -> tuple[Model, Model]:
        """As nodes take them."""
        return self.policy_model, self.encoder_model

    @property
    def catalogue(self) -> tuple[pd.DataFrame, Matrix]:
        """As nodes take it."""
        return self.items, self.item_embeddings

    def scored(self, seed: int) -> pd.DataFrame:
        """Return the prompts to score, in another order of draws for each seed.

        The first drawn of the pool train the proxy.
        """
        split = self.prompts[SPLIT]
        pool, valid = (self.prompts[split == name] for name in (TRAIN, VALID))
        order = np.random.default_rng(seed).permutation(len(pool))
        directing = valid.sort_values(DRAW).head(self.scored_valid)
        return pd.concat([pool.assign(**{DRAW: order}), directing])

    def ranked(self, split: str) -> pd.DataFrame:
        """Return the prompts by which arms are compared, or their settings."""
        own = self.prompts[self.prompts[SPLIT] == split]
        if split == TEST:
            return own
        return own.sort_values(DRAW).iloc[self.scored_valid :]


class Keys(NamedTuple):
    """The folders of what all arms of a seed share."""

    initial: Path
    proxy: Path
    rollouts: Path
    gradients: Path
    embeddings: Path


class Run(NamedTuple):
    """One arm of one seed with one of its settings, on one split."""

    label: str
    """For people, and the names of checkpoints."""
    seed: int
    split: str
    shared: Keys
    curriculum: Path | None
    """None: not trained."""
    trained: Path
    ranks: Path
    train: TrainParams | None


def share_seed(given: Given, job: tuple[int, Keys]) -> None:
    """Make what all arms of a seed share: policy, proxy, rollouts, gradients."""
    seed, keys = job
    prompts = given.scored(seed)
    initial = keep(keys.initial, lambda: _start(given, prompts, keys, seed))
    shutil.rmtree(_checkpoints(given, keys.initial), ignore_errors=True)
    proxy = keep(keys.proxy, lambda: _train_proxy(given, prompts, initial, keys, seed))
    shutil.rmtree(_checkpoints(given, keys.proxy), ignore_errors=True)
    parts = given.folder / "batches" / keys.rollouts.name
    probed = keep(keys.rollouts, lambda: _probe(given, prompts, proxy, parts, seed))
    keep(
        keys.gradients,
        lambda: _collect_gradients(given, prompts, proxy, probed, parts, seed),
    )
    keep(
        keys.embeddings,
        lambda: {
            "embeddings": score.embed_samples(
                prompts, given.items, given.encoder_model, initial.load("adapter")
            )
        },
    )
    shutil.rmtree(parts, ignore_errors=True)


def _start(
    given: Given, prompts: pd.DataFrame, keys: Keys, seed: int
) -> dict[str, Any]:
    known = given.interactions
    interactions: Any = None if known is None else ibis.memtable(known)
    adapter = score.warm_start_policy(
        interactions,
        prompts,
        given.items,
        given.policy_model,
        given.policy.kind,
        given.policy.dtype,
        given.policy.prompt,
        given.policy.lora,
        given.policy.item_tokens,
        given.window,
        given.score.proxy.prompts,
        given.score.warm_start,
        _checkpoints(given, keys.initial),
        seed,
    )
    return {"adapter": adapter}


def _train_proxy(
    given: Given, prompts: pd.DataFrame, initial: Kept, keys: Keys, seed: int
) -> dict[str, Any]:
    adapter, _ = score.train_proxy(
        prompts,
        *given.catalogue,
        initial.load("adapter"),
        *given.models,
        given.policy,
        given.ranking,
        given.score.proxy,
        given.execution,
        _checkpoints(given, keys.proxy),
        seed,
    )
    return {"adapter": adapter}


def _probe(
    given: Given, prompts: pd.DataFrame, proxy: Kept, parts: Path, seed: int
) -> dict[str, Any]:
    rollouts, rewards = score.probe_rewards(
        prompts,
        *given.catalogue,
        proxy.load("adapter"),
        *given.models,
        given.policy,
        given.ranking,
        given.score.probe,
        given.score.memory_gb,
        given.execution,
        parts,
        seed,
    )
    return {"rollouts": rollouts, "rewards": rewards}


def _collect_gradients(
    given: Given,
    prompts: pd.DataFrame,
    proxy: Kept,
    probed: Kept,
    parts: Path,
    seed: int,
) -> dict[str, Any]:
    gradients = score.collect_gradients(
        prompts,
        probed.load("rollouts"),
        probed.load("rewards"),
        proxy.load("adapter"),
        given.policy_model,
        given.policy,
        given.score.gradients,
        given.score.memory_gb,
        given.execution,
        parts,
        seed,
    )
    return {"gradients": gradients}


def choose(
    given: Given, shared: Keys, settings: ArmSettings, seed: int
) -> dict[str, pd.DataFrame]:
    """Choose what an arm is trained on, and find out what it had to know for that.

    Returns
    -------
    dict
        ``curriculum``; and ``needs``, a row of truth values: whether the choice took
        rewards, gradients and embeddings, and its ``seconds``.
    """
    prompts = given.scored(seed)
    began = perf_counter()
    learnability = score.learnability_of(
        prompts, Kept(shared.rollouts).load("rewards"), settings.score.learnability
    )
    gradients = Kept(shared.gradients).load("gradients")
    representativeness = score.score_representativeness(
        prompts,
        gradients,
        Kept(shared.initial).load("adapter"),
        Kept(shared.proxy).load("adapter"),
        settings.score.gradients,
        settings.score.representativeness,
        seed,
    )
    scores = score.join_scores(learnability, representativeness, settings.score.value)
    candidates = select.prune_by_reward(scores, settings.select.prune)
    scored = perf_counter()
    embeddings = Kept(shared.embeddings).load("embeddings")
    tables = (candidates, prompts, given.items, gradients, embeddings)
    selection = select.select_samples(
        *tables, settings.select.strategy, settings.select.size, seed
    )
    curriculum = select.stage_curriculum(
        selection, scores, settings.select.curriculum, seed
    )
    done = perf_counter()
    check_pace(curriculum[STAGE], settings.train.pace)
    needs = needed(settings, *tables, selection, seed)
    needs["seconds"] = done - (began if needs[REWARDS] else scored)
    return {"curriculum": curriculum, "needs": pd.DataFrame([needs])}


def needed(
    settings: ArmSettings,
    candidates: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    gradients: Matrix,
    embeddings: Matrix,
    selection: pd.DataFrame,
    seed: int,
) -> dict[str, Any]:
    """Say whether a choice takes rewards, gradients and embeddings.

    No list says which strategy reads what: each is asked again without, and what
    cannot choose then, or chooses otherwise, has to pay. Limits need rewards whatever
    they are. An order needs them if it differs between two made-up ones, and gradients
    are gradients of rewards.
    """
    tables: dict[str, Any] = {
        "candidates": candidates[candidates[REASON] == KEPT].reset_index(drop=True),
        "prompts": prompts,
        "items": items,
        GRADIENTS: gradients,
        EMBEDDINGS: embeddings,
    }
    chosen = selection.sort_values(POSITION)[SAMPLE_ID].to_numpy()
    strategy = function_at(settings.select.strategy, "select.strategy")

    def is_lost_without(*columns: str, table: str | None = None) -> bool:
        rest = {name: value for name, value in tables.items() if name != table}
        rest["candidates"] = tables["candidates"].drop(columns=list(columns))
        try:
            again = strategy(rest, len(chosen), seed)
        except Exception:  # of whatever kind: the strategy is anybody's
            return True
        return not np.array_equal(again, chosen)

    aligned = settings.score.representativeness is not None
    from_them = [*OF_GRADIENTS, VALUE] if aligned else []
    of_gradients = is_lost_without(*from_them, table=GRADIENTS)
    own = settings.select
    order = function_at(own.curriculum.order, "select.curriculum.order")
    up = np.linspace(0, 1, len(chosen))
    orders = [
        order(chosen, made_up, own.curriculum.n_stages, seed)
        for made_up in (up, up[::-1])
    ]
    return {
        REWARDS: of_gradients
        or any(limit is not None for limit in dict(own.prune).values())
        or is_lost_without(*OF_REWARDS, VALUE)
        or not np.array_equal(*orders),
        GRADIENTS: of_gradients,
        EMBEDDINGS: is_lost_without(table=EMBEDDINGS),
    }


def train_arm(given: Given, run: Run) -> dict[str, Any]:
    """Train an arm on its curriculum."""
    assert run.curriculum is not None
    assert run.train is not None
    ordered = Kept(run.curriculum).load("curriculum").sort_values(POSITION)
    inputs = {
        "adapter": Kept(run.shared.initial).load("adapter"),
        "curriculum": ordered,
        "prompts": given.prompts[given.prompts[SAMPLE_ID].isin(ordered[SAMPLE_ID])],
        "items": given.items,
        "item_embeddings": given.item_embeddings,
        "policy_model": given.policy_model,
        "encoder_model": given.encoder_model,
        "policy": given.policy,
        "ranking": given.ranking,
        "grpo": run.train.grpo,
        "prompts_per_step": run.train.prompts_per_step,
        "pace": run.train.pace,
        "seed": run.seed,
        "label": run.label,
    }
    # a folder of its own: trainings side by side would tidy up one another's
    key = run.trained.name
    adapter, _ = train(inputs, _checkpoints(given, run.trained), key, given.execution)
    return {"adapter": adapter}


def rank_run(given: Given, run: Run) -> None:
    """Train an arm, unless it was, and rank a split by it."""

    def rank() -> dict[str, Any]:
        trained, spent = Kept(run.trained), {}
        if run.curriculum is not None:
            trained = keep(run.trained, lambda: train_arm(given, run))
            shutil.rmtree(_checkpoints(given, run.trained), ignore_errors=True)
            spent = trained.spent
        ranks = rank_prompts(
            given.ranked(run.split),
            *given.catalogue,
            trained.load("adapter"),
            *given.models,
            given.policy,
            given.ranking,
            given.batch_size,
            run.label,
        )
        return {"ranks": ranks, "training": pd.DataFrame([spent])}

    keep(run.ranks, rank)


def _checkpoints(given: Given, trained: Path) -> Path:
    return given.folder / "checkpoints" / trained.name


class Folders:
    """Names the folders of everything by what decides it.

    Parameters
    ----------
    given
        What all seeds and arms have in common.
    """

    def __init__(self, given: Given) -> None:
        self._given = given
        self._code = Code()
        kind = given.policy.kind
        self._common = fingerprint(
            prompts=given.scored(seed=0),  # a seed decides of `draw` alone
            items=given.items,
            policy_model=of_model(given.policy_model),
            encoder_model=of_model(given.encoder_model),
            policy=given.policy,
            interactions=given.interactions if kind == "item_tokens" else None,
            window=given.window,
        )
        self._reward = [self._code.at(path) for path, _ in given.ranking.rewards]

    def _named(self, kind: str, work: Any, *above: Path, **parts: Any) -> Path:
        key = fingerprint(
            code=self._code.of(work), above=[path.name for path in above], **parts
        )
        return self._given.folder / kind / key

    def shared(self, seed: int) -> Keys:
        """Return the folders of what all arms of a seed share."""
        own, params = self._given, self._given.score
        rewards = {"ranking": own.ranking, "reward": self._reward}
        initial = self._named(
            "initial",
            score.warm_start_policy,
            common=self._common,
            warm_start=params.warm_start,
            n_prompts=params.proxy.prompts,
            seed=seed,
        )
        proxy = self._named(
            "proxy", score.train_proxy, initial, proxy=params.proxy, **rewards
        )
        rollouts = self._named(
            "rollouts",
            score.probe_rewards,
            proxy,
            probe=_without_batch_size(params.probe),
            **rewards,
        )
        return Keys(
            initial,
            proxy,
            rollouts,
            self._named(
                "gradients",
                score.collect_gradients,
                rollouts,
                gradients=_without_batch_size(params.gradients),
            ),
            self._named("embeddings", score.embed_samples, initial),
        )

    def curriculum(self, shared: Keys, settings: ArmSettings) -> Path:
        """Return the folder of an arm's choice."""
        own = settings.select
        return self._named(
            "curricula",
            choose,
            *shared,
            strategy=self._code.at(own.strategy),
            order=self._code.at(own.curriculum.order),
            select=own.model_dump(mode="json", exclude={"compare"}),
            learnability=settings.score.learnability,
            representativeness=settings.score.representativeness,
            value=settings.score.value,
        )

    def run(
        self,
        label: str,
        seed: int,
        split: str,
        shared: Keys,
        curriculum: Path | None,
        params: TrainParams | None,
    ) -> Run:
        """Return a run; one without a curriculum is the policy before."""
        own, trained = self._given, shared.initial
        if curriculum is not None:
            table = Kept(curriculum).load("curriculum")
            trained = self._named(
                "trained",
                train_arm,
                shared.initial,
                curriculum=table,
                train=params,
                ranking=own.ranking,
                reward=self._reward,
            )
        samples = own.ranked(split)
        ranks = self._named(
            "ranks",
            rank_prompts,
            trained,
            samples=samples,
            ranking=own.ranking,
        )
        return Run(label, seed, split, shared, curriculum, trained, ranks, params)


def _without_batch_size(params: ProbeParams | GradientParams | None) -> Any:
    """Return all parameters but the one that changes memory and time alone."""
    return params and params.model_dump(mode="json", exclude={"batch_size"})


def costs_of(run: Run) -> dict[str, Spent]:
    """Return what an arm cost, part by part; of what arms share, what it needs."""
    if run.curriculum is None:
        return {}
    (needs,) = Kept(run.curriculum).load("needs").to_dict("records")
    shared = {
        PROXY: (run.shared.proxy, needs[REWARDS]),
        REWARDS: (run.shared.rollouts, needs[REWARDS]),
        GRADIENTS: (run.shared.gradients, needs[GRADIENTS]),
        EMBEDDINGS: (run.shared.embeddings, needs[EMBEDDINGS]),
    }
    spent = {name: Kept(path).spent for name, (path, own) in shared.items() if own}
    (training,) = Kept(run.ranks).load("training").to_dict("records")
    nothing = dict.fromkeys(training, 0)
    selection: Spent = {**nothing, "seconds": needs["seconds"]}
    return {**spent, SELECTION: selection, TRAINING: training}


def forget_training(runs: list[Run], kept: list[Run]) -> None:
    """Delete the policies of runs that no other run is of; their ranks stay."""
    wanted = {run.trained for run in kept}
    for run in runs:
        if run.curriculum is not None and run.trained not in wanted:
            forget(run.trained)
