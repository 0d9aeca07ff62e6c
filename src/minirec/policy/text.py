"""The ``text`` policy: it writes a title, and the title ranks the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from minirec.columns import POPULARITY
from minirec.policy import loading
from minirec.policy.head import HeadPolicy
from minirec.policy.prompts import answer, failure
from minirec.policy.rewards import Grounded, Written, answered_scores
from minirec.policy.rollouts import greedy_completions
from minirec.ranking.encoder import encode, load_encoder
from minirec.ranking.grounding import ground, popularity_prior

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from minirec.policy.params import PolicyParams, RankingParams
    from minirec.types import Adapter, Model


@dataclass(frozen=True)
class Catalogue:
    """What rankings are over: M items, their embeddings (M, d) and prior (M,)."""

    items: pd.DataFrame
    encoder_model: Model
    embeddings: np.ndarray
    prior: np.ndarray
    prior_weight: float

    @cached_property
    def encoder(self) -> Any:
        """The encoder, loaded when it is first needed: not every policy does."""
        return load_encoder(self.encoder_model)

    def ground(self, texts: Sequence[str]) -> np.ndarray:
        """Return scores (N, M) of every item for every text; higher is nearer."""
        return ground(
            encode(self.encoder, texts), self.embeddings, self.prior, self.prior_weight
        )


@dataclass(frozen=True)
class TextReader:
    """What completions mean, whoever wrote them: their titles point into a catalogue."""

    catalogue: Catalogue
    params: PolicyParams

    def ground(self, written: Written) -> Grounded:
        """Score the catalogue by the titles in N completions.

        There is no answer where a text is empty, or lacks the mark that begins it.
        """
        form = self.params.prompt.answer_end, self.params.prompt.answer_mark
        titles = [answer(text, *form) for text in written.texts]
        failures = [failure(text, *form) for text in written.texts]
        return Grounded(self.catalogue.ground(titles), failures)


@dataclass(frozen=True)
class TextPolicy(TextReader):
    """A causal LM and its tokenizer, with the catalogue that its titles point into."""

    lm: PeftModel
    tokenizer: PreTrainedTokenizerBase

    def recommend(self, prompts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Rank the catalogue for N users by the most likely answer to each prompt.

        Returns
        -------
        scores
            (N, M), higher is better; all -inf where there is no answer.
        completions
            The N texts that the policy wrote.
        """
        limit = self.params.sampling.max_new_tokens
        written = greedy_completions(self.lm, self.tokenizer, prompts, limit)
        tokens = [completion.tokens for completion in written]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        finite = [completion.finite for completion in written]
        return answered_scores(self.ground(Written(texts)), finite), texts

    def set_adapter(self, adapter: Adapter) -> None:
        """Replace the values of the adapter."""
        loading.set_adapter(self.lm, adapter)


Policy = TextPolicy | HeadPolicy


def load_catalogue(
    encoder_model: Model,
    items: pd.DataFrame,
    item_embeddings: dict[str, np.ndarray],
    ranking: RankingParams,
) -> Catalogue:
    """Return the catalogue with the encoder that its texts were embedded by."""
    return Catalogue(
        items=items,
        encoder_model=encoder_model,
        embeddings=item_embeddings["matrix"],
        prior=popularity_prior(items[POPULARITY].to_numpy()),
        prior_weight=ranking.prior_weight,
    )


def load_policy(
    policy_model: Model,
    adapter: Adapter,
    catalogue: Catalogue,
    params: PolicyParams,
) -> Policy:
    """Return the policy of the kind that parameters name, in evaluation mode."""
    tokenizer = loading.load_tokenizer(policy_model)
    base = loading.load_model(policy_model, params.dtype, tokenizer, params.prompt)
    lm = loading.attach_adapter(base, adapter)
    if params.kind == "policy_head":
        return HeadPolicy(catalogue.items, params, lm, tokenizer)
    return TextPolicy(catalogue, params, lm, tokenizer)
