"""Log-probabilities of a prompt's completions, each token read once.

A row holds a prompt and, behind it, the tokens of its G completions as a tree: what
several completions begin with stands there once, and the last token of a completion,
after which nothing is asked, not at all. Each token sees the prompt and what its own
completion wrote before it, at the positions that they would have alone; so
log-probabilities and their gradients are those of G separate rows, on fewer tokens.
One-token completions cost no more than their prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minirec import costs
from minirec.policy.attention import attention_in_cache
from minirec.policy.fast_lora import replaced
from minirec.policy.flops import backward_flops, forward_flops, head_flops
from minirec.policy.loading import check_window, transformer_blocks
from minirec.policy.rollouts import _shared_prefix

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# numbers in a matrix (tokens, vocabulary) held at once: 128 MiB in float32
LOGITS_AT_ONCE = 2**25


class PackedRows(NamedTuple):
    """B rows of T columns; n readings, from which m tokens are predicted."""

    ids: torch.Tensor  # (B, T)
    position: torch.Tensor  # (B, T)
    sees: torch.Tensor  # (B, T, T) bool: whether a column attends to another
    shared: int  # how many first columns are the same in all rows
    row: torch.Tensor  # (n,) of a reading
    column: torch.Tensor  # (n,) of a reading
    reading: torch.Tensor  # (m,) from which a token is predicted
    token: torch.Tensor  # (m,) its id
    rollout: torch.Tensor  # (m,) which of its prompt's completions it belongs to

    @property
    def n_tokens(self) -> int:
        """Columns that are not padding."""
        # which is at position 0, as the first column of each row
        return len(self.ids) + int((self.position > 0).sum())

    @property
    def size(self) -> tuple[int, int]:
        """Columns, and pairs of a query and a key that attention multiplies."""
        return self.ids.numel(), self.sees.numel()


class TokenLogProbs(NamedTuple):
    """One entry for each token written, m in all, completion by completion."""

    log_prob: torch.Tensor  # (m,) float32 or finer, with its gradient
    row: torch.Tensor  # (m,) which prompt
    rollout: torch.Tensor  # (m,) which of its completions
    entropy: (
        torch.Tensor
    )  # (m,) of the distribution it was drawn from, in nats; no gradient


def pack_rows(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    pad_token_id: int,
) -> PackedRows:
    """Lay out each prompt with the tree of its completions.

    Parameters
    ----------
    prompts
        B lists of token ids.
    completions
        B lists of lists of token ids, none of them empty; there may be more for one
        prompt than for another.
    pad_token_id
        Fills rows up; its value never matters.
    """
    import torch

    trees = [_tree(*pair) for pair in zip(prompts, completions, strict=True)]
    shape = (len(trees), max(len(tree.ids) for tree in trees))
    ids = np.full(shape, pad_token_id)
    position = np.zeros(shape, np.int64)
    # padding sees itself: a column that sees nothing would be NaN
    sees = np.tile(np.eye(shape[1], dtype=bool), (len(trees), 1, 1))
    for row, tree in enumerate(trees):
        size, length = len(tree.ids), len(prompts[row])
        ids[row, :size] = tree.ids
        position[row, :length] = np.arange(length)
        sees[row, :length, :length] = np.tri(length, dtype=bool)
        for column, parent in enumerate(tree.parent, start=length):
            position[row, column] = position[row, parent] + 1
            sees[row, column, :column] = sees[row, parent, :column]
    # a row's readings are the prompt's last column and the tree's
    first = np.cumsum([0, *(1 + len(tree.parent) for tree in trees)])
    tokens = [
        (first[row] + column - len(prompts[row]) + 1, token, rollout)
        for row, tree in enumerate(trees)
        for column, token, rollout in tree.predicted
    ]
    reading, token, rollout = torch.tensor(np.array(tokens, np.int64).reshape(-1, 3)).T
    return PackedRows(
        ids=torch.from_numpy(ids),
        position=torch.from_numpy(position),
        sees=torch.from_numpy(sees),
        shared=_shared_prefix(prompts) if len(prompts) > 1 else 0,
        row=torch.tensor(np.repeat(np.arange(len(trees)), np.diff(first))),
        column=torch.tensor(
            [
                column
                for tree, prompt in zip(trees, prompts, strict=True)
                for column in range(len(prompt) - 1, len(tree.ids))
            ]
        ),
        reading=reading,
        token=token,
        rollout=rollout,
    )


class _Tree(NamedTuple):
    ids: list[int]  # the prompt and the columns behind it
    parent: list[int]  # of each column behind the prompt, the one it was written after
    predicted: list[tuple[int, int, int]]  # column that predicts, token, rollout


def _tree(prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> _Tree:
    tree = _Tree(list(prompt), [], [])
    child: dict[tuple[int, int], int] = {}
    for rollout, completion in enumerate(completions):
        column = len(prompt) - 1
        for place, token in enumerate(completion):
            if place:
                key = (column, completion[place - 1])
                if key not in child:
                    child[key] = len(tree.ids)
                    tree.ids.append(key[1])
                    tree.parent.append(column)
                column = child[key]
            tree.predicted.append((column, token, rollout))
    return tree


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
    prompts, completions, pad_token_id
        As `pack_rows` takes them.
    temperature
        Divides the logits, as when the completions were sampled.

    Where gradients are enabled a backward pass is counted, too (`minirec.costs`).
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    rows = pack_rows(prompts, completions, pad_token_id)
    hidden = read_rows(lm, rows)
    trained = torch.is_grad_enabled()
    reading, token = rows.reading.to(lm.device), rows.token.to(lm.device)

    def of_block(
        hidden: torch.Tensor, reading: torch.Tensor, token: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits_of(lm, hidden)
        finer = torch.promote_types(logits.dtype, torch.float32)
        log_probs = (logits.to(finer) / temperature).log_softmax(-1)
        with torch.no_grad():
            entropy = -(log_probs.exp() * log_probs).sum(-1)
        return log_probs[reading, token], entropy[reading]

    blocks = reading_blocks(lm, len(hidden))
    forward = len(hidden) * (2 if trained and len(blocks) > 1 else 1)
    costs.add(flops=head_flops(lm, forward))
    count_tokens(lm, rows, logits=len(hidden))
    order, parts = [], []
    for block in blocks:
        mine = ((reading >= block.start) & (reading < block.stop)).nonzero()[:, 0]
        given = (hidden[block], reading[mine] - block.start, token[mine])
        # of several blocks each one's logits are computed again when it is needed
        parts.append(
            of_block(*given)
            if len(blocks) == 1
            else checkpoint(of_block, *given, use_reentrant=False)
        )
        order.append(mine)
    place = torch.cat(order).argsort()
    log_prob, entropy = (torch.cat(part)[place] for part in zip(*parts, strict=True))
    row = rows.row.to(lm.device)[reading]
    return TokenLogProbs(log_prob, row, rows.rollout.to(lm.device), entropy)


def reading_blocks(
    lm: PreTrainedModel | PeftModel, n: int, numbers: int | None = None
) -> list[slice]:
    """Cut n readings into blocks whose logits are not too many to hold at once."""
    size = max(1, (numbers or LOGITS_AT_ONCE) // lm.config.get_text_config().vocab_size)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def read_rows(
    lm: PreTrainedModel | PeftModel, rows: PackedRows, frozen: int = 0
) -> torch.Tensor:
    """Return the last hidden state of every reading: the head's input (n, hidden).

    Parameters
    ----------
    lm
        A causal LM, see `packed_log_probs`.
    rows
        What it reads.
    frozen
        How many of the first transformer blocks no gradient has to pass through.
        There, what all rows begin with is read once.
    """
    import torch

    check_window(lm, int(rows.position.max()) + 1)
    device, dtype = lm.device, lm.dtype
    mask = torch.zeros(rows.sees.shape, dtype=dtype)
    mask = mask.masked_fill_(~rows.sees, torch.finfo(dtype).min)[:, None].to(device)
    ids, position = rows.ids.to(device), rows.position.to(device)
    row, column = rows.row.to(device), rows.column.to(device)
    whole = {"input_ids": ids, "attention_mask": mask, "position_ids": position}
    _count(lm, rows, frozen)
    if not frozen:
        return _last_hidden(lm, **whole, use_cache=False)[row, column]
    blocks = transformer_blocks(lm)
    with torch.no_grad():
        below = _after_frozen(lm, blocks, frozen, rows.shared, **whole)

    def given(*_: Any, **__: Any) -> Any:
        return below

    with replaced(dict.fromkeys(blocks[:frozen], given)):
        return _last_hidden(lm, **whole, use_cache=False)[row, column]


def count_tokens(
    lm: PreTrainedModel | PeftModel, rows: PackedRows, logits: int = 0
) -> None:
    """Count the tokens of rows, and where gradients are enabled a backward pass."""
    import torch

    if torch.is_grad_enabled():
        flops = backward_flops(lm, *rows.size, logits=logits)
        costs.add(tokens_trained=rows.n_tokens, flops=flops)
    else:
        costs.add(tokens_read=rows.n_tokens)


def _count(lm: PreTrainedModel | PeftModel, rows: PackedRows, frozen: int) -> None:
    """Count the products of `read_rows`; the head reads a token of each pass."""
    blocks, shared = transformer_blocks(lm), rows.shared if frozen else 0
    n, width = rows.ids.shape
    rest = width - shared
    below = shared + n * rest, shared**2 + n * rest * width
    passes = 1 + bool(frozen) + bool(shared)
    flops = forward_flops(lm, *below, blocks=blocks[:frozen])
    flops += forward_flops(lm, *rows.size, logits=passes, blocks=blocks[frozen:])
    costs.add(flops=flops)


def _after_frozen(
    lm: PreTrainedModel | PeftModel,
    blocks: Sequence[torch.nn.Module],
    frozen: int,
    shared: int,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    position_ids: torch.Tensor,
) -> Any:
    """Return what the last frozen block returns, what all rows share read once."""
    import torch
    from transformers import DynamicCache

    returned: list[Any] = []

    def passed(hidden: torch.Tensor, *_: Any, **__: Any) -> Any:
        return (hidden,) if isinstance(returned[-1], tuple) else hidden

    hook = blocks[frozen - 1].register_forward_hook(
        lambda _, __, output: returned.append(output)
    )
    try:
        with replaced(dict.fromkeys(blocks[frozen:], passed)):
            cache = None
            if shared:
                cache = DynamicCache(config=lm.config.get_text_config())
                _last_hidden(
                    lm,
                    input_ids=input_ids[:1, :shared],
                    position_ids=position_ids[:1, :shared],
                    past_key_values=cache,
                    use_cache=True,
                )
                cache.batch_repeat_interleave(len(input_ids))
            _last_hidden(
                lm,
                input_ids=input_ids[:, shared:],
                attention_mask=attention_mask[:, :, shared:],
                position_ids=position_ids[:, shared:],
                past_key_values=cache,
                use_cache=cache is not None,
            )
    finally:
        hook.remove()
    if not shared:
        return returned[0]
    begin, rest = (out[0] if isinstance(out, tuple) else out for out in returned)
    both = torch.cat([begin.expand(len(rest), -1, -1), rest], dim=1)
    return (both,) if isinstance(returned[0], tuple) else both


def _last_hidden(lm: PreTrainedModel | PeftModel, **inputs: Any) -> torch.Tensor:
    """Return the head's input (B, T, hidden), without the head's work."""
    kept = []

    def narrow(_: object, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        kept.append(given[0])
        # strides of one piece: else the product copies the vocabulary's whole matrix
        return (given[0][0, :1][None],)

    head: Any = lm.get_output_embeddings()
    hook = head.register_forward_pre_hook(narrow)
    try:
        with attention_in_cache(lm):
            lm(**inputs)
    finally:
        hook.remove()
    return kept[0]


def logits_of(lm: PreTrainedModel | PeftModel, hidden: torch.Tensor) -> torch.Tensor:
    """Return the model's logits (n, vocabulary) of last hidden states (n, hidden).

    All that the model does to its logits, such as capping them, is done.
    """
    import torch

    base: Any = getattr(lm, "get_base_model", lambda: lm)()
    decoded = _Decoded({0: hidden[None], "last_hidden_state": hidden[None]})
    with replaced({base.base_model: lambda *_, **__: decoded}):
        any_input = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
        return lm(input_ids=any_input).logits.squeeze(0)


class _Decoded(dict):
    """A decoder's output that holds hidden states and None of all else."""

    __getattr__ = dict.get
