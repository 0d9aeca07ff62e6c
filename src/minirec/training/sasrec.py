"""A trained SASRec: what a small sequential recommender without an LLM reaches.

The model and its loss are RecBole's (W. X. Zhao et al., "RecBole: Towards a unified,
comprehensive and efficient framework for recommendation algorithms", 2021), after W.-C.
Kang, J. McAuley, "Self-attentive sequential recommendation" (2018). RecBole's own
configuration and trainer stay unused: they ask for NumPy 1, and keep the best epoch as a
pickle. Who trains ranks in the same call: on disk there are checkpoints alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from minirec import costs
from minirec.columns import PRETRAIN, TRAIN
from minirec.errors import InputError
from minirec.policy.params import Params
from minirec.training.item_pretraining import cut, histories, keep_best, mean_ndcg

if TYPE_CHECKING:
    import torch

# histories that are read at once
AT_ONCE = 256

# names that RecBole's model asks its configuration for, and what they are here
FIELDS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
}

# what configuration and parameters both say
SIZES = {
    "hidden_size",
    "inner_size",
    "n_layers",
    "n_heads",
    "hidden_dropout_prob",
    "attn_dropout_prob",
}

# RecBole's defaults for SASRec that nobody tunes
DEFAULTS = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "loss_type": "CE",
}


class SasrecParams(Params):
    """The model, by RecBole's names, and its training."""

    hidden_size: int = Field(ge=1)
    """Numbers of an item's state; a multiple of n_heads."""
    inner_size: int = Field(ge=1)
    """Numbers between the two linear maps of a layer."""
    n_layers: int = Field(ge=1)
    """Layers of self-attention."""
    n_heads: int = Field(ge=1)
    """Heads of each layer."""
    hidden_dropout_prob: float = Field(ge=0, lt=1)
    """Share of states that training leaves out at random."""
    attn_dropout_prob: float = Field(ge=0, lt=1)
    """Share of attention that training leaves out at random."""
    epochs: int = Field(ge=1)
    """At most."""
    patience: int = Field(ge=1)
    """Epochs without a better NDCG@10 on the validation split, after which it stops."""
    validation_windows: int = Field(ge=1)
    """Drawn from that split at most."""
    batch_size: int = Field(ge=1)
    """Pieces of histories a step; each of their items is scored against all items."""
    steps: int = Field(ge=1)
    """An epoch at most, whatever the number of users: this bounds the cost."""
    learning_rate: float = Field(gt=0)
    """Of Adam."""

    @model_validator(mode="after")
    def divide_evenly(self) -> Self:
        """Refuse heads that do not share the hidden size evenly."""
        if self.hidden_size % self.n_heads:
            raise InputError(
                f"train_eval.evaluation.sasrec.hidden_size is {self.hidden_size}, which is "
                f"no multiple of n_heads ({self.n_heads}): change one of the two"
            )
        return self


@dataclass(frozen=True)
class Sasrec:
    """RecBole's SASRec over M items, trained."""

    model: Any
    """In evaluation mode. Its item 0 is padding; item i of the catalogue is i + 1."""
    window: int
    """Items of a history that it reads at most."""
    log: pd.DataFrame
    """A row an epoch of training: ``epoch``, ``loss`` and ``ndcg@10``."""

    def scores(self, histories: Sequence[NDArray[np.integer]]) -> NDArray[np.float32]:
        """Score every item as the next one of N histories.

        Parameters
        ----------
        histories
            For each of N users, the columns of the items in the history, the oldest
            first. The last ``window`` are read.

        Returns
        -------
        ndarray
            (N, M) logits, higher is better. Items already seen are not masked: who
            ranks does that.
        """
        parts = [
            _scores(self.model, self.window, histories[first : first + AT_ONCE])
            for first in range(0, len(histories), AT_ONCE)
        ]
        empty = np.empty((0, self.model.n_items - 1), np.float32)
        return np.concatenate([empty, *parts])


