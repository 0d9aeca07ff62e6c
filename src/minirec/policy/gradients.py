"""Gradients of single samples, from one backward pass over many."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from minirec.errors import InputError
from minirec.policy.packed_rows import packed_log_probs

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def group_advantages(rewards: np.ndarray) -> np.ndarray:
    """Rewards less their prompt's mean, over its standard deviation (B, G).

    As TRL's GRPO has it: sample standard deviation, 1e-4 added to it.
    """
    centred = rewards - rewards.mean(1, keepdims=True)
    return centred / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)


def trainable_parameters(
    policy: PeftModel, last_blocks: int | None
) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the adapter's parameters in the last transformer blocks (None: in all).

    Raises
    ------
    InputError
        If there are fewer blocks.
    """
    adapted = [(n, p) for n, p in policy.named_parameters() if "lora_" in n]
    if last_blocks is None:
        return adapted
    blocks = sorted({_block(name) for name, _ in adapted} - {-1})
    if last_blocks > len(blocks):
        raise InputError(
            f"score.gradients.last_blocks is {last_blocks}, and the model adapts "
            f"{len(blocks)} blocks: lower it, or say null for all"
        )
    wanted = set(blocks[-last_blocks:])
    return [(name, p) for name, p in adapted if _block(name) in wanted]


def _block(name: str) -> int:
    """Return the number of the block in a parameter's name; -1 outside of them."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else -1


def sample_gradients(
    policy: PeftModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    advantages: np.ndarray,
    pad_token_id: int,
    temperature: float,
    parameters: Sequence[tuple[str, torch.nn.Parameter]],
) -> dict[str, torch.Tensor]:
    """Return each sample's gradient of the GRPO loss, a tensor (B, *shape) a parameter.

    At the policy that wrote the completions the clipped ratio is 1, and the gradient
    of a prompt's loss is that of minus the sum over its completions' tokens of
    advantage x log-probability. The number of tokens of the whole batch, by which
    TRL's default loss (``dapo``) divides, is left out: it does not turn the gradient.

    Parameters
    ----------
    policy
        The model with its adapter, in evaluation mode.
    prompts, completions
        B lists of token ids, and B lists of G lists of them.
    advantages
        (B, G), see `group_advantages`.
    pad_token_id
        Fills rows up.
    temperature
        That of the sampling.
    parameters
        The adapter's parameters to differentiate.
    """
    import torch

    chosen = {id(p) for _, p in parameters}
    for parameter in policy.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    with _per_sample(policy) as gradients:
        out = packed_log_probs(policy, prompts, completions, pad_token_id, temperature)
        weight = torch.as_tensor(advantages, dtype=out.log_prob.dtype)
        weight = weight.to(out.log_prob.device)[out.row, out.rollout]
        loss = -(weight * out.log_prob).sum()
        torch.autograd.grad(loss, [p for _, p in parameters])
    return {name: gradients[name] for name, _ in parameters}


@contextmanager
def _per_sample(policy: PeftModel) -> Iterator[dict[str, torch.Tensor]]:
    """Gather, in a backward pass, each row's own gradient of the linear layers.

    For y = W x a row's gradient is the sum over its tokens of (dL/dy) x^T; rows do not
    mix in a causal LM, so that one backward pass of the sum of losses gives all.
    """
    import torch

    gradients: dict[str, torch.Tensor] = {}
    handles = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def forward(_: object, inputs: tuple, output: torch.Tensor) -> None:
            given = inputs[0].detach()

            def backward(upstream: torch.Tensor) -> None:
                own = torch.bmm(upstream.transpose(1, 2), given.to(upstream.dtype))
                known = gradients.get(name)
                gradients[name] = own if known is None else known + own

            output.register_hook(backward)

        handles.append(module.register_forward_hook(forward))

    for name, module in policy.named_modules():
        if isinstance(module, torch.nn.Linear) and module.weight.requires_grad:
            watch(f"{name}.weight", module)
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
