"""From prompts to scores: tables in, tables out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pandas as pd

from minirec.columns import (
    COMPLETION,
    DRAW,
    FAILURE,
    HISTORY_ITEM_ID,
    ITEM_ID,
    LEARNABILITY,
    MEAN_REWARD,
    N_TOKENS,
    POSITION,
    PROMPT,
    RANK,
    REPRESENTATIVENESS,
    REWARD,
    ROLLOUT,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    STAGE,
    STD_REWARD,
    TARGET_ITEM_ID,
    TEXT,
    TITLE,
    TOKEN_ID,
    TRAIN,
    USER_ID,
    VALID,
    VALUE,
)
from minirec.errors import InputError
from minirec.execution.map_batches import map_batches
from minirec.execution.params import ExecutionParams
from minirec.execution.parts import in_order
from minirec.pipelines.keys import work_key
from minirec.pipelines.score.params import (
    GradientParams,
    LearnabilityParams,
    ProbeParams,
    ProxyParams,
    RepresentativenessParams,
    ValueParams,
    WarmStartParams,
)
from minirec.policy.params import (
    ItemTokenParams,
    LoraParams,
    PolicyParams,
    PromptParams,
    RankingParams,
)
from minirec.selection.learnability import auto_mu, gaussian_learnability
from minirec.selection.representativeness import gradient_alignment
from minirec.types import Adapter, Matrix, Model

# prompts that a server is asked at once at most
_ASKED = 256

logger = logging.getLogger(__name__)


def embed_items(items: pd.DataFrame, encoder_model: Model) -> Matrix:
    """Embed each item's text: row i of ``matrix`` is item i of the catalogue.

    Without an encoder the rows are empty: a policy of item tokens needs none.
    """
    if not encoder_model:
        return {"matrix": np.empty((len(items), 0), np.float32)}
    from minirec.ranking.encoder import encode, load_encoder

    encoder = load_encoder(encoder_model)
    return {"matrix": encode(encoder, items[TEXT].tolist(), "embed_items")}


def warm_start_policy(
    interactions: ir.Table,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    policy_model: Model,
    kind: str,
    dtype: str,
    prompt: PromptParams,
    lora: LoraParams,
    item_tokens: ItemTokenParams | None,
    window: int,
    n_prompts: int,
    warm_start: WarmStartParams,
    checkpoints: Path,
    seed: int,
) -> Adapter:
    """Make the adapter that the proxy and the trained policy both start from.

    Without warm-start steps it is a fresh one, which changes no answer. A policy of
    item tokens is pre-trained instead, and all its weights take the adapter's place.
    """
    if kind == "item_tokens":
        assert item_tokens is not None  # `PolicyParams` refuses the kind without
        return _pretrained(
            interactions, items, item_tokens, dtype, window, checkpoints, seed
        )
    from minirec.policy.loading import (
        get_adapter,
        load_model,
        load_tokenizer,
        new_adapter,
    )

    if warm_start.prompts is None:
        subset = _first_drawn(prompts, n_prompts, "score.proxy.prompts")
    else:
        name = "score.warm_start.prompts"
        subset = _first_drawn(prompts, warm_start.prompts, name)
    tokenizer = load_tokenizer(policy_model)
    base = load_model(policy_model, dtype, tokenizer, prompt)
    lm = new_adapter(base, lora, seed)
    if warm_start.steps:
        from minirec.training.warm_start import teach_answers

        teach_answers(
            lm,
            tokenizer,
            subset,
            items,
            prompt,
            warm_start.steps,
            warm_start.learning_rate,
            warm_start.prompts_per_step,
            seed,
        )
    return get_adapter(lm)


def _pretrained(
    interactions: ir.Table,
    items: pd.DataFrame,
    item_tokens: ItemTokenParams,
    dtype: str,
    window: int,
    checkpoints: Path,
    seed: int,
) -> Adapter:
    from minirec.training.checkpoints import keep_only
    from minirec.training.item_pretraining import pretrained

    table = interactions.select([USER_ID, ITEM_ID, POSITION, SPLIT]).execute()
    inputs: dict[str, Any] = {
        "interactions": table.sort_values([USER_ID, POSITION], ignore_index=True),
        "items": items,
        "params": item_tokens,
        "dtype": dtype,
        "window": window,
        "seed": seed,
        "label": "warm_start_policy",
    }
    folder = checkpoints / inputs["label"] / work_key(pretrained, inputs)
    keep_only(folder)
    return pretrained(**inputs, folder=folder)


def train_proxy(
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    initial_adapter: Adapter,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    proxy: ProxyParams,
    execution: ExecutionParams,
    checkpoints: Path,
    seed: int,
) -> tuple[Adapter, pd.DataFrame]:
    """Train the proxy: a short GRPO run on a random subset of the pool."""
    from minirec.training.launched import train

    subset = _first_drawn(prompts, proxy.prompts, "score.proxy.prompts")
    inputs = {
        "adapter": initial_adapter,
        "curriculum": subset[[SAMPLE_ID]].assign(**{STAGE: 0, MEAN_REWARD: np.nan}),
        "prompts": subset,
        "items": items,
        "item_embeddings": item_embeddings,
        "policy_model": policy_model,
        "encoder_model": encoder_model,
        "policy": policy,
        "ranking": ranking,
        "grpo": proxy.grpo,
        "prompts_per_step": proxy.prompts_per_step,
        "pace": None,
        "seed": seed,
        "label": "train_proxy",
    }
    key = work_key(train, inputs, *(path for path, _ in ranking.rewards))
    adapter, training = train(inputs, checkpoints, key, execution)
    return adapter, training.log


def probe_rewards(
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    proxy_adapter: Adapter,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    probe: ProbeParams,
    memory_gb: float,
    execution: ExecutionParams,
    finished_batches: Path,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let the proxy answer each prompt of the pool several times; reward each answer."""
    from minirec.policy.workers import make_prober

    scored = _scored(prompts)
    init = {
        "policy_model": policy_model,
        "adapter": proxy_adapter,
        "encoder_model": encoder_model,
        "items": items,
        "item_embeddings": item_embeddings,
        "policy": policy,
        "ranking": ranking,
        "rollouts": probe.rollouts,
        "adaptive": probe.adaptive,
        "server": probe.server,
        "seed": seed,
    }
    batch_size = _probed_at_once(
        scored,
        items,
        proxy_adapter,
        policy_model,
        policy,
        probe,
        memory_gb,
    )
    tables = map_batches(
        make_prober,
        init,
        scored[[SAMPLE_ID, PROMPT, TARGET_ITEM_ID, SEEN_ITEM_ID]],
        batch_size=batch_size,
        key=work_key(make_prober, init, *(path for path, _ in ranking.rewards)),
        folder=finished_batches,
        label="probe_rewards",
        execution=execution,
    )
    table = in_order(tables).to_pandas()
    if probe.adaptive is not None:
        most = len(scored) * probe.rollouts
        logger.info("probe_rewards: %d of %d rollouts written", len(table), most)
    key = [SAMPLE_ID, ROLLOUT]
    return table[[*key, COMPLETION, TOKEN_ID]], table[[*key, RANK, REWARD, FAILURE]]


