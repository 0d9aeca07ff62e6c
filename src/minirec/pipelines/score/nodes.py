"""From prompts to scores: tables in, tables out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from minirec.columns import (
    COMPLETION,
    FAILURE,
    HISTORY_ITEM_ID,
    ITEM_ID,
    LEARNABILITY,
    MEAN_REWARD,
    N_TOKENS,
    PROMPT,
    RANK,
    REPRESENTATIVENESS,
    REWARD,
    ROLLOUT,
    SAMPLE_ID,
    SPLIT,
    STD_REWARD,
    TEXT,
    TITLE,
    TOKEN_ID,
    TRAIN,
    VALUE,
)
from minirec.errors import InputError
from minirec.execution.batches import batches
from minirec.functions import function_at
from minirec.pipelines.score.params import (
    GradientParams,
    LearnabilityParams,
    ProbeParams,
    ProxyParams,
    ValueParams,
    WarmStartParams,
)
from minirec.policy.params import LoraParams, PolicyParams, PromptParams, RankingParams
from minirec.selection.learnability import gaussian_learnability
from minirec.selection.representativeness import gradient_alignment
from minirec.types import Adapter, Matrix, Model


def embed_items(items: pd.DataFrame, encoder_model: Model) -> Matrix:
    """Embed each item's text: row i of ``matrix`` is item i of the catalogue."""
    from minirec.ranking.encoder import encode, load_encoder

    encoder = load_encoder(encoder_model)
    return {"matrix": encode(encoder, items[TEXT].tolist(), "embed_items")}


