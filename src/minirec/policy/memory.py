"""How many prompts fit into memory at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from minirec.policy import gradients, packed_rows
from minirec.policy.attention import SCORES_IN_CACHE

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# what configurations call a change that models make to their logits
_OF_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
# rows at once, however much memory there is
_MOST = 2**16

# bytes for each score of an item, while completions are ranked
_RANKING = 40


def prompts_at_once(
    lm: PreTrainedModel | PeftModel,
    longest: int,
    rollouts: int,
    max_new_tokens: int,
    items: int,
    memory_gb: float,
) -> int:
    """Return how many prompts' rollouts fit into ``memory_gb`` beside the model.

    An upper bound of what a batch takes, worked out from the model's configuration
    alone, so that it is the same on every machine. With T tokens a prompt, G rollouts
    of N tokens, H heads of d of which K hold keys and values, L layers, V tokens in the
    vocabulary, M items, b bytes a value and e where float32 or finer, a prompt takes

    - for keys and values 2KdbL(2T + GN), as prompts of which rollouts are left are
      copied together while all are held, and 4Kdb(T + GN) for the layer that is copied;
    - for logits Vb, and when tokens are drawn GV(b + 4e);
    - for activations the more of what prefilling and one step of the rollouts take in
      one layer: tokens x 6 intermediate, 8 hidden and 8 Hd of b bytes and 3 hidden of
      e, and the attention scores (of prefilling, of as many prompts as a cache holds,
      unless by ``eager`` attention; its mask otherwise);

    or, once all is written, 40GM to rank the items by it, if that is more.

    Parameters
    ----------
    lm
        The policy, loaded or as an outline (`minirec.policy.loading.outline`).
    longest
        Tokens of the longest prompt.
    rollouts
        Completions of each prompt, G.
    max_new_tokens
        Tokens after which a completion is cut.
    items
        Of the catalogue, M.
    memory_gb
        In units of 10^9 bytes, without the model itself.

    Returns
    -------
    int
        At least 1, also where one prompt alone does not fit.
    """
    model = _Sizes.of(lm)
    size, exact = model.size, model.exact
    own = rollouts * max_new_tokens
    cache = model.layers * model.layer * (2 * longest + own)
    copied = 2 * model.layer * (longest + own)
    mask = longest**2 * (16 + 2 * size)
    prefilling = longest * model.token + mask + model.whole_scores(longest)
    # of a rollout's newest token all scores are held, however the model attends
    scores = model.heads * (longest + max_new_tokens) * (4 * size + 2 * exact)
    step = rollouts * (model.token + scores)
    logits = model.vocabulary * (size + rollouts * (size + 4 * exact))
    writing = cache + copied + logits + max(prefilling, step)
    prompt = max(writing, _RANKING * rollouts * items)

    def cost(n: int) -> int:
        return n * prompt + model.scores_in_cache(n, longest)

    return _largest(cost, memory_gb)


def ranked_at_once(rollouts: int, items: int, memory_gb: float) -> int:
    """Return of how many prompts the rollouts can be ranked within ``memory_gb``.

    That is what is left to do here where a server writes them.

    Parameters
    ----------
    rollouts, items, memory_gb
        As of `prompts_at_once`.

    Returns
    -------
    int
        At least 1, also where one prompt alone does not fit.
    """
    return max(1, int(memory_gb * 1e9 / (_RANKING * rollouts * items)))


def rows_at_once(
    lm: PreTrainedModel | PeftModel,
    longest: int,
    written: int,
    space: str,
    parameters: Sequence[tuple[str, torch.Tensor]],
    dimensions: int,
    memory_gb: float,
) -> int:
    """Return how many packed rows' gradients fit into ``memory_gb`` beside the model.

    An upper bound as `prompts_at_once`, in its letters. With R columns a row, of which
    W predict tokens, it is the most of what is held at once

    - while all layers are read: keys and values 2KdbR(L + 2) a row, as what all rows
      begin with is read once, the mask R^2(b + 3), and activations and attention scores
      of one layer;
    - while the head's part is worked out: of what is read 4W hidden of b bytes and 2 of
      e, and WV logits, at most 2^25 for all rows, each with its gradient (both twice
      where the model caps or scales them), and for 2^20 of them 4e; in ``hessian`` at
      most 2^22, 12e each;
    - in ``lora``, also while that is done, the mask, and activations and scores of the
      last n blocks; then those of one more, and for P parameters P(2b + e), and 8 bytes
      for each of the largest one and of the sketch's numbers.

    Parameters
    ----------
    lm
        The policy, loaded or as an outline (`minirec.policy.loading.outline`).
    longest
        Columns of the longest row, R: a prompt with all of its completions.
    written
        Tokens of the longest completions of a prompt together, W.
    space
        ``lora``, ``hidden`` or ``hessian``, as of `make_differentiator`.
    parameters
        That are differentiated in ``lora``, with their names.
    dimensions
        Of the sketch in ``lora``.
    memory_gb
        In units of 10^9 bytes, without the model itself.

    Returns
    -------
    int
        At least 1, also where one row alone does not fit.
    """
    model = _Sizes.of(lm)
    size, exact = model.size, model.exact
    layer = longest * model.token + model.whole_scores(longest)
    mask = longest**2 * (size + 3)
    reading = model.layer * longest * (model.layers + 2) + mask + layer
    hidden = written * model.hidden * (4 * size + 2 * exact)
    part = gradients.LOGITS_IN_CACHE
    number, numbers = model.logit, packed_rows.LOGITS_AT_ONCE
    if space == "hessian":
        number, numbers = 12 * exact, 4 * part
    kept = own = 0
    if space == "lora":
        blocks = model.layers - min(gradients.block_of(name) for name, _ in parameters)
        kept = mask + blocks * (longest * model.token + model.kept_scores(longest))
        counts = [parameter.numel() for _, parameter in parameters]
        own = sum(counts) * (2 * size + exact) + 8 * (max(counts) + dimensions)

    def cost(n: int) -> int:
        scores = model.scores_in_cache(n, longest)
        logits = n * written * model.vocabulary
        head = number * min(logits, numbers) + 4 * exact * min(logits, part)
        back = n * (layer + own) + scores
        after = n * (kept + hidden) + max(head, back if kept else 0)
        return max(n * reading + scores, after)

    return _largest(cost, memory_gb)


class _Sizes(NamedTuple):
    """What a model's values take, in bytes and numbers."""

    size: int
    """Bytes of a value."""
    exact: int
    """Bytes of a value in float32 or finer."""
    vocabulary: int
    layers: int
    heads: int
    hidden: int
    layer: int
    """Bytes of a token's keys and values in one layer."""
    token: int
    """Bytes of a token's activations in one layer."""
    logit: int
    """Bytes of a logit with its gradient."""
    eager: bool

    @classmethod
    def of(cls, lm: PreTrainedModel | PeftModel) -> _Sizes:
        config = lm.config.get_text_config()
        size = lm.dtype.itemsize
        exact = max(size, 4)
        heads, hidden = config.num_attention_heads, config.hidden_size
        width = getattr(config, "head_dim", None) or hidden // heads
        kept = getattr(config, "num_key_value_heads", None) or heads
        inner = getattr(config, "intermediate_size", None) or 4 * hidden
        plain = not any(getattr(config, name, None) for name in _OF_LOGITS)
        return cls(
            size=size,
            exact=exact,
            vocabulary=config.vocab_size,
            layers=config.num_hidden_layers,
            heads=heads,
            hidden=hidden,
            layer=2 * kept * width * size,
            token=(6 * inner + 8 * hidden + 8 * heads * width) * size
            + 3 * hidden * exact,
            logit=2 * size if plain else 4 * size,
            eager=config._attn_implementation == "eager",
        )

    def whole_scores(self, length: int) -> int:
        """Return bytes of a row's attention scores where all rows' are held."""
        finer = 2 * self.exact if self.size < self.exact else self.size
        return self.heads * length**2 * (self.size + finer) if self.eager else 0

    def kept_scores(self, length: int) -> int:
        """Return bytes of a row's attention scores that a backward pass reads."""
        numbers = self.heads * length**2
        if not self.eager:  # fused attention, of longer rows, keeps none
            return self.size * min(numbers, SCORES_IN_CACHE)
        finer = self.exact if self.size < self.exact else 0
        return numbers * (self.size + finer)

    def scores_in_cache(self, n: int, length: int) -> int:
        """Return bytes of n rows' attention scores where not all are held."""
        numbers = 0 if self.eager else min(n * self.heads * length**2, SCORES_IN_CACHE)
        return 2 * self.size * numbers


def _largest(cost: Callable[[int], int], memory_gb: float) -> int:
    """Return the largest n of which the cost, in bytes, is within the memory."""
    return max(1, bisect_right(range(1, _MOST), memory_gb * 1e9, key=cost))
