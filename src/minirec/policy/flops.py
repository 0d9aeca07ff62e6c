"""How many operations the matrix products of a causal LM take.

Of n tokens that pass a block of w weights in maps (adapters included) these are 2wn
forward; of a query that attends to a key 4Hd in each block, with H heads of size d, and
of a token whose logits are asked 2Vh, with V tokens in the vocabulary and hidden size
h. Backward they are 2wn for the gradients of what goes in, 2n for each weight that is
trained, and twice those of attention. So with LoRA there are no gradients of frozen
maps, and in blocks below the first one that is differentiated nothing.

Products alone are counted, all that are computed: padding, masked keys, and a map's
product that is not computed only because nothing before the first block is trained (the
one exception, less than a block's share). What norms, softmax, sampling and the
optimiser take is left out. Of a mixture of experts the number is unknown: NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minirec import costs
from minirec.policy.loading import transformer_blocks

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# what configurations call the number of experts
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def forward_flops(
    lm: PreTrainedModel | PeftModel,
    tokens: int,
    attended: int,
    logits: int = 0,
    blocks: Sequence[torch.nn.Module] | None = None,
) -> float:
    """Return the operations of a forward pass.

    Parameters
    ----------
    lm
        The model.
    tokens
        Columns of all rows.
    attended
        Pairs of a query and a key in one block.
    logits
        Tokens whose logits are computed.
    blocks
        Those of its transformer blocks that are passed; None: all.
    """
    blocks = transformer_blocks(lm) if blocks is None else blocks
    weights = sum(map(_weights, blocks))
    scores = len(blocks) * _per_pair(lm) * attended
    return _known(lm) * (2 * weights * tokens + scores + _head(lm) * logits)


def backward_flops(
    lm: PreTrainedModel | PeftModel,
    tokens: int,
    attended: int,
    logits: int = 0,
    blocks: Sequence[torch.nn.Module] | None = None,
) -> float:
    """Return the operations of the backward pass through some blocks.

    Parameters
    ----------
    lm, tokens, attended, logits, blocks
        As `forward_flops` takes them.
    """
    blocks = transformer_blocks(lm) if blocks is None else blocks
    weights = sum(_weights(block) + _weights(block, True) for block in blocks)
    scores = 2 * len(blocks) * _per_pair(lm) * attended
    trained = lm.get_output_embeddings().weight.requires_grad
    head = _head(lm) * logits * (2 if trained else 1)
    return _known(lm) * (2 * weights * tokens + scores + head)


def head_flops(lm: PreTrainedModel | PeftModel, logits: int) -> float:
    """Return the operations of the logits of so many tokens."""
    return _known(lm) * _head(lm) * logits


@contextmanager
def counted_steps(lm: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Count every pass of a model that TRL's supervised trainer trains.

    It computes the logits, of all tokens but a row's last, once more for the gradient.
    """

    def count(_: object, __: tuple, given: dict[str, Any]) -> None:
        n, width = given["input_ids"].shape
        logits = n * (width - 1)
        size = n * width, n * width**2, logits
        costs.add(
            tokens_trained=int(given["attention_mask"].sum()),
            flops=forward_flops(lm, *size)
            + head_flops(lm, logits)
            + backward_flops(lm, *size),
        )

    hook = lm.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _weights(block: torch.nn.Module, trained: bool = False) -> int:
    """Return how many weights a block's maps have; norms and biases have one axis."""
    return sum(
        parameter.numel()
        for parameter in block.parameters()
        if parameter.dim() > 1 and (parameter.requires_grad or not trained)
    )


def _per_pair(lm: PreTrainedModel | PeftModel) -> int:
    config = lm.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 4 * heads * width


def _head(lm: PreTrainedModel | PeftModel) -> int:
    return 2 * lm.get_output_embeddings().weight.numel()


def _known(lm: PreTrainedModel | PeftModel) -> float:
    config = lm.config.get_text_config()
    experts = any((getattr(config, name, None) or 0) > 1 for name in _EXPERTS)
    return float("nan") if experts else 1.0
