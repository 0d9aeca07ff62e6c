"""A sentence encoder: texts to vectors of unit length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_encoder(model: dict[str, str]) -> SentenceTransformer:
    """Return the encoder, on a GPU where there is one.

    Parameters
    ----------
    model
        Keyword arguments of ``from_pretrained``, as the catalog's ``encoder_model``
        gives them: ``pretrained_model_name_or_path`` and perhaps ``revision``.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of loading its weights, a moment's work
    return SentenceTransformer(
        model["pretrained_model_name_or_path"], revision=model.get("revision")
    )


def encode(
    encoder: SentenceTransformer, texts: Sequence[str], progress: bool = False
) -> NDArray[np.float32]:
    """Return the embeddings (N, d) of N texts, each of unit length.

    Equal texts are encoded once: completions repeat. An empty text is one too; an
    encoder that adds no tokens of its own to it gives zeros, which are near nothing.

    Parameters
    ----------
    encoder
        What `load_encoder` returned.
    texts
        N texts; N may be 0.
    progress
        Whether to show a progress bar.
    """
    if not len(texts):
        return np.empty((0, encoder.get_embedding_dimension() or 0), dtype=np.float32)
    row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    unique = encoder.encode(
        list(row), normalize_embeddings=True, show_progress_bar=progress
    )
    return unique[[row[text] for text in texts]].astype(np.float32)