def _probed_at_once(
    scored: pd.DataFrame,
    items: pd.DataFrame,
    proxy_adapter: Adapter,
    policy_model: Model,
    policy: PolicyParams,
    probe: ProbeParams,
    memory_gb: float,
) -> int:
    """Return how many prompts are answered at once; refuse a proxy that does not fit."""
    if policy.kind == "item_tokens":
        from minirec.policy.item_tokens import check_weights
        from minirec.policy.item_workers import read_at_once

        check_weights(proxy_adapter, policy, items)
        return probe.batch_size or read_at_once(proxy_adapter, memory_gb)
    from minirec.policy.memory import prompts_at_once, ranked_at_once

    if probe.server is not None:
        fit = ranked_at_once(probe.in_a_round, len(items), memory_gb)
        return probe.batch_size or min(_ASKED, fit)
    from minirec.policy.loading import attach_adapter, outline

    # also where the size is given: an adapter that does not fit shows at once
    lm = attach_adapter(outline(policy_model, policy.dtype), proxy_adapter)
    return probe.batch_size or _told(
        "probe_rewards",
        prompts_at_once(
            lm,
            int(scored[N_TOKENS].max()),
            probe.in_a_round,
            policy.sampling.max_new_tokens,
            len(items),
            memory_gb,
        ),
        len(scored),
        memory_gb,
    )


