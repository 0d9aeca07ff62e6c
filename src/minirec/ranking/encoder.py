"""A sentence encoder: texts to vectors of unit length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minirec import costs
from minirec.errors import loading
from minirec.progress import Progress
from minirec.types import Model

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# texts between two steps of a progress bar; the encoder batches within
CHUNK = 256


def load_encoder(model: Model) -> SentenceTransformer:
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
    with loading("encoder_model", model):
        encoder = SentenceTransformer(
            model["pretrained_model_name_or_path"],
            revision=model.get("revision"),
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    encoder[0].register_forward_pre_hook(_count)
    return encoder


def _count(module: torch.nn.Module, given: tuple[Mapping[str, torch.Tensor]]) -> None:
    """Count the products for a batch of texts: 2n for each weight, and attention's.

    Of a module that multiplies, and does not say how it attends, they are unknown.
    """
    import torch

    ids = given[0]["input_ids"]
    mask = given[0].get("attention_mask", torch.ones_like(ids))
    layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    flops = 2.0 * ids.numel() * sum(layer.weight.numel() for layer in layers)
    if layers:
        config = getattr(getattr(module, "auto_model", None), "config", None)
        depth = getattr(config, "num_hidden_layers", float("nan"))
        width = getattr(config, "hidden_size", float("nan"))
        flops += 4 * depth * width * ids.numel() * ids.shape[-1]
    costs.add(tokens_read=int(mask.sum()), flops=flops)


def encode(
    encoder: SentenceTransformer, texts: Sequence[str], label: str | None = None
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
    label
        What a progress bar says; None: no bar.
    """
    if not len(texts):
        return np.empty((0, encoder.get_embedding_dimension() or 0), dtype=np.float32)
    row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    unique, parts = list(row), []
    with Progress(
        total=len(row), desc=label, unit=" texts", disable=label is None
    ) as bar:
        for start in range(0, len(unique), CHUNK):
            chunk = unique[start : start + CHUNK]
            parts.append(
                encoder.encode(
                    chunk, normalize_embeddings=True, show_progress_bar=False
                )
            )
            bar.update(len(chunk))
    embeddings = np.concatenate(parts).astype(np.float32)
    return embeddings[[row[text] for text in texts]]
