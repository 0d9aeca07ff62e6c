"""Let the policy write: many completions of each prompt, or the most likely one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def sample_completions(
    lm: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    rollouts: int,
    max_new_tokens: int,
    temperature: float,
) -> list[list[list[int]]]:
    """Sample ``rollouts`` completions of each prompt.

    What all prompts begin with is read once, the rest of each prompt once, and their
    key-value cache repeated for the completions. A completion's draws come from its prompt's seed alone, so that they do not depend
    on the batch around it.

    Parameters
    ----------
    lm, tokenizer
        The policy; ``lm.generation_config.eos_token_id`` lists what ends an answer.
    prompts
        B texts, rendered.
    seeds
        B seeds, such as ``(seed, sample_id)``.
    rollouts
        Completions of each prompt, G.
    max_new_tokens
        Tokens after which a completion is cut.
    temperature
        Divides the logits; above 0.

    Returns
    -------
    list of B lists of G lists of token ids
        Each ends with the token that ended it, unless it was cut.
    """
    import torch

    draws = np.stack(
        [
            np.random.default_rng(seed).random((rollouts, max_new_tokens), np.float32)
            for seed in seeds
        ]
    )
    uniform = torch.from_numpy(draws.reshape(-1, max_new_tokens)).to(lm.device)

    def choose(logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        return _inverse_cdf(logits / temperature, uniform[rows, step])

    return _decode(lm, tokenizer, prompts, rollouts, max_new_tokens, choose)


def greedy_completions(
    lm: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the token ids of each prompt's most likely completion, token by token."""
    completions = _decode(
        lm, tokenizer, prompts, 1, max_new_tokens, lambda logits, *_: logits.argmax(-1)
    )
    return [group[0] for group in completions]


def _inverse_cdf(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw one token a row: the first whose cumulated probability exceeds the draw.

    The last sum differs from 1 by rounding, so the draw is scaled by it; a float32
    draw is at most 1 - 2^-24, and its product rounds to less than the sum.
    """
    cumulated = logits.float().softmax(-1).cumsum(-1)
    return (cumulated <= uniform[:, None] * cumulated[:, -1:]).sum(-1)


def _shared_prefix(ids: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all rows share, leaving each at least one."""
    longest = min(map(len, ids)) - 1
    first = ids[0]
    for column in range(longest):
        if any(row[column] != first[column] for row in ids):
            return column
    return longest


def _decode(lm, tokenizer, prompts, group, max_new_tokens, choose):  # type: ignore[no-untyped-def]
    import torch
    from transformers import DynamicCache

    with torch.inference_mode():
        ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        shared = _shared_prefix(ids)
        cache = DynamicCache(config=lm.config)
        if shared:  # the instruction, read once for all prompts
            prefix = torch.tensor([ids[0][:shared]], device=lm.device)
            lm(prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
        rest = tokenizer.pad(
            {"input_ids": [own[shared:] for own in ids]}, return_tensors="pt"
        ).to(lm.device)
        mask = rest["attention_mask"]
        positions = shared + (mask.cumsum(-1) - 1).clamp(min=0)
        mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)
        logits = lm(
            input_ids=rest["input_ids"],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        cache.batch_repeat_interleave(group)
        logits = logits.repeat_interleave(group, 0)
        mask = mask.repeat_interleave(group, 0)
        position = positions[:, -1:].repeat_interleave(group, 0)
        ends = torch.tensor(lm.generation_config.eos_token_id, device=lm.device)

        size = len(prompts) * group
        tokens = torch.full((size, max_new_tokens), -1, device=lm.device)
        rows = torch.arange(size, device=lm.device)  # rows still held in the cache
        alive = torch.ones(size, dtype=torch.bool, device=lm.device)
        for step in range(max_new_tokens):
            token = choose(logits, rows, step)
            tokens[rows[alive], step] = token[alive]
            alive = alive & ~torch.isin(token, ends)
            if step + 1 == max_new_tokens or not alive.any():
                break
            if alive.sum() <= 0.75 * len(rows):  # else a copy costs more than it saves
                keep = alive.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                rows, token, alive = rows[keep], token[keep], alive[keep]
                mask, position = mask[keep], position[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            position = position + 1
            logits = lm(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
    written = [[t for t in row if t >= 0] for row in tokens.tolist()]
    return [written[start : start + group] for start in range(0, size, group)]