def warm_start_policy(
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    policy_model: Model,
    dtype: str,
    prompt: PromptParams,
    lora: LoraParams,
    n_prompts: int,
    warm_start: WarmStartParams,
    seed: int,
) -> Adapter:
    """Make the adapter that the proxy and the trained policy both start from.

    Without warm-start steps it is a fresh one, which changes no answer.
    """
    from minirec.policy.loading import (
        get_adapter,
        load_model,
        load_tokenizer,
        new_adapter,
    )

    subset = _proxy_subset(prompts, n_prompts, seed)
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
    seed: int,
) -> tuple[Adapter, pd.DataFrame]:
    """Train the proxy: a short GRPO run on a random subset of the pool."""
    from minirec.training.grpo import train_adapter

    subset = _proxy_subset(prompts, proxy.prompts, seed)
    adapter, training = train_adapter(
        initial_adapter,
        subset[SAMPLE_ID].tolist(),
        [0] * len(subset),
        subset,
        items,
        item_embeddings,
        policy_model,
        encoder_model,
        policy,
        ranking,
        proxy.grpo,
        proxy.prompts_per_step,
        seed,
        "train_proxy",
    )
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
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let the proxy answer each prompt of the pool several times; reward each answer."""
    reward = function_at(ranking.reward, "ranking.reward")
    from minirec.policy.rewards import Tasks, reward_completions
    from minirec.policy.rollouts import PROBING, sample_completions
    from minirec.policy.text import load_catalogue, load_policy

    catalogue = load_catalogue(encoder_model, items, item_embeddings, ranking)
    proxy = load_policy(policy_model, proxy_adapter, catalogue, policy)
    tasks = Tasks(prompts, items)
    parts = []
    for batch in batches(_pool(prompts), probe.batch_size, "probe_rewards"):
        groups = sample_completions(
            proxy.lm,
            proxy.tokenizer,
            batch[PROMPT].tolist(),
            [(seed, PROBING, sample_id) for sample_id in batch[SAMPLE_ID]],
            probe.rollouts,
            policy.sampling.max_new_tokens,
            policy.sampling.temperature,
        )
        tokens = [written.tokens for group in groups for written in group]
        texts = proxy.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ids = batch[SAMPLE_ID].repeat(probe.rollouts).to_numpy()
        outcome = reward_completions(proxy, tasks, reward, ids, texts)
        parts.append(
            pd.DataFrame(
                {
                    SAMPLE_ID: ids,
                    ROLLOUT: np.tile(np.arange(probe.rollouts), len(batch)),
                    COMPLETION: texts,
                    TOKEN_ID: tokens,
                    RANK: outcome.rank,
                    REWARD: outcome.reward,
                    FAILURE: pd.array(outcome.failure, dtype="str"),
                }
            )
        )
    table = pd.concat(parts).sort_values([SAMPLE_ID, ROLLOUT], ignore_index=True)
    key = [SAMPLE_ID, ROLLOUT]
    return table[[*key, COMPLETION, TOKEN_ID]], table[[*key, RANK, REWARD, FAILURE]]


def collect_gradients(
    prompts: pd.DataFrame,
    rollouts: pd.DataFrame,
    rewards: pd.DataFrame,
    proxy_adapter: Adapter,
    policy_model: Model,
    policy: PolicyParams,
    gradient: GradientParams,
    seed: int,
) -> Matrix:
    """Collect each sample's gradient of the GRPO loss on the proxy's own rollouts."""
    from minirec.policy.gradients import (
        CountSketch,
        group_advantages,
        sample_gradients,
        trainable_parameters,
    )
    from minirec.policy.loading import attach_adapter, load_model, load_tokenizer

    tokenizer = load_tokenizer(policy_model)
    base = load_model(policy_model, policy.dtype, tokenizer, policy.prompt)
    lm = attach_adapter(base, proxy_adapter)
    parameters = trainable_parameters(lm, gradient.last_blocks)
    sketch = CountSketch([p.numel() for _, p in parameters], gradient.dimensions, seed)

    key = [SAMPLE_ID, ROLLOUT]
    written = rollouts.sort_values(key).groupby(SAMPLE_ID)[TOKEN_ID].agg(list)
    earned = rewards.sort_values(key).groupby(SAMPLE_ID)[REWARD].agg(list)
    pool = _pool(prompts)
    if not (set(pool[SAMPLE_ID]) <= set(written.index) & set(earned.index)):
        raise InputError(
            "rollouts or rewards lack samples of prompts: they were made from another "
            "pool; run `kedro run --pipelines score`"
        )
    rows, ids = [], []
    for batch in batches(pool, gradient.batch_size, "collect_gradients"):
        sample_ids = batch[SAMPLE_ID].to_numpy()
        texts = tokenizer(batch[PROMPT].tolist(), add_special_tokens=False)
        gradients = sample_gradients(
            lm,
            texts["input_ids"],
            [[list(tokens) for tokens in written[s]] for s in sample_ids],
            group_advantages(np.stack([earned[s] for s in sample_ids])),
            tokenizer.pad_token_id,
            policy.sampling.temperature,
            parameters,
        )
        rows.append(sketch([gradients[name] for name, _ in parameters]))
        ids.append(sample_ids)
    order = np.argsort(np.concatenate(ids))
    return {
        SAMPLE_ID: np.concatenate(ids)[order],
        "matrix": np.concatenate(rows)[order],
    }


def score_learnability(
    rewards: pd.DataFrame, learnability: LearnabilityParams
) -> pd.DataFrame:
    """Score how much each sample can teach, from the rewards that the proxy earned."""
    groups = rewards.groupby(SAMPLE_ID)[REWARD]
    mean = groups.mean()
    score = gaussian_learnability(
        mean.to_numpy(), mu=learnability.mu, sigma=learnability.sigma
    )
    return pd.DataFrame(
        {
            SAMPLE_ID: mean.index.to_numpy(),
            MEAN_REWARD: mean.to_numpy(),
            STD_REWARD: groups.std(ddof=0).to_numpy(),
            LEARNABILITY: score,
        }
    )


def score_representativeness(gradients: Matrix) -> pd.DataFrame:
    """Score how each sample's gradient aligns with the mean of all."""
    return pd.DataFrame(
        {
            SAMPLE_ID: np.asarray(gradients[SAMPLE_ID]),
            REPRESENTATIVENESS: gradient_alignment(gradients["matrix"]),
        }
    )


def embed_samples(
    prompts: pd.DataFrame, items: pd.DataFrame, encoder_model: Model
) -> Matrix:
    """Embed each sample of the pool: the titles of its history, as one text."""
    from minirec.ranking.encoder import encode, load_encoder

    encoder = load_encoder(encoder_model)
    pool = _pool(prompts).sort_values(SAMPLE_ID)
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


def _pool(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the training prompts, longest first: batches of like length pad least.

    A batch too large for the memory fails at once, not at the end.
    """
    pool = prompts[prompts[SPLIT] == TRAIN]
    return pool.sort_values([N_TOKENS, SAMPLE_ID], ascending=False)


def _proxy_subset(prompts: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Draw the prompts that the warm start and the proxy train on."""
    pool = prompts[prompts[SPLIT] == TRAIN]
    if n > len(pool):
        raise InputError(
            f"score.proxy.prompts is {n}, and the pool has {len(pool)}: lower it, or "
            "raise preprocess.pool.train"
        )
    return pool.sample(n, random_state=seed)
