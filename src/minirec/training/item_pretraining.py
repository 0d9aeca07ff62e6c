"""Pre-training of the ``item_tokens`` policy: the next item of every history."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pandas as pd

from minirec import costs
from minirec.columns import (
    ITEM_ID,
    POSITION,
    PRETRAIN,
    SPLIT,
    TRAIN,
    USER_ID,
    VALID,
)
from minirec.errors import InputError
from minirec.policy.flops import backward_flops, forward_flops
from minirec.policy.item_tokens import (
    AT_ONCE,
    ItemPolicy,
    get_weights,
    last_hidden,
    new_policy,
)
from minirec.progress import Progress
from minirec.ranking.grounding import mask_seen, target_rank
from minirec.ranking.metrics import ndcg
from minirec.training import checkpoints

if TYPE_CHECKING:
    import torch

    from minirec.policy.params import ItemTokenParams, PretrainingParams
    from minirec.types import Adapter

CUTOFF = 10

logger = logging.getLogger(__name__)


class Histories(NamedTuple):
    """What a model learns next items from, and what tells it when to stop."""

    sequences: list[np.ndarray]
    """Of each user the items to learn, as rows of the catalogue, the oldest first."""
    past: list[np.ndarray]
    """Of each validation window all items before the target."""
    target: np.ndarray
    """(V,) of each validation window."""


def pretrained(
    interactions: pd.DataFrame,
    items: pd.DataFrame,
    params: ItemTokenParams,
    dtype: str,
    window: int,
    seed: int,
    label: str,
    folder: Path,
) -> Adapter:
    """Make and pre-train a policy, and return all its weights.

    Parameters
    ----------
    interactions, items
        As `histories` takes them.
    params, dtype, window, seed
        Parameters.
    label
        What the progress bar says.
    folder
        See `pretrain`.

    Raises
    ------
    InputError
        As `histories` and `pretrain`.
    """
    data = histories(interactions, items, params.pretraining.validation_windows, seed)
    policy = new_policy(items, params, dtype, window, seed)
    pretrain(policy, data, window, params.pretraining, seed, label, folder)
    return get_weights(policy.lm, policy.tokenizer)


def histories(
    interactions: pd.DataFrame,
    items: pd.DataFrame,
    windows: int,
    seed: int,
    learned: Collection[str] | None = None,
    asked: str = "policy.kind is item_tokens",
    way_out: str = "change preprocess.split",
) -> Histories:
    """Take the histories to learn, and validation windows, out of the interactions.

    Parameters
    ----------
    interactions
        ``user_id``, ``item_id``, ``position`` and ``split``.
    items
        The catalogue.
    windows
        How many validation windows are drawn at most.
    seed
        Of this draw.
    learned
        The splits to learn. None: ``pretrain``, or ``train`` where there is no such
        split.
    asked, way_out
        What asks for them, and what helps where there are none, for messages.

    Raises
    ------
    InputError
        If there is nothing to learn, or to validate by.
    """
    ordered = interactions.sort_values([USER_ID, POSITION])
    row = pd.Index(items[ITEM_ID]).get_indexer(pd.Index(ordered[ITEM_ID]))
    split = ordered[SPLIT].to_numpy()
    if learned is None:
        learned = [PRETRAIN if (split == PRETRAIN).any() else TRAIN]
    known = np.isin(split, list(learned))
    first = np.flatnonzero(ordered[POSITION].to_numpy() == 0)
    parts = zip(np.split(row, first[1:]), np.split(known, first[1:]), strict=True)
    sequences = [own[kept] for own, kept in parts if kept.sum() > 1]
    # a history's first item has no past to be foretold from
    valid = np.flatnonzero((split == VALID) & (ordered[POSITION].to_numpy() > 0))
    if not sequences:
        raise InputError(
            f"{asked}, and no user has two interactions in {' and '.join(learned)} to "
            f"learn next items from: {way_out}"
        )
    if not len(valid):
        raise InputError(
            f"{asked}, and no interaction in {VALID} has one before it, so that nothing "
            f"says when to stop: {way_out}"
        )
    drawn = np.sort(np.random.default_rng(seed).permutation(valid)[:windows])
    start = first[np.searchsorted(first, drawn, side="right") - 1]
    past = [row[begin:end] for begin, end in zip(start, drawn, strict=True)]
    return Histories(sequences, past, row[drawn])


def pretrain(
    policy: ItemPolicy,
    data: Histories,
    window: int,
    params: PretrainingParams,
    seed: int,
    label: str,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Pre-train the policy in place, and leave it as it was at its best.

    Each epoch reads every sequence once, in pieces of as many items as a sample shows,
    cut elsewhere each time; every item of a piece is foretold from those before it.
    After each epoch NDCG@10 of the validation windows is measured, seen items masked.
    Training stops when it has not risen for ``patience`` epochs.

    Parameters
    ----------
    policy
        With random weights.
    data
        See `histories`.
    window
        Items of the past that a sample holds.
    params
        Settings.
    seed
        Of the order and the cuts.
    label
        What the progress bar says.
    folder
        See `keep_best`.

    Returns
    -------
    DataFrame
        A row an epoch: ``epoch``, ``loss`` and ``ndcg@10``.

    Raises
    ------
    InputError
        If the last checkpoint is damaged, or the loss is not finite.
    """
    import torch

    optimizer = torch.optim.AdamW(
        policy.lm.parameters(),
        lr=params.learning_rate,
        weight_decay=params.weight_decay,
    )
    return keep_best(
        policy.lm,
        optimizer,
        lambda epoch: _epoch(
            policy, optimizer, data.sequences, window, params, seed, epoch
        ),
        lambda: validation_ndcg(policy, data, window),
        params,
        "policy.item_tokens.pretraining",
        len(data.target),
        label,
        folder,
    )


