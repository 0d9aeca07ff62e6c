"""Gradients of single samples, from one backward pass over many."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minirec import costs
from minirec.errors import InputError
from minirec.policy.fast_lora import fast_lora
from minirec.policy.flops import backward_flops, head_flops
from minirec.policy.loading import transformer_blocks
from minirec.policy.packed_rows import (
    PackedRows,
    logits_of,
    pack_rows,
    read_rows,
    reading_blocks,
)
from minirec.types import Adapter

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# the column of a table of gradients
GRADIENT = "gradient"

# numbers of a matrix (tokens, vocabulary) that a processor's cache holds: a few MiB
LOGITS_IN_CACHE = 2**20


def group_advantages(
    rewards: Sequence[ArrayLike] | np.ndarray, divided: bool = True
) -> list[np.ndarray]:
    """Rewards less their prompt's mean, over its standard deviation.

    As TRL's GRPO has it: sample standard deviation, 1e-4 added to it. Equal rewards,
    and that of one rollout alone, have advantage 0.

    Parameters
    ----------
    rewards
        One array a prompt, of one number a completion.
    divided
        Whether the standard deviation divides.

    Examples
    --------
    >>> [own.round(2).tolist() for own in group_advantages([[0, 1, 2], [0.3]])]
    [[-1.0, 0.0, 1.0], [0.0]]
    """
    out = []
    for own in rewards:
        own = np.asarray(own, dtype=np.float64)
        centred = own - own.mean()
        # equal rewards can differ from their own mean by a rounding error, which
        # would pass for a direction
        if np.ptp(own) == 0:
            out.append(np.zeros(len(own)))
        else:
            out.append(centred / (own.std(ddof=1) + 1e-4) if divided else centred)
    return out


def trainable_parameters(
    policy: PeftModel, last_blocks: int | None
) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the adapter's parameters in the last transformer blocks (None: in all).

    They are sorted by name, as are those of a saved adapter.

    Raises
    ------
    InputError
        If there are fewer blocks, or all are wanted and an adapter lies outside.
    """
    named = {n: p for n, p in policy.named_parameters() if "lora_" in n}
    return [(name, named[name]) for name in _in_last_blocks(named, last_blocks)]


def _in_last_blocks(names: Iterable[str], last_blocks: int | None) -> list[str]:
    """Return, sorted, the names of the adapter's parameters in the last blocks."""
    adapted = sorted(names)
    blocks = sorted({block_of(name) for name in adapted} - {-1})
    if last_blocks is None:
        outside = [name for name in adapted if block_of(name) < 0]
        if outside:
            raise InputError(
                f"score.gradients.last_blocks is null, and {outside[0]} lies outside "
                "of all blocks: give the number of blocks, or take the output layer "
                "and the embeddings out of policy.lora.target_modules"
            )
        return adapted
    if last_blocks > len(blocks):
        raise InputError(
            f"score.gradients.last_blocks is {last_blocks}, and the model adapts "
            f"{len(blocks)} blocks: lower it, or say null for all"
        )
    wanted = set(blocks[-last_blocks:])
    return [name for name in adapted if block_of(name) in wanted]


def linear_names(weights: Adapter, last_blocks: int | None) -> list[str]:
    """Return, sorted, the names of an adapter's matrices in the last blocks.

    Of a whole model in the place of an adapter, they are the weights of its linear
    maps, those outside of all blocks aside.

    Raises
    ------
    InputError
        If there are fewer blocks, or all are wanted and an adapter lies outside.
    """
    names = weights["tensors"].keys()
    if "model_type" in weights["config"]:
        matrices = {n for n, t in weights["tensors"].items() if t.dim() == 2}
        names = {name for name in matrices if block_of(name) >= 0}
    return _in_last_blocks(names, last_blocks)


