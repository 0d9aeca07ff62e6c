"""The ``policy_head`` policy: it reasons, and its own hidden state ranks the catalogue.

The recommender of R2ec (arXiv 2505.16994). Behind a prompt and the reasoning that the
policy wrote stands the answer mark; the last hidden state there is the user's vector.
The same model, with the same adapter, reads each item in a message of its own, with the
mark behind it; the last hidden state there is the item's vector. Items are ranked by
the cosine of the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from minirec.columns import NOT_FINITE
from minirec.errors import InputError
from minirec.policy import loading
from minirec.policy.fast_lora import fast_lora
from minirec.policy.loading import transformer_blocks
from minirec.policy.packed_rows import count_tokens, pack_rows, read_rows
from minirec.policy.prompts import marks, render_texts, titles
from minirec.policy.rewards import Grounded, Written, answered_scores
from minirec.policy.rollouts import greedy_completions
from minirec.progress import Progress

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from minirec.policy.params import PolicyParams
    from minirec.types import Adapter


class HeadPolicy:
    """A causal LM and its tokenizer, with the items that its hidden states rank.

    Parameters
    ----------
    items
        Table ``items`` of M rows.
    params
        Those of the policy; ``prompt`` has an answer mark.
    lm, tokenizer
        The model with its adapter.
    """

    def __init__(
        self,
        items: pd.DataFrame,
        params: PolicyParams,
        lm: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.params, self.lm, self.tokenizer = params, lm, tokenizer
        (self.mark,) = self._ids([params.prompt.answer_mark])
        title = titles(items, *marks(params.prompt, tokenizer))
        told = [params.head.item.replace("{title}", own) for own in title.values()]
        # the system's message and the chat template as of prompts
        form = params.prompt.model_copy(update={"user": "{history}"})
        self.item_ids = self._ids(render_texts(told, tokenizer, form))
        self._vectors: np.ndarray | None = None

    @property
    def item_vectors(self) -> np.ndarray:
        """Vectors (M, hidden) of unit length, float32 or finer, row i of item i.

        They are of the adapter as it was when they were first asked for since the last
        `refresh`.

        Raises
        ------
        InputError
            If the hidden state of an item is not finite.
        """
        if self._vectors is None:
            order = np.argsort([-len(ids) for ids in self.item_ids], kind="stable")
            rows = [self.item_ids[row] for row in order]
            read = self._read(rows, [[self.mark] for _ in rows], "read_items")
            vectors = np.empty_like(read)
            vectors[order] = read
            if not np.isfinite(vectors).all():
                worst = int(np.argwhere(~np.isfinite(vectors))[0, 0])
                text = self.tokenizer.decode(self.item_ids[worst])
                raise InputError(
                    f"the hidden state of policy_model at item {text!r} is not finite: "
                    "take policy.dtype float32, or a lower learning rate"
                )
            self._vectors = vectors
        return self._vectors

    def refresh(self) -> None:
        """Let the items be read anew when their vectors are next asked for."""
        self._vectors = None

    def set_adapter(self, adapter: Adapter) -> None:
        """Replace the values of the adapter; items are read by it from now on."""
        loading.set_adapter(self.lm, adapter)
        self.refresh()

    def ground(self, written: Written) -> Grounded:
        """Score the catalogue by the user's vector behind each of N completions.

        Every completion has an answer, since the mark is put behind it, unless its
        hidden state is not finite, or that of another completion of its prompt, which
        is read in the same row.
        """
        groups: dict[str, list[int]] = {}
        for row, prompt in enumerate(written.prompts):
            groups.setdefault(prompt, []).append(row)
        answers = [self.answered(tokens) for tokens in written.tokens]
        order = [row for rows in groups.values() for row in rows]
        read = self._read(
            self._ids(groups),
            [[answers[row] for row in rows] for rows in groups.values()],
        )
        vectors = np.empty_like(read)
        vectors[order] = read
        finite: np.ndarray = np.isfinite(vectors).all(axis=1)
        scores = np.where(finite[:, None], vectors, 0) @ self.item_vectors.T
        return Grounded(scores, [None if whole else NOT_FINITE for whole in finite])

    def recommend(self, prompts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Rank the catalogue for N users, behind the most likely reasoning of each.

        Returns
        -------
        scores
            (N, M) cosines; higher is better; all -inf where there is no answer.
        completions
            The N texts that the policy wrote.
        """
        limit = self.params.sampling.max_new_tokens
        written = greedy_completions(self.lm, self.tokenizer, prompts, limit)
        tokens = [completion.tokens for completion in written]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        finite = [completion.finite for completion in written]
        return answered_scores(
            self.ground(Written(texts, tokens, prompts)), finite
        ), texts

    def answered(self, tokens: Sequence[int]) -> list[int]:
        """Return the reasoning in a completion, with the answer mark behind it.

        The reasoning ends before a mark that the policy wrote itself, or before the
        token that ends a message, and otherwise where the completion was cut.
        """
        reasoning = list(tokens)
        if reasoning and reasoning[-1] == self.tokenizer.eos_token_id:
            reasoning.pop()
        mark = self.params.prompt.answer_mark
        if mark in self.tokenizer.decode(reasoning):
            sizes = range(len(reasoning) + 1)
            texts = self.tokenizer.batch_decode([reasoning[:size] for size in sizes])
            start = next(text.index(mark) for text in texts if mark in text)
            reasoning = reasoning[: max(n for n in sizes if len(texts[n]) <= start)]
        return reasoning + self.mark

    def _ids(self, texts: Iterable[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def _read(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[Sequence[int]]],
        label: str | None = None,
    ) -> np.ndarray:
        """Return `vectors_at_end` without a gradient, some prompts at a time."""
        import torch

        size, blocks = self.params.head.batch_size, len(transformer_blocks(self.lm))
        training = self.lm.training
        self.lm.eval()
        parts = []
        with torch.inference_mode(), fast_lora(self.lm):
            starts = range(0, len(prompts), size)
            for start in Progress(
                starts, label, disable=label is None, unit=" batches", leave=False
            ):
                batch = slice(start, start + size)
                parts.append(
                    vectors_at_end(self.lm, prompts[batch], answers[batch], blocks)
                )
        self.lm.train(training)
        return torch.cat(parts).cpu().numpy()


def vectors_at_end(
    lm: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    frozen: int = 0,
) -> torch.Tensor:
    """Return the last hidden state at the last token of each answer, at unit length.

    Parameters
    ----------
    lm
        A causal LM, see `minirec.policy.packed_rows.packed_log_probs`.
    prompts
        B lists of token ids, none of them empty.
    answers
        Of each prompt a list of lists of token ids, none of them empty; N in all. A
        prompt is read once for all of its answers.
    frozen
        Blocks that no gradient has to pass through, see `read_rows`.

    Returns
    -------
    tensor
        (N, hidden), float32 or finer.

    Raises
    ------
    InputError
        If a prompt and an answer are longer than what the model can read.
    """
    import torch

    # of an answer's last token a row holds nothing: one more, so that it is read
    read = [[[*answer, 0] for answer in own] for own in answers]
    rows = pack_rows(prompts, read, pad_token_id=0)
    longest = int(rows.position.max()) + 1
    context = lm.config.get_text_config().max_position_embeddings
    if longest > context:
        raise InputError(
            f"a prompt with its reasoning and the answer mark has {longest} tokens, "
            f"and policy_model reads {context}: lower policy.prompt.max_tokens"
        )
    last = np.cumsum([len(answer) for own in read for answer in own]) - 1
    hidden = read_rows(lm, rows, frozen)
    count_tokens(lm, rows)
    hidden = hidden[rows.reading[last].to(hidden.device)]
    exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return torch.nn.functional.normalize(exact, dim=-1)
