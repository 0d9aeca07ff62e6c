"""What works on batches of prompts for a policy of item tokens, see `execution`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

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
from minirec.policy import gradients
from minirec.policy.adaptive import AdaptiveParams, in_rounds
from minirec.policy.flops import head_flops
from minirec.policy.item_tokens import (
    AT_ONCE,
    ItemPolicy,
    hidden_flops,
    last_hidden,
    load_policy,
    reward_slates,
    sample_slates,
    seen_mask,
    slate_log_probs,
)
from minirec.policy.memory import ranked_at_once
from minirec.policy.params import PolicyParams, RankingParams
from minirec.policy.rewards import Tasks, try_reward
from minirec.policy.rollouts import PROBING
from minirec.ranking.rewards import weighted_sum
from minirec.types import Adapter

if TYPE_CHECKING:
    import torch


def make_item_prober(
    adapter: Adapter,
    items: pd.DataFrame,
    policy: PolicyParams,
    ranking: RankingParams,
    rollouts: int,
    adaptive: AdaptiveParams | None,
    seed: int,
) -> Work:
    """Load a policy that answers a batch of ``prompts`` and is rewarded.

    See `minirec.policy.workers.make_prober`: the columns are the same. ``completion``
    and ``token_id`` are the slate's items, in order.
    """
    import torch

    reward = weighted_sum(ranking.rewards, items)
    try_reward(reward, len(items))
    prober = load_policy(adapter, policy, items)
    names = np.array(prober.tokenizer.convert_ids_to_tokens(list(range(len(items)))))

    def answered(
        tasks: Tasks, ids: np.ndarray, numbers: range, log_probs: torch.Tensor
    ) -> pa.Table:
        slates = sample_slates(
            log_probs,
            prober.slate_size,
            [(seed, PROBING, int(sample_id)) for sample_id in ids],
            numbers,
        ).numpy()
        rank, earned = reward_slates(prober, tasks, reward, ids, slates)
        flat = slates.reshape(-1, prober.slate_size)
        starts = np.arange(0, slates.size + 1, prober.slate_size, dtype=np.int32)
        return pa.table(
            {
                SAMPLE_ID: ids.repeat(len(numbers)),
                ROLLOUT: np.tile(np.array(numbers), len(ids)),
                COMPLETION: pa.array([" ".join(own) for own in names[flat]]),
                TOKEN_ID: pa.ListArray.from_arrays(starts, slates.ravel()),
                RANK: rank.ravel(),
                REWARD: earned.ravel(),
                FAILURE: pa.nulls(len(flat), pa.string()),
            }
        )

    def probe(batch: pd.DataFrame) -> pa.Table:
        tasks = Tasks(batch, items)
        ids = batch[SAMPLE_ID].to_numpy()
        with torch.inference_mode():
            hidden = last_hidden(prober.lm, prober.read(batch[PROMPT].tolist()))
            seen = seen_mask(tasks, ids, prober.n_items).to(hidden.device)
            log_probs = prober.log_probs(hidden, seen)
        return in_rounds(
            len(batch),
            rollouts,
            adaptive,
            lambda rows, numbers: answered(tasks, ids[rows], numbers, log_probs[rows]),
        )

    return probe


def make_item_differentiator(
    adapter: Adapter,
    policy: PolicyParams,
    space: str,
    last_blocks: int | None,
    dimensions: int,
    seed: int,
    direction: np.ndarray | None = None,
) -> Work:
    """Load a policy that gives each prompt's gradient of the GRPO loss.

    See `minirec.policy.workers.make_differentiator`. A batch has also
    ``target_item_id`` and ``seen_item_id``. The space ``weights`` is that of the linear
    maps in the last blocks, sketched.
    """
    learner = load_policy(adapter, policy)
    items = learner.items
    names = gradients.linear_names(adapter, last_blocks) if space == "weights" else []
    sizes = [adapter["tensors"][name].numel() for name in names]
    sketch = gradients.CountSketch(sizes, dimensions, seed) if names else None

    def differentiate(batch: pd.DataFrame) -> pa.Table:
        tasks, ids = Tasks(batch, items), batch[SAMPLE_ID].to_numpy()
        tokens = learner.read(batch[PROMPT].tolist())
        seen = seen_mask(tasks, ids, learner.n_items).to(learner.lm.device)
        slates = [np.array(list(map(list, own))) for own in batch[TOKEN_ID]]
        advantages = gradients.group_advantages(batch[REWARD].tolist())
        if sketch:
            each = weight_gradients(learner, tokens, seen, slates, advantages, names)
            rows = sketch([each[name] for name in names])
        elif direction is None:
            rows = hidden_gradients(learner, tokens, seen, slates, advantages)
        else:
            rows = hessian_products(learner, tokens, seen, slates, direction)
        # prompts weigh alike in a mean, however many rollouts they have
        rows = rows / batch[REWARD].map(len).to_numpy()[:, None]
        flat = pa.array(rows.astype(np.float32, copy=False).ravel())
        lists = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        return pa.table({SAMPLE_ID: ids, gradients.GRADIENT: lists})

    return differentiate


def hidden_gradients(
    policy: ItemPolicy,
    tokens: Sequence[Sequence[int]],
    seen: torch.Tensor,
    slates: Sequence[np.ndarray],
    advantages: Sequence[np.ndarray],
) -> np.ndarray:
    """Return each sample's gradient of the GRPO loss at the last hidden state.

    Of one item, the head W and logits W h / temperature, a rollout's gradient is
    -advantage x (e_item - p) W / temperature, with p the distribution of the next item
    under the mask. Nothing is differentiated but the head.

    Parameters
    ----------
    policy
        The policy.
    tokens
        Of each of B prompts.
    seen
        (B, M) items that are masked.
    slates, advantages
        B arrays (G, K) and (G,); G may differ.

    Returns
    -------
    ndarray
        (B, hidden size).
    """
    import torch

    with torch.no_grad():
        at = last_hidden(policy.lm, tokens)
    at.requires_grad_()
    loss = _losses(policy.log_probs(at, seen), slates, advantages).sum()
    (slope,) = torch.autograd.grad(loss, at)
    return slope.cpu().numpy()


def hessian_products(
    policy: ItemPolicy,
    tokens: Sequence[Sequence[int]],
    seen: torch.Tensor,
    slates: Sequence[np.ndarray],
    direction: np.ndarray,
) -> np.ndarray:
    """Return each sample's Hessian-vector product at the last hidden state.

    The Hessian is that of minus the log-probability of what was drawn, summed over all
    slates: of one item W^T (diag p - p p^T) W / temperature^2, whatever was drawn. See
    `minirec.policy.gradients.hessian_products`.

    Parameters
    ----------
    policy, tokens, seen, slates
        As `hidden_gradients` takes them.
    direction
        (hidden size,).

    Returns
    -------
    ndarray
        (B, hidden size).
    """
    import torch

    with torch.no_grad():
        at = last_hidden(policy.lm, tokens)
    at.requires_grad_()
    ones = [np.ones(len(own)) for own in slates]
    loss = _losses(policy.log_probs(at, seen), slates, ones).sum()
    (slope,) = torch.autograd.grad(loss, at, create_graph=True)
    towards = torch.as_tensor(np.asarray(direction)).to(at)
    (product,) = torch.autograd.grad(slope, at, towards.expand_as(slope))
    costs.add(flops=2 * head_flops(policy.lm, len(at)))
    return product.cpu().numpy()


def weight_gradients(
    policy: ItemPolicy,
    tokens: Sequence[Sequence[int]],
    seen: torch.Tensor,
    slates: Sequence[np.ndarray],
    advantages: Sequence[np.ndarray],
    names: Sequence[str],
) -> dict[str, torch.Tensor]:
    """Return each sample's gradient of the GRPO loss, a tensor (B, *shape) a weight.

    Of y = W x a row's gradient of W is the sum over its tokens of (dL/dy) x^T; rows do
    not mix, so that one backward pass of the sum of losses gives all. Blocks below
    those of the weights are read without a gradient.

    Parameters
    ----------
    policy, tokens, seen, slates, advantages
        As `hidden_gradients` takes them.
    names
        Of weights of linear maps, see `minirec.policy.gradients.linear_names`.
    """
    import torch

    lm: Any = policy.lm
    lowest = min(map(gradients.block_of, names))
    begin: list[torch.Tensor] = []

    def start(_: object, given: tuple) -> tuple:
        begin.append(given[0].detach().requires_grad_())
        return (begin[-1], *given[1:])

    # its first module: of the last block, `last_hidden` calls the modules alone
    first = lm.model.layers[lowest].input_layernorm
    hook = first.register_forward_pre_hook(start)
    try:
        with _frozen(lm), _per_row(lm, names) as own:
            hidden = last_hidden(lm, tokens)
            loss = _losses(policy.log_probs(hidden, seen), slates, advantages).sum()
            torch.autograd.grad(loss, begin[-1])
            n, width = begin[-1].shape[:2]
            costs.add(flops=2 * hidden_flops(lm, n, width, lowest))
    finally:
        hook.remove()
    return own


def _losses(
    log_probs: torch.Tensor, slates: Sequence[np.ndarray], weights: Sequence[np.ndarray]
) -> torch.Tensor:
    """Return minus the weighted sum (B,) of each sample's slates' log-probabilities."""
    import torch

    group = max(map(len, slates))
    first = np.stack([np.resize(own, (group, own.shape[1])) for own in slates])
    # what fills a smaller group up has no weight
    weight = np.stack([np.pad(w, (0, group - len(w))) for w in weights])
    each = slate_log_probs(
        log_probs, torch.from_numpy(first.astype(np.int64)).to(log_probs.device)
    )
    return -(each * torch.from_numpy(weight).to(each)).sum(1)


@contextmanager
def _frozen(lm: Any) -> Iterator[None]:
    """Let no weight ask for a gradient: hooks make those of single rows."""
    lm.requires_grad_(False)
    try:
        yield
    finally:
        lm.requires_grad_(True)


@contextmanager
def _per_row(lm: Any, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Gather, in a backward pass, each row's own gradient of linear maps."""
    import torch

    found: dict[str, torch.Tensor] = {}
    handles = []

    def watch(name: str) -> None:
        def forward(_: object, inputs: tuple, output: torch.Tensor) -> None:
            x = inputs[0].detach()

            def backward(upstream: torch.Tensor) -> None:
                found[name] = torch.bmm(upstream.transpose(1, 2), x)

            output.register_hook(backward)

        module = lm.get_submodule(name.removesuffix(".weight"))
        handles.append(module.register_forward_hook(forward))

    for name in names:
        watch(name)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def rows_at_once(
    adapter: Adapter, space: str, last_blocks: int | None, memory_gb: float
) -> int:
    """Return how many prompts are differentiated at once within the memory."""
    fit = read_at_once(adapter, memory_gb)
    if space != "weights":
        return fit
    names = gradients.linear_names(adapter, last_blocks)
    # each gradient lies there once, and the largest twice more while it is sketched
    sizes = [adapter["tensors"][name].numel() for name in names]
    each = 4 * (sum(sizes) + 2 * max(sizes))
    return max(1, min(fit, int(memory_gb * 1e9 / each)))


def read_at_once(adapter: Adapter, memory_gb: float) -> int:
    """Return how many prompts are read, and answered, at once within the memory."""
    n_tokens = len(adapter["tensors"]["model.embed_tokens.weight"])
    return min(AT_ONCE, ranked_at_once(1, n_tokens, memory_gb))
