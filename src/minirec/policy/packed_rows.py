"""Log-probabilities of a prompt's completions, the prompt read once.

A row holds a prompt and, behind it, its G completions. Each completion sees the prompt
and itself, at the positions that it would have if it stood alone; so its
log-probabilities and their gradients are those of G separate rows, on fewer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from minirec.policy.loading import check_window

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


class TokenLogProbs(NamedTuple):
    """One entry for each token written, n in all."""

    log_prob: torch.Tensor  # (n,) float32 or finer, with its gradient
    row: torch.Tensor  # (n,) which prompt
    rollout: torch.Tensor  # (n,) which of its completions
    entropy: (
        torch.Tensor
    )  # (n,) of the distribution it was drawn from, in nats; no gradient


def packed_log_probs(
    lm: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    pad_token_id: int,
    temperature: float = 1.0,
) -> TokenLogProbs:
    """Return the log-probability of every token of every completion.

    Parameters
    ----------
    lm
        A causal LM that takes a 4-D attention mask (transformers' ``sdpa`` or
        ``eager`` attention).
    prompts
        B lists of token ids.
    completions
        B lists of G lists of token ids, none of them empty.
    pad_token_id
        Fills rows up; its value never matters.
    temperature
        Divides the logits, as when the completions were sampled.
    """
    import torch

    device = lm.device
    width = max(map(len, prompts))  # prompts end in the same column
    tails = [sum(map(len, group)) for group in completions]
    shape = (len(prompts), width + max(tails))
    ids = torch.full(shape, pad_token_id)
    segment = torch.full(shape, -1)  # -1 padding, 0 prompt, g + 1 completion g
    position = torch.zeros(shape, dtype=torch.long)
    predicts = []  # (row, column that predicts, token, rollout)
    for row, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, width - len(prompt) : width] = torch.tensor(prompt)
        segment[row, width - len(prompt) : width] = 0
        position[row, width - len(prompt) : width] = torch.arange(len(prompt))
        start = width
        for rollout, completion in enumerate(group):
            stop = start + len(completion)
            ids[row, start:stop] = torch.tensor(completion)
            segment[row, start:stop] = rollout + 1
            position[row, start:stop] = len(prompt) + torch.arange(len(completion))
            columns = [width - 1, *range(start, stop - 1)]
            predicts += [
                (row, column, token, rollout)
                for column, token in zip(columns, completion, strict=True)
            ]
            start = stop
    check_window(lm, shape[1])
    mask = _mask(segment, lm.dtype)
    logits = lm(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=position.to(device),
        logits_to_keep=torch.arange(width - 1, shape[1], device=device),
        use_cache=False,
    ).logits
    row, column, token, rollout = torch.tensor(predicts, device=device).T
    kept = logits[row, column - (width - 1)]
    scaled = kept.to(torch.promote_types(kept.dtype, torch.float32)) / temperature
    log_probs = scaled.log_softmax(-1)
    log_prob = log_probs.gather(1, token[:, None]).squeeze(1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
    return TokenLogProbs(log_prob, row, rollout, entropy)


def _mask(segment: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, T, T): 0 where a column is seen, the least float where it is not."""
    import torch

    size = segment.shape[1]
    before = torch.ones(size, size, dtype=torch.bool).tril()
    own = segment[:, :, None] == segment[:, None, :]
    prompt = (segment == 0)[:, None, :] & (segment >= 0)[:, :, None]
    # padding sees padding before it: a row that sees nothing would be NaN
    sees = before & (own | prompt)
    mask = torch.zeros(sees.shape, dtype=dtype)
    return mask.masked_fill(~sees, torch.finfo(dtype).min)[:, None]