def train_sasrec(
    interactions: pd.DataFrame,
    items: pd.DataFrame,
    params: SasrecParams,
    window: int,
    seed: int,
    label: str,
    folder: Path | None = None,
) -> Sasrec:
    """Train a SASRec on all that training may know, and leave it as it was at its best.

    It learns the splits ``pretrain`` and ``train`` and is validated on the windows, with
    the masks, of the ``item_tokens`` policy (`minirec.training.item_pretraining`).

    Each epoch reads every history once, cut anew into pieces of ``window`` items, and
    foretells from each item and those before it in the piece the one that comes next,
    all at once, as Kang and McAuley do. So every item but a history's first is a target
    once, the first of a piece too, which the last of the piece before foretells.
    RecBole makes a sample of its own of every beginning of a history: the same targets,
    each with the whole window before it, at about ``window`` times the cost. Here an
    item in a piece has from 1 to ``window`` before it, half of that on average.

    Where an epoch would take more than ``steps`` steps it reads fewer histories, drawn
    anew each epoch, and leaves out the batches that are still too many.

    Parameters
    ----------
    interactions
        ``user_id``, ``item_id``, ``position`` and ``split``.
    items
        The catalogue: its row i is column i of all scores.
    params
        Settings.
    window
        Items of the past that are read at most.
    seed
        Of the weights, the validation windows, the histories of an epoch, the cuts, the
        order and the dropout.
    label
        What the progress bar says.
    folder
        See `minirec.training.item_pretraining.keep_best`.

    Raises
    ------
    InputError
        If RecBole is not installed or another release than was expected, or as
        `histories` and `keep_best`.
    """
    import torch

    model = new_model(len(items), params, window, seed)
    data = histories(
        interactions,
        items,
        params.validation_windows,
        seed,
        (PRETRAIN, TRAIN),
        "train_eval.evaluation.baselines names sasrec",
        "change preprocess.split, or take sasrec out of that list",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=params.learning_rate)
    log = keep_best(
        model,
        optimizer,
        lambda epoch: _epoch(
            model, optimizer, data.sequences, window, params, [seed, epoch]
        ),
        lambda: mean_ndcg(lambda past: _scores(model, window, past), data),
        params,
        "train_eval.evaluation.sasrec",
        len(data.target),
        label,
        folder,
    )
    return Sasrec(model, window, log)


def new_model(n_items: int, params: SasrecParams, window: int, seed: int) -> Any:
    """Return RecBole's SASRec with random weights, on a GPU if there is one.

    What it is asked for is not one position of each row, its last, but those of all
    rows that `_batch` names. Weights are drawn as RecBole draws them, and dropout as
    ever, but from a generator of the model's own, ``noise``: other nodes may draw
    meanwhile.

    Raises
    ------
    InputError
        If RecBole cannot be imported, or its model has weights of another kind.
    """
    import torch

    # One of RecBole's modules sets it for the whole process: every step would take
    # half as long again, in other nodes too.
    anomalies = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        from recbole.model.sequential_recommender.sasrec import SASRec
    except ImportError as error:
        raise InputError(
            f"train_eval.evaluation.baselines names sasrec, which needs RecBole "
            f"({error}): run `pip install --no-deps -r requirements-sasrec.lock`, or "
            "take sasrec out of that list"
        ) from error
    finally:
        torch.autograd.set_detect_anomaly(*anomalies)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = params.model_dump(include=SIZES)
    config = {**FIELDS, **DEFAULTS, **sizes, "MAX_ITEM_LIST_LENGTH": window}
    with torch.device("meta"):  # no weights yet, and nothing drawn
        model: Any = SASRec(
            {**config, "device": device}, SimpleNamespace(num=lambda _: n_items + 1)
        )
    model.to_empty(device=device)
    model.gather_indexes = lambda output, place: output.flatten(0, 1)[place]
    model.noise = noise = torch.Generator(device).manual_seed(seed)
    drawn = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            torch.nn.init.normal_(
                module.weight, std=model.initializer_range, generator=noise
            )
            drawn.append(module.weight)
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.ones_(module.weight)
            drawn.append(module.weight)
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
            torch.nn.init.zeros_(module.bias)
            drawn.append(module.bias)
        if isinstance(module, torch.nn.Dropout):
            module.forward = partial(_drop, module, noise)  # type: ignore[method-assign]
    # `to_empty` leaves in all others whatever the memory held
    known = {id(tensor) for tensor in drawn}
    named = [*model.named_parameters(), *model.named_buffers()]
    if others := [name for name, tensor in named if id(tensor) not in known]:
        raise InputError(
            f"RecBole's SASRec has weights that MiniRec does not know how to draw "
            f"({', '.join(others)}): install the release that requirements-sasrec.lock "
            "names, or take sasrec out of train_eval.evaluation.baselines"
        )
    return model.eval()


