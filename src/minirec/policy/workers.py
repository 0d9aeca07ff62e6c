"""What works on batches of prompts: loaded once a process, see `execution`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike

from minirec import costs
from minirec.columns import (
    COMPLETION,
    FAILURE,
    PROMPT,
    RANK,
    REWARD,
    ROLLOUT,
    SAMPLE_ID,
    TOKEN_ID,
)
from minirec.execution.map_batches import Work
from minirec.policy import gradients, loading
from minirec.policy.adaptive import AdaptiveParams, in_rounds
from minirec.policy.item_workers import make_item_differentiator, make_item_prober
from minirec.policy.params import PolicyParams, RankingParams
from minirec.policy.rewards import Tasks, Written, reward_completions, try_reward
from minirec.policy.rollouts import PROBING, Completion, prefill, sample
from minirec.policy.server import ServerParams, check_server, server_completions
from minirec.policy.text import Catalogue, TextPolicy, load_catalogue, load_policy
from minirec.ranking.rewards import weighted_sum
from minirec.types import Adapter, Matrix, Model

if TYPE_CHECKING:
    from peft import PeftModel

    from minirec.policy.text import Policy
    from minirec.ranking.rewards import Reward

GRADIENT = gradients.GRADIENT


def make_prober(
    policy_model: Model,
    adapter: Adapter,
    encoder_model: Model,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    policy: PolicyParams,
    ranking: RankingParams,
    rollouts: int,
    adaptive: AdaptiveParams | None,
    server: ServerParams | None,
    seed: int,
) -> Work:
    """Load a policy that answers a batch of ``prompts`` and is rewarded.

    With a `server` it is the server that answers, by the adapter that it serves. Of
    each row of the batch come `rollouts` rows of the columns of `rollouts` and
    `rewards` together; if probing is `adaptive`, the first of these, until the sample
    is settled by its own rewards.
    """
    if policy.kind == "item_tokens":
        return make_item_prober(
            adapter, items, policy, ranking, rollouts, adaptive, seed
        )
    reward = weighted_sum(ranking.rewards, items)
    try_reward(reward, len(items))
    catalogue = load_catalogue(encoder_model, items, item_embeddings, ranking)
    read: Callable[..., Any]
    write: Callable[..., list[list[Completion]]]
    if server is None:
        prober = load_policy(policy_model, adapter, catalogue, policy)
        read, write = partial(prefill, prober.lm, prober.tokenizer), sample
    else:
        read = _Sent
        write, prober = _served(server, policy_model, catalogue, policy)

    def probe(batch: pd.DataFrame) -> pa.Table:
        tasks = Tasks(batch, items)
        asked: Any = read(batch[PROMPT].tolist())
        held = np.arange(len(batch))  # whose prompts are held

        def answer(rows: np.ndarray, numbers: range) -> pa.Table:
            nonlocal asked, held
            if len(rows) < len(held):
                asked = asked.select(np.searchsorted(held, rows).tolist())
                held = rows
            own = batch.iloc[rows]
            groups = write(
                asked,
                [(seed, PROBING, sample_id) for sample_id in own[SAMPLE_ID]],
                numbers,
                policy.sampling.max_new_tokens,
                policy.sampling.temperature,
            )
            return _rewarded(prober, tasks, reward, own, numbers, groups)

        return in_rounds(len(batch), rollouts, adaptive, answer)

    return probe


def _rewarded(
    prober: Policy,
    tasks: Tasks,
    reward: Reward,
    asked: pd.DataFrame,
    numbers: range,
    groups: list[list[Completion]],
) -> pa.Table:
    """Return a row of each completion: ``numbers`` are those of its sample's rollouts.

    ``groups`` holds the completions of each row of ``asked``.
    """
    completions = [completion for group in groups for completion in group]
    tokens = [completion.tokens for completion in completions]
    texts = prober.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    ids, prompts = (
        asked[name].to_numpy().repeat(len(numbers)) for name in (SAMPLE_ID, PROMPT)
    )
    written = Written(texts, tokens, prompts.tolist())
    finite = [completion.finite for completion in completions]
    outcome = reward_completions(prober, tasks, reward, ids, written, finite)
    return pa.table(
        {
            SAMPLE_ID: ids,
            ROLLOUT: np.tile(np.array(numbers), len(asked)),
            COMPLETION: pa.array(texts, pa.string()),
            TOKEN_ID: pa.array(tokens, pa.list_(pa.int64())),
            RANK: outcome.rank,
            REWARD: outcome.reward,
            FAILURE: pa.array(outcome.failure, pa.string()),
        }
    )


@dataclass(frozen=True)
class _Sent:
    """Prompts that a server reads anew for each rollout."""

    prompts: list[str]

    def select(self, rows: Sequence[int]) -> _Sent:
        """Return some of the prompts, in that order."""
        return _Sent([self.prompts[row] for row in rows])


def _served(
    server: ServerParams,
    policy_model: Model,
    catalogue: Catalogue,
    policy: PolicyParams,
) -> tuple[Callable[..., list[list[Completion]]], TextPolicy]:
    """Return a function that lets a server write, and a policy without a model."""
    tokenizer = loading.load_tokenizer(policy_model)
    ends = loading.end_tokens(policy_model, tokenizer, policy.prompt)
    checked = False

    def write(
        sent: _Sent,
        seeds: Sequence[Sequence[int]],
        rollouts: range,
        max_new_tokens: int,
        temperature: float,
    ) -> list[list[Completion]]:
        nonlocal checked
        if not checked:
            check_server(server, tokenizer, sent.prompts[0])
            checked = True
        sampling = (seeds, rollouts, max_new_tokens, temperature)
        groups = server_completions(server, tokenizer, sent.prompts, *sampling, ends)
        asked = tokenizer(sent.prompts, add_special_tokens=False)["input_ids"]
        costs.add(
            tokens_generated=sum(len(tokens) for group in groups for tokens in group),
            tokens_read=len(rollouts) * sum(map(len, asked)),
            flops=float("nan"),
        )
        return [[Completion(tokens, True) for tokens in group] for group in groups]

    # It grounds what was written, and nobody asks it to write.
    lm = cast("PeftModel", None)
    return write, TextPolicy(catalogue, policy, lm, tokenizer)


def make_differentiator(
    policy_model: Model,
    adapter: Adapter,
    policy: PolicyParams,
    space: str,
    last_blocks: int | None,
    dimensions: int,
    seed: int,
    direction: np.ndarray | None = None,
) -> Work:
    """Load a policy that gives each prompt's gradient of the GRPO loss.

    A batch has, beside ``sample_id`` and ``prompt``, the lists ``token_id`` (of each
    rollout the tokens) and ``reward``. Of each row comes one, with the list
    ``gradient``, the mean over its rollouts: a sketch of `dimensions` numbers in the
    space ``lora``, which alone reads `last_blocks` and `dimensions`; the hidden size in
    ``hidden`` and ``hessian``, which multiplies the Hessian with `direction`.
    """
    if policy.kind == "item_tokens":
        return make_item_differentiator(
            adapter, policy, space, last_blocks, dimensions, seed, direction
        )
    tokenizer = loading.load_tokenizer(policy_model)
    base = loading.load_model(policy_model, policy.dtype, tokenizer, policy.prompt)
    lm = loading.attach_adapter(base, adapter)
    if space == "lora":
        parameters = gradients.trainable_parameters(lm, last_blocks)
        sizes = [parameter.numel() for _, parameter in parameters]
        sketch = gradients.CountSketch(sizes, dimensions, seed)

    def differentiate(batch: pd.DataFrame) -> pa.Table:
        ids = tokenizer(batch[PROMPT].tolist(), add_special_tokens=False)["input_ids"]
        written, advantages = [], []
        each_advantages = gradients.group_advantages(batch[REWARD].tolist())
        for rollouts, own in zip(batch[TOKEN_ID], each_advantages, strict=True):
            # a rollout that broke at once has no token to differentiate
            some = [len(tokens) > 0 for tokens in rollouts]
            written.append([list(tokens) for tokens in rollouts if len(tokens)])
            advantages.append(own[some])
        last = (tokenizer.pad_token_id, policy.sampling.temperature)
        if space == "lora":
            each = gradients.sample_gradients(
                lm, ids, written, advantages, *last, parameters
            )
            rows = sketch([each[name] for name, _ in parameters])
        elif direction is None:
            rows = gradients.hidden_gradients(lm, ids, written, advantages, *last)
        else:
            rows = gradients.hessian_products(lm, ids, written, direction, *last)
        # prompts weigh alike in a mean, however many rollouts they have
        rows = rows / np.maximum(batch[REWARD].map(len).to_numpy()[:, None], 1)
        flat = pa.array(rows.astype(np.float32, copy=False).ravel())
        lists = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        return pa.table({SAMPLE_ID: batch[SAMPLE_ID].to_numpy(), GRADIENT: lists})

    return differentiate


def matrix_of(tables: Iterable[pa.Table], sample_id: ArrayLike) -> Matrix:
    """Return what `make_differentiator` made as a matrix with its sample ids.

    Parameters
    ----------
    tables
        Of it, in any order; one after the other is held beside the matrix.
    sample_id
        (N,) of all their rows.

    Returns
    -------
    dict
        ``sample_id``, ascending, and ``matrix`` (N, d), float32.
    """
    ids = np.sort(np.asarray(sample_id))
    matrix = np.empty((len(ids), 0), np.float32)
    for table in tables:
        lists = table[GRADIENT].combine_chunks()
        rows = lists.flatten().to_numpy().reshape(len(table), -1)
        if not matrix.shape[1]:
            matrix = np.empty((len(ids), rows.shape[1]), np.float32)
        matrix[np.searchsorted(ids, table[SAMPLE_ID].to_numpy())] = rows
    return {SAMPLE_ID: ids, "matrix": matrix}
