"""Let the policy write: many completions of each prompt, or the most likely one.

What all prompts begin with is read once, the rest of each prompt once (`prefill`).
Completions are then written from there (`sample`), as often as wanted: the key-value
cache of a prompt is held once, and all of its completions attend to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minirec import costs
from minirec.errors import InputError
from minirec.policy.attention import attending_by, attention_in_cache
from minirec.policy.fast_lora import fast_lora
from minirec.policy.flops import forward_flops
from minirec.policy.loading import check_window

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# second part of a seed: what probing draws, training does not draw again
PROBING, TRAINING = 0, 1

_BLOCK = 256  # tokens that are drawn among at once


class Completion(NamedTuple):
    """What the policy wrote.

    ``tokens`` ends with the token that ended the answer, unless it was cut. Where a
    logit was NaN or infinite, nothing can be drawn: ``finite`` is False, and ``tokens``
    are those before it.
    """

    tokens: list[int]
    finite: bool


@dataclass(frozen=True)
class Prefilled:
    """B prompts that were read, to be answered as often as wanted.

    Attributes
    ----------
    lm
        The policy that read them.
    keys, values
        One tensor (B, key-value heads, T, head size) a layer.
    padding
        (B, T), True where a shorter prompt was filled up on its left.
    position
        (B,) of the next token.
    logits
        (B, vocabulary) of the next token.
    """

    lm: PreTrainedModel | PeftModel
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    padding: torch.Tensor
    position: torch.Tensor
    logits: torch.Tensor

    def select(self, rows: Sequence[int] | torch.Tensor) -> Prefilled:
        """Return some of the prompts, in that order."""
        import torch

        index = torch.as_tensor(rows, dtype=torch.long, device=self.padding.device)
        return replace(
            self,
            keys=[layer[index] for layer in self.keys],
            values=[layer[index] for layer in self.values],
            padding=self.padding[index],
            position=self.position[index],
            logits=self.logits[index],
        )


def prefill(
    lm: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
) -> Prefilled:
    """Read B rendered prompts, what they all begin with once."""
    import torch
    from transformers import DynamicCache

    with torch.inference_mode(), fast_lora(lm):
        ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        shared = _shared_prefix(ids)
        cache = DynamicCache()
        if shared:
            lm(
                torch.tensor([ids[0][:shared]], device=lm.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=torch.arange(0, device=lm.device),
            )
            cache.batch_repeat_interleave(len(prompts))
        rest = tokenizer.pad(
            {"input_ids": [own[shared:] for own in ids]}, return_tensors="pt"
        ).to(lm.device)
        check_window(lm, shared + rest["input_ids"].shape[1])
        mask = rest["attention_mask"]
        positions = shared + (mask.cumsum(-1) - 1).clamp(min=0)
        mask = torch.cat([mask.new_ones(len(ids), shared), mask], dim=1)
        # each token sees what is not padding, up to itself
        causal = mask.new_ones(mask.shape[1], mask.shape[1]).tril()[shared:]
        hidden_from = torch.finfo(lm.dtype).min * (1 - causal * mask[:, None]).to(
            lm.dtype
        )
        with attention_in_cache(lm):
            logits = lm(
                input_ids=rest["input_ids"],
                attention_mask=hidden_from[:, None],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                # an index, as a slice of the last token is not laid out in one piece,
                # and its product with the vocabulary would copy the matrix a row
                logits_to_keep=torch.tensor([positions.shape[1] - 1], device=lm.device),
            ).logits[:, 0]
    n, kept = rest["input_ids"].shape
    rows, width = n * kept, shared + kept
    attended = shared**2 + rows * width
    costs.add(
        tokens_read=shared + sum(len(own) - shared for own in ids),
        flops=forward_flops(lm, shared + rows, attended, n),
    )
    layers: list[Any] = cache.layers
    return Prefilled(
        lm,
        [layer.keys for layer in layers],
        [layer.values for layer in layers],
        mask == 0,
        positions[:, -1] + 1,
        logits,
    )


def sample(
    prefilled: Prefilled,
    seeds: Sequence[Sequence[int]],
    rollouts: range,
    max_new_tokens: int,
    temperature: float,
) -> list[list[Completion]]:
    """Sample completions of each prompt that was read.

    A completion's draws come from its prompt's seed and its number alone, whatever
    batch or round it falls to: rollouts 0 to 3 are those of ``range(4)`` or of
    ``range(2)`` and ``range(2, 4)``. What remains is rounding: in bfloat16 other rows
    of the batch can turn a choice between tokens that are all but equally likely.

    Parameters
    ----------
    prefilled
        B prompts.
    seeds
        B seeds, such as ``(seed, PROBING, sample_id)``.
    rollouts
        Which completions of each prompt, G of them.
    max_new_tokens
        Tokens after which a completion is cut.
    temperature
        Divides the logits; above 0.

    Returns
    -------
    list of B lists of G completions
    """
    noise = [
        np.random.default_rng([*seed, rollout])
        for seed in seeds
        for rollout in rollouts
    ]

    def choose(
        logits: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        blocks = -(-logits.shape[1] // _BLOCK)
        draws = [
            noise[row].standard_exponential(blocks + _BLOCK, np.float32)
            for row in rows.tolist()
        ]
        waiting = torch.from_numpy(np.stack(draws)).to(logits.device)
        return _draw(_exact(logits) / temperature, waiting)

    return _decode(prefilled, len(rollouts), max_new_tokens, choose)


def sample_completions(
    lm: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    rollouts: int,
    max_new_tokens: int,
    temperature: float,
) -> list[list[Completion]]:
    """Read B prompts (`prefill`) and `sample` the first G completions of each.

    ``lm.generation_config.eos_token_id`` lists what ends an answer.
    """
    prefilled = prefill(lm, tokenizer, prompts)
    return sample(prefilled, seeds, range(rollouts), max_new_tokens, temperature)


def greedy_completions(
    lm: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
) -> list[Completion]:
    """Return each prompt's most likely completion, token by token."""
    prefilled = prefill(lm, tokenizer, prompts)
    groups = _decode(prefilled, 1, max_new_tokens, _most_likely)
    return [group[0] for group in groups]


