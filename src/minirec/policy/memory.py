"""How many prompts fit into memory at once, and memory that is used again."""

from __future__ import annotations

import ctypes
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# glibc's malloc.h: from which size on memory is mapped for a block alone, and how much
# free memory at the end of the heap is given back
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST = 2**30


def prompts_at_once(
    lm: PreTrainedModel | PeftModel,
    longest: int,
    rollouts: int,
    max_new_tokens: int,
    memory_gb: float,
) -> int:
    """Return how many prompts' rollouts fit into ``memory_gb`` beside the model.

    An upper bound of what a prompt takes, worked out from the model's configuration
    alone, so that it is the same on every machine. With T tokens a prompt, G rollouts
    of N tokens, H heads of d of which K hold keys and values, L layers, and b bytes a
    value, a prompt takes

    - for keys and values 2KdbL(2T + GN), as prompts of which rollouts are left are
      copied together while all are held, and 4Kdb(T + GN) for the layer that is copied;
    - for logits Vb, and when tokens are drawn GV(b + 4e), e bytes where float32 or finer;
    - for activations the more of what prefilling and one step of the rollouts take in
      one layer: tokens x 6 intermediate, 8 hidden and 8 Hd of b bytes and 3 hidden of
      e, and the attention scores (of prefilling only where they are kept whole, by
      ``eager`` attention; its mask otherwise).

    Parameters
    ----------
    lm
        The policy, loaded.
    longest
        Tokens of the longest prompt.
    rollouts
        Completions of each prompt, G.
    max_new_tokens
        Tokens after which a completion is cut.
    memory_gb
        In units of 10^9 bytes, without the model itself.

    Returns
    -------
    int
        At least 1, also where one prompt alone does not fit.
    """
    config = lm.config.get_text_config()
    size = lm.dtype.itemsize
    exact = max(size, 4)
    heads = config.num_attention_heads
    hidden = config.hidden_size
    width = getattr(config, "head_dim", None) or hidden // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden

    own = rollouts * max_new_tokens
    layer = 2 * kept * width * size  # a token's keys and values
    cache = config.num_hidden_layers * layer * (2 * longest + own)
    copied = 2 * layer * (longest + own)

    token = (6 * inner + 8 * hidden + 8 * heads * width) * size + 3 * hidden * exact
    score = 4 * size + 2 * exact
    whole = heads * score if config._attn_implementation == "eager" else 1 + exact
    prefilling = longest * token + longest**2 * whole
    step = rollouts * (token + heads * (longest + max_new_tokens) * score)
    logits = config.vocab_size * (size + rollouts * (size + 4 * exact))
    prompt = cache + copied + logits + max(prefilling, step)
    return max(1, int(memory_gb * 1e9 / prompt))


def keep_freed_memory() -> None:
    """Let this process use large blocks again that it has freed.

    By default glibc gives each block of more than 32 MiB back to the system, which
    clears every page of the next one: for the logits of a batch, that takes longer
    than computing them. Nothing is done under another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