def block_of(name: str) -> int:
    """Return the number of the block in a parameter's name; -1 outside of them."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else -1


def sample_gradients(
    policy: PeftModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    advantages: Sequence[ArrayLike] | np.ndarray,
    pad_token_id: int,
    temperature: float,
    parameters: Sequence[tuple[str, torch.nn.Parameter]],
) -> dict[str, torch.Tensor]:
    """Return each sample's gradient of the GRPO loss, a tensor (B, *shape) a parameter.

    At the policy that wrote the completions the clipped ratio is 1, and the gradient
    of a prompt's loss is that of minus the sum over its completions' tokens of
    advantage x log-probability. The number of tokens of the whole batch, by which
    TRL's default loss (``dapo``) divides, is left out: it does not turn the gradient.

    Blocks below those of ``parameters`` are read without a gradient; a prompt without
    a single advantage other than 0 is not read at all.

    Parameters
    ----------
    policy
        The model with its adapter, in evaluation mode.
    prompts, completions
        B lists of token ids, and B lists of lists of them, one a completion.
    advantages
        One array a prompt, of one number a completion; see `group_advantages`.
    pad_token_id
        Fills rows up.
    temperature
        That of the sampling.
    parameters
        The adapter's parameters to differentiate, see `trainable_parameters`.

    Raises
    ------
    InputError
        If the adapter is not plain LoRA, or a layer mixes the prompts of a batch, as
        the experts of a mixture do.
    """
    import torch

    teaching = _teaching(advantages)
    finer = torch.promote_types(policy.dtype, torch.float32)
    out = {
        name: p.new_zeros(len(prompts), *p.shape, dtype=finer) for name, p in parameters
    }
    if not len(teaching.sample):
        return out
    group = teaching.of(prompts, completions)
    rows = pack_rows(*group, pad_token_id)
    frozen = min(block_of(name) for name, _ in parameters)
    begin: list[torch.Tensor] = []

    def start(_: object, given: tuple) -> tuple:
        begin.append(given[0].detach().requires_grad_())
        return (begin[-1], *given[1:])

    with fast_lora(policy), _per_sample(policy, parameters, len(rows.ids)) as own:
        hook = transformer_blocks(policy)[frozen].register_forward_pre_hook(start)
        try:
            hidden = read_rows(policy, rows, frozen)
        finally:
            hook.remove()
        upstream = _hidden_gradients(
            policy, hidden.detach(), rows, teaching.weights, temperature
        )
        torch.autograd.grad(hidden, begin[-1], upstream)
    differentiated = transformer_blocks(policy)[frozen:]
    # the low-rank terms and their gradients are worked out again, row by row
    again = 2 * rows.size[0] * sum(p.numel() for _, p in parameters)
    costs.add(
        tokens_read=rows.n_tokens,
        flops=again + backward_flops(policy, *rows.size, blocks=differentiated),
    )
    sample = torch.as_tensor(teaching.sample, device=policy.device)
    for name, gradient in own.items():
        out[name].index_copy_(0, sample, gradient.to(finer))
    return out


def hidden_gradients(
    policy: PeftModel | PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    advantages: Sequence[ArrayLike] | np.ndarray,
    pad_token_id: int,
    temperature: float,
) -> np.ndarray:
    """Return each sample's gradient of the GRPO loss at the last hidden state.

    That is the head's input. Of a head W and logits W h / temperature, a token's
    gradient is -advantage x (e_token - softmax(logits)) W / temperature. A sample's is
    the sum over its tokens: the gradient for a shift common to all its positions.
    Nothing is differentiated but the head.

    Parameters
    ----------
    policy, prompts, completions, advantages, pad_token_id, temperature
        As `sample_gradients` takes them.

    Returns
    -------
    ndarray
        (B, hidden size), float32 or finer.
    """
    import torch

    teaching = _teaching(advantages)
    sample = torch.as_tensor(teaching.sample, device=policy.device)
    if not len(sample):
        size = policy.get_output_embeddings().in_features
        return np.zeros((len(prompts), size), np.float32)
    rows, hidden = _read(policy, *teaching.of(prompts, completions), pad_token_id)
    per_reading = _hidden_gradients(policy, hidden, rows, teaching.weights, temperature)
    return _sum_over(sample[rows.row.to(sample.device)], per_reading, len(prompts))


def hessian_products(
    policy: PeftModel | PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    direction: ArrayLike,
    pad_token_id: int,
    temperature: float,
) -> np.ndarray:
    """Return each sample's Hessian-vector product at the last hidden state.

    The Hessian is that of minus the log-probability of what was written, summed over
    all tokens of all completions. Of a head W it is W^T (diag p - p p^T) W /
    temperature^2 a token, with p the token's distribution, whatever was written: the
    Fisher information, and never negative. Advantages have no part in it: they add up
    to 0 over a prompt's completions, and with them the curvature at what these share
    would cancel. Source: MiniRec (arXiv 2602.04278), which compares such products.

    Parameters
    ----------
    policy, prompts, completions, pad_token_id, temperature
        As `sample_gradients` takes them.
    direction
        (hidden size,), such as the mean of `hidden_gradients`.

    Returns
    -------
    ndarray
        (B, hidden size), float32 or finer.
    """
    import torch

    rows, hidden = _read(policy, prompts, completions, pad_token_id)
    towards = torch.as_tensor(np.asarray(direction)).to(hidden)
    reading, token = rows.reading.to(hidden.device), rows.token.to(hidden.device)
    finer = torch.promote_types(hidden.dtype, torch.float32)
    count = torch.bincount(reading, minlength=len(hidden)).to(finer)
    parts: list[torch.Tensor] = []
    costs.add(flops=head_flops(policy, 4 * len(hidden)))
    for block in reading_blocks(policy, len(hidden), 4 * LOGITS_IN_CACHE):
        at = hidden[block].requires_grad_()
        with torch.enable_grad():
            logits = logits_of(policy, at).to(finer) / temperature
            mine = (reading >= block.start) & (reading < block.stop)
            written = logits[reading[mine] - block.start, token[mine]]
            loss = count[block] @ logits.logsumexp(-1) - written.sum()
            (slope,) = torch.autograd.grad(loss, at, create_graph=True)
        parts += torch.autograd.grad(slope, at, towards.expand_as(slope))
    return _sum_over(rows.row.to(hidden.device), torch.cat(parts), len(prompts))


class _Teaching(NamedTuple):
    """What has an advantage other than 0."""

    sample: np.ndarray  # numbers of prompts that have such completions
    rollouts: list[np.ndarray]  # of each such prompt, the numbers of such completions
    weights: list[np.ndarray]  # their advantages

    def of(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[Sequence[int]]],
    ) -> tuple[list[Sequence[int]], list[list[Sequence[int]]]]:
        return [prompts[i] for i in self.sample], [
            [completions[i][rollout] for rollout in rollouts]
            for i, rollouts in zip(self.sample, self.rollouts, strict=True)
        ]


def _teaching(advantages: Sequence[ArrayLike] | np.ndarray) -> _Teaching:
    arrays = [np.asarray(own, dtype=np.float64) for own in advantages]
    sample = np.array([i for i, own in enumerate(arrays) if own.any()], np.int64)
    rollouts = [np.flatnonzero(arrays[i]) for i in sample]
    weights = [arrays[i][r] for i, r in zip(sample, rollouts, strict=True)]
    return _Teaching(sample, rollouts, weights)


def _read(
    policy: PeftModel | PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    pad_token_id: int,
) -> tuple[PackedRows, torch.Tensor]:
    """Return packed rows and the last hidden states of their readings."""
    import torch

    rows = pack_rows(prompts, completions, pad_token_id)
    with torch.no_grad(), fast_lora(policy):
        hidden = read_rows(policy, rows, len(transformer_blocks(policy)))
    costs.add(tokens_read=rows.n_tokens)
    return rows, hidden


def _hidden_gradients(
    policy: PeftModel | PreTrainedModel,
    hidden: torch.Tensor,
    rows: PackedRows,
    weights: Sequence[np.ndarray],
    temperature: float,
) -> torch.Tensor:
    """Return the loss's gradient at each reading's hidden state (n, hidden)."""
    import torch

    device = hidden.device
    # all advantages behind one another: a token's is that of its row's rollout
    first = np.cumsum([0, *map(len, weights)])
    place = torch.as_tensor(first)[rows.row[rows.reading]] + rows.rollout
    finer = torch.promote_types(hidden.dtype, torch.float32)
    weight = torch.as_tensor(np.concatenate(weights))[place].to(finer)
    order = rows.reading.argsort(stable=True)
    reading, token = rows.reading[order].to(device), rows.token[order].to(device)
    weight = weight[order].to(device) / temperature
    total = weight.new_zeros(len(hidden)).index_add_(0, reading, weight)
    start = torch.searchsorted(rows.reading[order], torch.arange(len(hidden) + 1))
    out = torch.empty_like(hidden)
    costs.add(flops=head_flops(policy, 2 * len(hidden)))
    for block in reading_blocks(policy, len(hidden)):
        at = hidden[block].detach().requires_grad_()
        with torch.enable_grad():
            logits = logits_of(policy, at)
        slope = torch.empty_like(logits)
        for part in reading_blocks(policy, len(at), LOGITS_IN_CACHE):
            begin, end = block.start + part.start, block.start + part.stop
            own = slice(start[begin], start[end])
            p = (logits.detach()[part].to(finer) / temperature).softmax(-1)
            p *= total[begin:end, None]
            at_token = (reading[own] - begin, token[own])
            slope[part] = p.index_put_(at_token, -weight[own], accumulate=True)
        (out[block],) = torch.autograd.grad(logits, at, slope)
    return out


def _sum_over(sample: torch.Tensor, values: torch.Tensor, n: int) -> np.ndarray:
    """Sum rows of values that belong to the same of n samples."""
    import torch

    finer = torch.promote_types(values.dtype, torch.float32)
    total = values.new_zeros(n, values.shape[1], dtype=finer)
    return total.index_add_(0, sample, values.to(finer)).cpu().numpy()


def adapter_movement(
    before: Adapter,
    after: Adapter,
    last_blocks: int | None,
    dimensions: int,
    seed: int,
) -> np.ndarray:
    """Return how an adapter moved in training, as a sketched gradient.

    A descent step moves against the gradient. Before minus after is therefore the
    gradient that would have asked for the movement that was made, and the samples whose
    gradients point this way asked for it.

    Parameters
    ----------
    before, after
        The adapter when training began and when it ended.
    last_blocks, dimensions, seed
        As the gradients were taken and sketched that it is compared with, see
        `trainable_parameters` and `CountSketch`.

    Returns
    -------
    ndarray
        (dimensions,).

    Raises
    ------
    InputError
        If the two hold different tensors, or as `trainable_parameters`.
    """
    shapes = [{n: t.shape for n, t in a["tensors"].items()} for a in (before, after)]
    if shapes[0] != shapes[1]:
        wrong = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0][0]
        raise InputError(
            f"initial_adapter and proxy_adapter differ in shape (first at {wrong}): "
            "one was made for another model or another policy.lora; run "
            "`kedro run --pipelines score`"
        )
    moved = [
        (before["tensors"][name].float() - after["tensors"][name].float())[None]
        for name in linear_names(before, last_blocks)
    ]
    return CountSketch([own.numel() for own in moved], dimensions, seed)(moved)[0]


@contextmanager
def _per_sample(
    policy: PeftModel, parameters: Sequence[tuple[str, torch.nn.Parameter]], size: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Gather, in a backward pass, each row's own gradient of the LoRA layers.

    Of y = W x + s B A x a row's gradient of B is the sum over its tokens of
    s (dL/dy) (A x)^T, and of A of s B^T (dL/dy) x^T; rows do not mix in a causal LM,
    so that one backward pass of the sum of losses gives all.
    """
    import torch

    gradients: dict[str, torch.Tensor] = {}
    handles = []
    names = {id(parameter): name for name, parameter in parameters}

    def watch(module: Any) -> None:  # peft's Linear
        (key,) = module.lora_A.keys() & set(module.active_adapters)
        down, up = module.lora_A[key].weight, module.lora_B[key].weight
        scaling = module.scaling[key]

        def forward(_: object, inputs: tuple, output: torch.Tensor) -> None:
            x = inputs[0].detach()
            if x.dim() != 3 or len(x) != size:
                raise InputError(
                    f"policy_model passes tokens of shape {tuple(x.shape)} to "
                    f"{names[id(down)]}, where prompts of a batch mix: leave its "
                    "experts out of policy.lora.target_modules"
                )

            def backward(upstream: torch.Tensor) -> None:
                low = x @ down.detach().to(x.dtype).T * scaling
                own = torch.bmm(low.transpose(1, 2), upstream)
                gradients[names[id(up)]] = own.transpose(1, 2)
                back = upstream @ up.detach().to(upstream.dtype) * scaling
                gradients[names[id(down)]] = torch.bmm(back.transpose(1, 2), x)

            output.register_hook(backward)

        handles.append(module.register_forward_hook(forward))

    wanted = {name.partition(".lora_")[0] for name, _ in parameters}
    for name in sorted(wanted):
        watch(policy.get_submodule(name))
    try:
        yield gradients
    finally:
        for handle in handles:
            handle.remove()


class CountSketch:
    """A linear map to few dimensions that keeps cosines on average.

    Each coordinate is added, with a random sign, to one random bucket (Charikar, Chen
    and Farach-Colton, 2002). No matrix is stored, only a bucket and a sign for each
    coordinate.

    Parameters
    ----------
    sizes
        Number of coordinates of each parameter.
    dimensions
        Number of buckets.
    seed
        Equal seeds give equal maps.
    """

    def __init__(self, sizes: Sequence[int], dimensions: int, seed: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        self.dimensions = dimensions
        self._maps = [
            (
                torch.randint(dimensions, (size,), generator=generator),
                torch.randint(2, (size,), generator=generator) * 2.0 - 1.0,
            )
            for size in sizes
        ]

    def __call__(self, gradients: Sequence[torch.Tensor]) -> np.ndarray:
        """Map tensors (B, *shape), one a parameter, to an array (B, dimensions)."""
        import torch

        sketch = torch.zeros(len(gradients[0]), self.dimensions)
        for gradient, (bucket, sign) in zip(gradients, self._maps, strict=True):
            flat = gradient.flatten(1).float().cpu()
            sketch.index_add_(1, bucket, flat * sign)
        return sketch.numpy()