def _exact(logits: torch.Tensor) -> torch.Tensor:
    """In float32 or finer."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _most_likely(
    logits: torch.Tensor, _: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    largest, token = _exact(logits).max(-1)
    return token, largest.isfinite()


def _draw(
    logits: torch.Tensor, waiting: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row: first a block of the vocabulary, then a token of it.

    Both by `_first_to_arrive`, so that one draw a block and one a token of the block
    are enough: for 49,152 tokens 448 instead of 49,152.

    Parameters
    ----------
    logits
        (rows, vocabulary).
    waiting
        (rows, blocks + _BLOCK) exponential draws.

    Returns
    -------
    token, finite
        (rows,) each; a token means nothing where a logit was NaN or infinite.
    """
    import torch

    n_blocks = waiting.shape[1] - _BLOCK
    filled = n_blocks * _BLOCK - logits.shape[1]
    probability = torch.nn.functional.pad(logits.softmax(-1), (0, filled))
    blocks = probability.view(len(logits), n_blocks, _BLOCK)
    mass = blocks.sum(-1)
    block = _first_to_arrive(mass, waiting[:, :n_blocks])
    chosen = blocks[torch.arange(len(logits), device=logits.device), block]
    token = block * _BLOCK + _first_to_arrive(chosen, waiting[:, n_blocks:])
    return token, mass.sum(-1).isfinite()


def _first_to_arrive(rate: torch.Tensor, waiting: torch.Tensor) -> torch.Tensor:
    """Draw one column a row, with probability in proportion to its rate.

    Of exponential waiting times the shortest falls to each column with that probability
    (the Gumbel-max trick). Each column has a draw of its own, so that a rounding error
    in one rate moves no other: an inverse cumulative sum would shift them all.
    """
    least = float(np.finfo(np.float32).tiny)
    return (waiting.clamp(min=least) / rate).argmin(-1)


