"""The ``text`` policy: it writes a title, and the title ranks the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from minirec.columns import POPULARITY
from minirec.policy import loading
from minirec.policy.prompts import answer
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

    encoder: Any
    embeddings: np.ndarray
    prior: np.ndarray
    prior_weight: float

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

    def ground(self, completions: Sequence[str]) -> np.ndarray:
        """Return scores (N, M) over the catalogue for N completions."""
        prompt = self.params.prompt
        return self.catalogue.ground(
            [
                answer(text, prompt.answer_end, prompt.answer_mark)
                for text in completions
            ]
        )


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
            (N, M), higher is better.
        completions
            The N answers.
        """
        limit = self.params.sampling.max_new_tokens
        written = greedy_completions(self.lm, self.tokenizer, prompts, limit)
        tokens = [completion.tokens for completion in written]
        completions = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return self.ground(completions), completions


def load_catalogue(
    encoder_model: Model,
    items: pd.DataFrame,
    item_embeddings: dict[str, np.ndarray],
    ranking: RankingParams,
) -> Catalogue:
    """Return the catalogue with the encoder that its texts were embedded by."""
    return Catalogue(
        encoder=load_encoder(encoder_model),
        embeddings=item_embeddings["matrix"],
        prior=popularity_prior(items[POPULARITY].to_numpy()),
        prior_weight=ranking.prior_weight,
    )


def load_policy(
    policy_model: Model,
    adapter: Adapter,
    catalogue: Catalogue,
    params: PolicyParams,
) -> TextPolicy:
    """Return the policy with its adapter, in evaluation mode."""
    tokenizer = loading.load_tokenizer(policy_model)
    lm = loading.load_model(policy_model, params.dtype, tokenizer, params.prompt)
    return TextPolicy(catalogue, params, loading.attach_adapter(lm, adapter), tokenizer)
