"""Let the policy write: many completions of each prompt, or the most likely one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minirec.policy.loading import check_window

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# second part of a seed: what probing draws, training does not draw again
PROBING, TRAINING = 0, 1


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
    key-value cache repeated for the completions. A completion's draws come from its
    prompt's seed alone, whatever batch it falls to. What remains is rounding: in
    bfloat16 other rows of the batch can turn a choice between tokens that are all but
    equally likely.

    Parameters
    ----------
    lm, tokenizer
        The policy; ``lm.generation_config.eos_token_id`` lists what ends an answer.
    prompts
        B texts, rendered.
    seeds
        B seeds, such as ``(seed, PROBING, sample_id)``.
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

    noise = [
        np.random.default_rng([*seed, rollout])
        for seed in seeds
        for rollout in range(rollouts)
    ]

    def choose(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        size = logits.shape[-1]
        draws = [
            noise[row].standard_exponential(size, np.float32) for row in rows.tolist()
        ]
        waiting = torch.from_numpy(np.stack(draws)).to(logits.device)
        return _first_to_arrive(logits.float() / temperature, waiting)

    return _decode(lm, tokenizer, prompts, rollouts, max_new_tokens, choose)


def greedy_completions(
    lm: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the token ids of each prompt's most likely completion, token by token."""
    completions = _decode(
        lm, tokenizer, prompts, 1, max_new_tokens, lambda logits, _: logits.argmax(-1)
    )
    return [group[0] for group in completions]


def _first_to_arrive(logits: torch.Tensor, waiting: torch.Tensor) -> torch.Tensor:
    """Draw one token a row (the Gumbel-max trick).

    Of exponential waiting times at rates softmax(logits), the shortest falls to each
    token with its probability. Each token has a draw of its own, so that a rounding
    error in one logit moves no other: an inverse cumulative sum would shift them all.
    """
    least = float(np.finfo(np.float32).tiny)
    return (logits - waiting.clamp(min=least).log()).argmax(-1)


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
        check_window(lm, shared + rest["input_ids"].shape[1] + max_new_tokens)
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
            token = choose(logits, rows)
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