def _drop(
    module: torch.nn.Dropout, noise: torch.Generator, x: torch.Tensor
) -> torch.Tensor:
    """Drop out as the module does, by another generator."""
    import torch

    if not module.training:
        return x
    kept = torch.rand(x.shape, generator=noise, device=x.device) >= module.p
    return x * kept / (1 - module.p)


def _batch(
    model: Any,
    rows: Sequence[NDArray[np.integer]],
    asked: Sequence[NDArray[np.integer]],
) -> dict[str, torch.Tensor]:
    """Return rows of items as the model reads them, and which positions are asked.

    Rows are padded on the right, so that causal attention alone hides the padding.
    """
    import torch

    width = max(1, *map(len, rows))
    ids = np.zeros((len(rows), width), np.int64)
    for row, columns in enumerate(rows):
        ids[row, : len(columns)] = columns + 1
    place = np.concatenate([row * width + own for row, own in enumerate(asked)])
    # SASRec takes lengths, and 1 from them
    given = {model.ITEM_SEQ: ids, model.ITEM_SEQ_LEN: place + 1}
    return {name: torch.from_numpy(of).to(model.device) for name, of in given.items()}


def _scores(
    model: Any, window: int, histories: Sequence[NDArray[np.integer]]
) -> NDArray[np.float32]:
    """Score all items for n histories (n, M)."""
    import torch

    rows = [columns[-window:] for columns in histories]
    # an empty history is read as one item of padding
    batch = _batch(model, rows, [np.array([max(len(row), 1) - 1]) for row in rows])
    costs.add(
        tokens_read=sum(map(len, rows)),
        flops=_forward_flops(model, batch[model.ITEM_SEQ], len(rows)),
    )
    with torch.inference_mode():
        return model.full_sort_predict(batch)[:, 1:].cpu().numpy()


def _epoch(
    model: Any,
    optimizer: torch.optim.Optimizer,
    sequences: list[NDArray[np.integer]],
    window: int,
    params: SasrecParams,
    seed: Sequence[int],
) -> float:
    """Learn every sequence once, within the steps; return the mean loss an item."""
    import torch

    # of the epoch alone, so that a training that goes on draws the same
    model.noise.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    model.train()
    loss_sum, n_items = 0.0, 0
    for pieces in _batches(
        sequences, window, params.batch_size, params.steps, np.random.default_rng(seed)
    ):
        rows = [piece[:, 0] for piece in pieces]
        batch = _batch(model, rows, [np.arange(len(row)) for row in rows])
        target = np.concatenate([piece[:, 1] for piece in pieces]) + 1
        batch[model.POS_ITEM_ID] = torch.from_numpy(target).to(model.device)
        n = len(target)
        costs.add(
            tokens_trained=n,
            # twice as many backward as forward, since all weights are trained
            flops=3 * _forward_flops(model, batch[model.ITEM_SEQ], n),
        )
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum, n_items = loss_sum + loss.item() * n, n_items + n
    model.eval()
    return loss_sum / n_items


def _batches(
    sequences: list[NDArray[np.integer]],
    window: int,
    batch_size: int,
    steps: int,
    noise: np.random.Generator,
) -> list[list[NDArray[np.integer]]]:
    """Return the batches of an epoch, at most `steps`.

    A piece (n, 2) has in each row an item and the one that comes next.
    """
    order = noise.permutation(len(sequences))
    targets = np.array([len(sequences[i]) - 1 for i in order])
    # each gives at least so many: of further histories no piece would be read
    pieces = np.cumsum(-(-targets // window))
    enough = order[: np.searchsorted(pieces, steps * batch_size) + 1]
    pairs = [np.stack([sequences[i][:-1], sequences[i][1:]], axis=1) for i in enough]
    return cut(pairs, window, batch_size, noise)[:steps]


def _forward_flops(model: Any, ids: torch.Tensor, asked: int) -> float:
    """Return the operations of the products: see `minirec.policy.flops`."""
    rows, width = ids.shape
    maps = [p for p in model.trm_encoder.parameters() if p.dim() > 1]
    pairs = 4 * model.n_layers * model.hidden_size * rows * width**2
    weights = sum(p.numel() for p in maps)
    logits = 2 * model.item_embedding.weight.numel() * asked
    return 2.0 * weights * rows * width + pairs + logits