def _shared_prefix(ids: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all rows share, leaving each at least one."""
    longest = min(map(len, ids)) - 1
    first = ids[0]
    for column in range(longest):
        if any(row[column] != first[column] for row in ids):
            return column
    return longest


def _decode(
    prefilled: Prefilled,
    group: int,
    max_new_tokens: int,
    choose: Callable[..., tuple[torch.Tensor, torch.Tensor]],
) -> list[list[Completion]]:
    """Write ``group`` completions of each prompt, token by token.

    ``choose`` takes logits (n, vocabulary) and the numbers (n,) of their completions,
    and returns a token and whether it is one, for each.
    """
    import torch
    from transformers import DynamicCache

    lm, n_prompts = prefilled.lm, len(prefilled.position)
    check_window(lm, prefilled.padding.shape[1] + max_new_tokens)
    with torch.inference_mode(), fast_lora(lm):
        ends = torch.tensor(lm.generation_config.eos_token_id, device=lm.device)
        size = n_prompts * group
        tokens = torch.full((size, max_new_tokens), -1, device=lm.device)
        finite = torch.ones(size, dtype=torch.bool, device=lm.device)
        rows = torch.arange(size, device=lm.device)  # completions still written
        prompt = rows // group  # of each of them, as prefilled holds it
        logits = prefilled.logits[prompt]
        position = prefilled.position[prompt]
        cache = DynamicCache()  # of what was written, not of the prompts
        passed = attended = 0
        for step in range(max_new_tokens):
            token, good = choose(logits, rows)
            finite[rows] = good
            tokens[rows[good], step] = token[good]
            going = good & ~torch.isin(token, ends)
            keep = going.nonzero().squeeze(1)
            if step + 1 == max_new_tokens or not len(keep):
                break
            if len(keep) < len(rows):
                cache.batch_select_indices(keep)
                rows, prompt, token = rows[keep], prompt[keep], token[keep]
                position = position[keep]
                needed = prompt.unique()  # ascending
                if len(needed) <= len(prefilled.position) / 2:
                    prefilled = prefilled.select(needed)
                    prompt = torch.searchsorted(needed, prompt)
            attention = _Attention(prefilled, prompt)
            passed += len(rows)
            attended += attention.pairs + len(rows) * (step + 1)
            with attending_by(lm, attention):
                logits = lm(
                    input_ids=token[:, None],
                    position_ids=position[:, None],
                    past_key_values=cache,
                    use_cache=True,
                ).logits[:, 0]
            position = position + 1
    costs.add(
        tokens_generated=int((tokens >= 0).sum()),
        flops=forward_flops(lm, passed, attended, passed),
    )
    written = [
        Completion([t for t in row if t >= 0], good)
        for row, good in zip(tokens.tolist(), finite.tolist(), strict=True)
    ]
    return [written[start : start + group] for start in range(0, size, group)]


class _Attention:
    """Attention of the newest tokens of n completions to their prompts and themselves.

    The prompts' keys and values are not repeated for their completions: the queries of
    a prompt's completions are laid side by side, and multiplied with them at once.

    Parameters
    ----------
    prefilled
        The prompts.
    prompt
        (n,) ascending: which prompt each completion is of.
    """

    def __init__(self, prefilled: Prefilled, prompt: torch.Tensor) -> None:
        import torch

        count = prompt.bincount(minlength=len(prefilled.position))
        self.group = int(count.max())
        start = count.cumsum(0) - count
        place = torch.arange(len(prompt), device=prompt.device) - start[prompt]
        self.slot = prompt * self.group + place
        self.prefilled = prefilled
        # of queries and keys of prompts, as many as are multiplied
        self.pairs = prefilled.padding.numel() * self.group
        self.padding = prefilled.padding[prompt][:, None, None]

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return (n, 1, heads, head size), as transformers' attention functions do.

        ``query`` is (n, heads, 1, head size), ``key`` and ``value`` (n, key-value
        heads, tokens written, head size).
        """
        import torch

        if s_aux is not None:
            raise InputError(
                "policy_model attends to sinks beside tokens, which rollouts do not: "
                "name another model, such as Llama, Qwen, Gemma or SmolLM"
            )
        layer = module.layer_idx
        keys, values = self.prefilled.keys[layer], self.prefilled.values[layer]
        n, heads, _one, size = query.shape
        queries = query.view(n, key.shape[1], -1, size)
        scores = torch.cat(
            [
                self._by_prompt(queries, keys.transpose(2, 3)).masked_fill(
                    self.padding, -torch.inf
                ),
                queries @ key.transpose(2, 3),
            ],
            dim=-1,
        )
        scores = scores * (size**-0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        exact = torch.promote_types(scores.dtype, torch.float32)
        weight = scores.softmax(-1, dtype=exact).to(value.dtype)
        length = keys.shape[2]
        mixed = self._by_prompt(weight[..., :length], values)
        mixed = mixed + weight[..., length:] @ value
        return mixed.reshape(n, 1, heads, -1), None

    def _by_prompt(self, rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        """Multiply n matrices (heads, m, k) with those of their prompts (heads, k, l)."""
        n_prompts, heads, inner, outer = matrices.shape
        m = rows.shape[2]
        grid = rows.new_zeros(n_prompts * self.group, heads, m, inner)
        grid[self.slot] = rows
        grid = grid.view(n_prompts, self.group, heads, m, inner).transpose(1, 2)
        product = grid.reshape(n_prompts, heads, self.group * m, inner) @ matrices
        product = product.view(n_prompts, heads, self.group, m, outer).transpose(1, 2)
        return product.reshape(-1, heads, m, outer)[self.slot]
