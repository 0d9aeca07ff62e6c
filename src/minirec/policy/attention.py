"""How the model's layers attend, where the library's own way is slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# attention scores that a processor's cache holds: a few MiB
SCORES_IN_CACHE = 2**21


@contextmanager
def attending_by(
    lm: PreTrainedModel | PeftModel, function: Callable[..., Any]
) -> Iterator[None]:
    """Let every layer attend by ``function``.

    A mask is handed to it if it has four dimensions, and otherwise none is made.
    """
    from transformers import AttentionInterface

    name = "minirec"
    AttentionInterface.register(name, function)
    config = lm.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
        # what the function holds, such as keys and values, would stay with its name
        AttentionInterface.register(name, _by_rows)


def attention_in_cache(
    lm: PreTrainedModel | PeftModel,
) -> AbstractContextManager[None]:
    """Let a model on a processor attend by `_by_rows`, any other by its own way."""
    own = lm.config.get_text_config()._attn_implementation
    if own == "sdpa" and lm.device.type == "cpu":
        return attending_by(lm, _by_rows)
    return nullcontext()


def _by_rows(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with plain products, for as many rows at once as a cache holds.

    The query heads that share keys are laid below one another, so that keys and values
    are not repeated for them. On short rows this takes half the time of torch's fused
    attention; rows that are too long for a cache, and unmasked ones, are left to that.

    ``query`` is (n, heads, q, head size), ``key`` and ``value`` (n, key-value heads, t,
    head size), ``attention_mask`` (n or 1, 1, q, t), added to the scores. Returns
    (n, q, heads, head size), as transformers' attention functions do.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    n, heads, q, size = query.shape
    kept, t = key.shape[1:3]
    at_once = SCORES_IN_CACHE // (heads * q * t)
    if attention_mask is None or not at_once:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
    mask = attention_mask[:, None].expand(n, kept, heads // kept, q, t)
    parts = []
    for start in range(0, n, at_once):
        part = slice(start, start + at_once)
        scores = torch.baddbmm(
            mask[part].reshape(-1, heads // kept * q, t),
            query[part].reshape(-1, heads // kept * q, size),
            key[part].reshape(-1, t, size).transpose(1, 2),
            alpha=size**-0.5 if scaling is None else scaling,
        )
        mixed = scores.softmax(-1) @ value[part].reshape(-1, t, size)
        parts.append(mixed.view(-1, heads, q, size))
    return torch.cat(parts).transpose(1, 2), None