def validation_ndcg(policy: ItemPolicy, data: Histories, window: int) -> float:
    """Return the mean NDCG@10 of the validation windows, seen items masked."""
    import torch

    def scores(past: list[np.ndarray]) -> np.ndarray:
        ids = [[policy.n_items, *own[-window:]] for own in past]
        with torch.inference_mode():
            hidden = last_hidden(policy.lm, ids)
            return policy.logits(hidden).float().cpu().numpy()

    return mean_ndcg(scores, data)


def mean_ndcg(
    scores: Callable[[list[np.ndarray]], np.ndarray], data: Histories
) -> float:
    """Return a model's mean NDCG@10 of the validation windows, seen items masked.

    Parameters
    ----------
    scores
        From n pasts to scores (n, M).
    data
        See `histories`.
    """
    total = 0.0
    for start in range(0, len(data.target), AT_ONCE):
        past = data.past[start : start + AT_ONCE]
        target = data.target[start : start + AT_ONCE]
        rank = target_rank(mask_seen(scores(past), past, target), target)
        total += float(np.sum(ndcg(rank, CUTOFF)))
    return total / len(data.target)


class Stopping(Protocol):
    """Parameters that say when `keep_best` stops."""

    @property
    def epochs(self) -> int:
        """At most."""

    @property
    def patience(self) -> int:
        """Epochs without a better NDCG@10, after which it stops."""


def keep_best(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    learn: Callable[[int], float],
    measure: Callable[[], float],
    params: Stopping,
    parameter: str,
    n_windows: int,
    label: str,
    folder: Path | None,
) -> pd.DataFrame:
    """Train epoch by epoch, and leave the model as it was at its best.

    Parameters
    ----------
    model, optimizer
        Whose parameters are trained, and what trains them.
    learn
        Trains the epoch of that number, from 0, and returns its mean loss. All that it
        draws must follow from this number.
    measure
        Returns NDCG@10 of the model as it is.
    params, parameter
        When it stops, and the full path of these parameters, for messages.
    n_windows
        That it is measured on.
    label
        What the progress bar says.
    folder
        For a checkpoint after each epoch. Where there is one, training goes on behind
        it, and ends with the weights that it would have had without the interruption.

    Returns
    -------
    DataFrame
        A row an epoch: ``epoch``, ``loss`` and ``ndcg@10``.

    Raises
    ------
    InputError
        If the last checkpoint is damaged, or the loss is not finite.
    """
    from transformers import TrainerState

    rows: list[dict[str, float]] = []
    kept: dict[str, torch.Tensor] = {}
    if last := checkpoints.last_of(folder) if folder else None:
        _set_parameters(model, checkpoints.read_adapter(last))
        checkpoints.restore(last, optimizer, None)
        kept = checkpoints.read_others(last)
        rows = checkpoints.read_state(last).log_history
        logger.info("%s goes on behind %s", label, last)
    measured = f"ndcg@{CUTOFF}"
    found = [row[measured] for row in rows]
    with Progress(
        total=params.epochs, initial=len(rows), desc=label, unit=" epochs"
    ) as bar:
        for epoch in range(len(rows), params.epochs):
            if epoch - _best(found) > params.patience:
                break
            loss = learn(epoch)
            if not np.isfinite(loss):
                raise InputError(
                    f"{label}: the loss of epoch {epoch + 1} is not finite: lower "
                    f"{parameter}.learning_rate"
                )
            found.append(measure())
            rows.append({"epoch": epoch, "loss": loss, measured: found[-1]})
            weights = {
                name: own.detach().cpu().clone()
                for name, own in model.named_parameters()
            }
            if _best(found) == epoch:
                kept = weights
            if folder:
                state = TrainerState(global_step=len(rows), log_history=rows)
                checkpoints.write(folder, state, weights, optimizer, None, [], kept)
            # in a narrow terminal the last is cut off
            bar.set_postfix({"ndcg": f"{found[-1]:.4f}", "loss": f"{loss:.3f}"})
            bar.update(1)
    _set_parameters(model, kept)
    logger.info(
        "%s: NDCG@%d of %d validation windows is %.4f after epoch %d of %d, the best",
        label,
        CUTOFF,
        n_windows,
        max(found),
        _best(found) + 1,
        len(rows),
    )
    return pd.DataFrame(rows, columns=["epoch", "loss", measured])