def collect_gradients(
    prompts: pd.DataFrame,
    rollouts: pd.DataFrame,
    rewards: pd.DataFrame,
    proxy_adapter: Adapter,
    policy_model: Model,
    policy: PolicyParams,
    gradient: GradientParams | None,
    memory_gb: float,
    execution: ExecutionParams,
    finished_batches: Path,
    seed: int,
) -> Matrix:
    """Collect each sample's gradient of the GRPO loss on the proxy's own rollouts.

    Without parameters for it none are, and the matrix has no row.
    """
    if gradient is None:
        none: Matrix = {SAMPLE_ID: np.empty(0, np.int64)}
        return none | {"matrix": np.empty((0, 0), np.float32)}
    from minirec.policy.workers import make_differentiator, matrix_of

    scored = _rewarded(_scored(prompts), rollouts, rewards)
    rows_at_once = _rows_at_once(scored, proxy_adapter, policy_model, policy, gradient)
    read = [SAMPLE_ID, PROMPT, TOKEN_ID, REWARD]
    if policy.kind == "item_tokens":
        read += [TARGET_ITEM_ID, SEEN_ITEM_ID]
    sketched = gradient.space in ("lora", "weights")

    def collect(label: str, space: str, direction: np.ndarray | None = None) -> Matrix:
        batch_size = gradient.batch_size or _told(
            label, rows_at_once(space, memory_gb), len(scored), memory_gb
        )
        init = {
            "policy_model": policy_model,
            "adapter": proxy_adapter,
            "policy": policy,
            "space": space,
            "last_blocks": gradient.last_blocks if sketched else None,
            "dimensions": gradient.dimensions if sketched else 0,
            "seed": seed,
            "direction": direction,
        }
        return matrix_of(
            map_batches(
                make_differentiator,
                init,
                scored[read],
                batch_size=batch_size,
                key=work_key(make_differentiator, init),
                folder=finished_batches,
                label=label,
                execution=execution,
            ),
            scored[SAMPLE_ID],
        )

    if gradient.space != "hessian":
        return collect("collect_gradients", gradient.space)
    of_pool = _of_split(collect("mean_gradient", "hidden"), prompts, TRAIN)
    return collect("collect_gradients", "hessian", _mean(of_pool["matrix"]))


def _rewarded(
    scored: pd.DataFrame, rollouts: pd.DataFrame, rewards: pd.DataFrame
) -> pd.DataFrame:
    """Add lists of each prompt's completions, as tokens, and of their rewards."""
    key = [SAMPLE_ID, ROLLOUT]
    written = rollouts.sort_values(key).groupby(SAMPLE_ID)[TOKEN_ID].agg(list)
    earned = rewards.sort_values(key).groupby(SAMPLE_ID)[REWARD].agg(list)
    if not (set(scored[SAMPLE_ID]) <= set(written.index) & set(earned.index)):
        raise InputError(
            "rollouts or rewards lack samples of prompts: they were made from another "
            "pool; run `kedro run --pipelines score`"
        )
    return scored.join(written, on=SAMPLE_ID).join(earned, on=SAMPLE_ID)


def _rows_at_once(
    scored: pd.DataFrame,
    adapter: Adapter,
    policy_model: Model,
    policy: PolicyParams,
    gradient: GradientParams,
) -> Callable[[str, float], int]:
    """Return how many prompts fit into a space and a memory; refuse what does not fit.

    Also where the size is given: an adapter of another model shows at once.
    """
    if policy.kind == "item_tokens":
        from minirec.policy import item_workers
        from minirec.policy.item_tokens import check_weights

        check_weights(adapter, policy)
        return lambda space, memory_gb: item_workers.rows_at_once(
            adapter, space, gradient.last_blocks, memory_gb
        )
    from minirec.policy.gradients import trainable_parameters
    from minirec.policy.loading import attach_adapter, outline
    from minirec.policy.memory import rows_at_once

    lm = attach_adapter(outline(policy_model, policy.dtype), adapter)
    of_lora = gradient.space == "lora"
    parameters = trainable_parameters(lm, gradient.last_blocks) if of_lora else []
    tokens = scored[TOKEN_ID].map(lambda lists: sum(map(len, lists)))
    longest = int((scored[N_TOKENS] + tokens).max())
    most = int(tokens.max())
    return lambda space, memory_gb: rows_at_once(
        lm, longest, most, space, parameters, gradient.dimensions, memory_gb
    )


def score_learnability(
    prompts: pd.DataFrame, rewards: pd.DataFrame, learnability: LearnabilityParams
) -> pd.DataFrame:
    """Score how much each sample can teach, and log the mu that ``auto`` stands for."""
    scored = learnability_of(prompts, rewards, learnability)
    if learnability.mu == "auto":
        mu = auto_mu(scored[MEAN_REWARD])
        logger.info("score_learnability: mu is %.4g, by auto", mu)
    return scored


def learnability_of(
    prompts: pd.DataFrame, rewards: pd.DataFrame, learnability: LearnabilityParams
) -> pd.DataFrame:
    """Return the table ``learnability`` from the rewards that the proxy earned."""
    pool = rewards[rewards[SAMPLE_ID].isin(_pool(prompts)[SAMPLE_ID])]
    groups = pool.groupby(SAMPLE_ID)[REWARD]
    mean = groups.mean()
    mu = auto_mu(mean) if learnability.mu == "auto" else learnability.mu
    score = gaussian_learnability(mean, mu=mu, sigma=learnability.sigma)
    return pd.DataFrame(
        {
            SAMPLE_ID: mean.index.to_numpy(),
            MEAN_REWARD: mean.to_numpy(),
            STD_REWARD: groups.std(ddof=0).to_numpy(),
            LEARNABILITY: score,
        }
    )