def _set_parameters(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, own in model.named_parameters():
            own.copy_(tensors[name])


def _best(found: list[float]) -> int:
    """Return the first epoch of the highest NDCG; none was measured yet: 0."""
    return int(np.argmax(found)) if found else 0


def cut(
    sequences: list[np.ndarray],
    length: int,
    batch_size: int,
    noise: np.random.Generator,
) -> list[list[np.ndarray]]:
    """Cut the sequences of an epoch into pieces, and these into batches.

    Parameters
    ----------
    sequences
        Each is cut into pieces of ``length`` items, the first one shorter at random.
    length
        Items of a piece, at most.
    batch_size
        Pieces of a batch.
    noise
        Draws the cuts and the order.

    Returns
    -------
    list of list of ndarray
        Batches in random order. Pieces of like length are together, the longest first,
        as a batch is padded to it.
    """
    pieces = [
        piece
        for own in sequences
        for piece in np.split(
            own, np.arange(noise.integers(1, length + 1), len(own), length)
        )
        if len(piece)
    ]
    order = noise.permutation(len(pieces))
    lengths = np.array([len(piece) for piece in pieces])
    order = order[np.argsort(-lengths[order], kind="stable")]
    batches = [
        [pieces[i] for i in order[first : first + batch_size]]
        for first in range(0, len(order), batch_size)
    ]
    return [batches[number] for number in noise.permutation(len(batches))]


def _epoch(
    policy: ItemPolicy,
    optimizer: torch.optim.Optimizer,
    sequences: list[np.ndarray],
    window: int,
    params: PretrainingParams,
    seed: int,
    epoch: int,
) -> float:
    """Learn every sequence once; return the mean loss a token."""
    import torch

    noise = np.random.default_rng([seed, epoch])
    policy.lm.train()
    loss_sum, n_tokens = 0.0, 0
    for batch in cut(sequences, window, params.batch_size, noise):
        width = len(batch[0])
        ids = np.full((len(batch), width + 1), policy.n_items)
        labels = np.full((len(batch), width), -100)
        for r, piece in enumerate(batch):
            ids[r, 1 : len(piece) + 1] = piece
            labels[r, : len(piece)] = piece
        # padded on the right, so that causal attention alone is enough
        read = policy.lm.model(
            input_ids=torch.from_numpy(ids[:, :-1]).to(policy.lm.device),
            use_cache=False,
        ).last_hidden_state
        size = len(batch) * width, len(batch) * width**2
        costs.add(
            tokens_trained=int((labels >= 0).sum()),
            flops=forward_flops(policy.lm, *size) + backward_flops(policy.lm, *size),
        )
        own = torch.from_numpy(labels).to(policy.lm.device)
        logits = policy.logits(read[own >= 0])
        loss = torch.nn.functional.cross_entropy(logits.float(), own[own >= 0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.lm.parameters(), 1.0)
        optimizer.step()
        n = int((labels >= 0).sum())
        loss_sum, n_tokens = loss_sum + loss.item() * n, n_tokens + n
    policy.lm.eval()
    return loss_sum / n_tokens