def score_representativeness(
    prompts: pd.DataFrame,
    gradients: Matrix,
    initial_adapter: Adapter,
    proxy_adapter: Adapter,
    gradient: GradientParams | None,
    representativeness: RepresentativenessParams | None,
    seed: int,
) -> pd.DataFrame:
    """Score how each sample's gradient aligns with a global update direction.

    Without parameters for it each sample has 0.
    """
    if gradient is None or representativeness is None:
        ids = np.sort(_pool(prompts)[SAMPLE_ID].to_numpy())
        return pd.DataFrame({SAMPLE_ID: ids, REPRESENTATIVENESS: 0.0})
    pool = _of_split(gradients, prompts, TRAIN)
    direction = None
    if representativeness.direction == "validation":
        direction = _mean(_of_split(gradients, prompts, VALID)["matrix"])
    elif representativeness.direction == "proxy":
        from minirec.policy.gradients import adapter_movement

        direction = adapter_movement(
            initial_adapter,
            proxy_adapter,
            gradient.last_blocks,
            gradient.dimensions,
            seed,
        )
    return pd.DataFrame(
        {
            SAMPLE_ID: np.asarray(pool[SAMPLE_ID]),
            REPRESENTATIVENESS: gradient_alignment(pool["matrix"], direction),
        }
    )


def embed_samples(
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    encoder_model: Model,
    initial_adapter: Adapter,
) -> Matrix:
    """Embed each sample of the pool: the titles of its history, as one text.

    Without an encoder it is the policy of item tokens that reads the history, before
    any reinforcement.
    """
    pool = _pool(prompts).sort_values(SAMPLE_ID)
    if not encoder_model:
        from minirec.policy.item_tokens import sample_embeddings

        return {
            SAMPLE_ID: pool[SAMPLE_ID].to_numpy(),
            "matrix": sample_embeddings(initial_adapter, pool[PROMPT].tolist()),
        }
    from minirec.ranking.encoder import encode, load_encoder

    encoder = load_encoder(encoder_model)
    title = dict(zip(items[ITEM_ID], items[TITLE], strict=True))
    texts = [", ".join(title[item] for item in ids) for ids in pool[HISTORY_ITEM_ID]]
    return {
        SAMPLE_ID: pool[SAMPLE_ID].to_numpy(),
        "matrix": encode(encoder, texts, "embed_samples"),
    }


def join_scores(
    learnability: pd.DataFrame, representativeness: pd.DataFrame, value: ValueParams
) -> pd.DataFrame:
    """Join what is known of each sample, and value it; higher is better.

    Value = alpha x learnability + representativeness (MiniRec, arXiv 2602.04278).
    """
    scores = learnability.merge(
        representativeness, on=SAMPLE_ID, validate="one_to_one", how="outer"
    )
    if scores.isna().any(axis=None):
        raise InputError(
            "learnability and representativeness hold different samples: they were "
            "made from different rollouts; run `kedro run --pipelines score`"
        )
    total = value.alpha * scores[LEARNABILITY] + scores[REPRESENTATIVENESS]
    return scores.assign(**{VALUE: total})


def _told(label: str, fit: int, n: int, memory_gb: float) -> int:
    """Log how many of n prompts are worked on at once, and return it."""
    at_once = min(fit, n)
    if fit == 1:
        logger.info("%s: one prompt at once, by score.memory_gb %g", label, memory_gb)
    else:
        logger.info("%s: %d prompts at once, within %g GB", label, at_once, memory_gb)
    return at_once


def _pool(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the training prompts, which are chosen from."""
    return prompts[prompts[SPLIT] == TRAIN]


def _scored(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the prompts of training and of validation, longest first.

    Batches of like length pad least, and one too large for the memory fails at once.
    """
    scored = prompts[prompts[SPLIT].isin([TRAIN, VALID])]
    return scored.sort_values([N_TOKENS, SAMPLE_ID], ascending=False)


def _mean(matrix: np.ndarray) -> np.ndarray:
    """Return the mean row, summed in float64: there may be millions."""
    return matrix.mean(axis=0, dtype=np.float64)


def _of_split(gradients: Matrix, prompts: pd.DataFrame, split: str) -> Matrix:
    """Return the rows of a split; of all rows no copy, they may be a memory map."""
    own = np.isin(gradients[SAMPLE_ID], prompts.loc[prompts[SPLIT] == split, SAMPLE_ID])
    if own.all():
        return gradients
    return {name: array[own] for name, array in gradients.items()}


def _first_drawn(prompts: pd.DataFrame, n: int, name: str) -> pd.DataFrame:
    """Return the prompts that the warm start and the proxy train on.

    A pool that grows keeps them, and with them the proxy and all that it has scored.
    """
    pool = _pool(prompts)
    if n > len(pool):
        raise InputError(
            f"{name} is {n}, and the pool has {len(pool)}: lower it, or "
            "raise preprocess.pool.train"
        )
    return pool.sort_values(DRAW).head(n)
