"""What training reports step by step: a table, and TensorBoard's curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from transformers import Trainer


def training_log(history: Iterable[Mapping[str, float]]) -> pd.DataFrame:
    """Return table ``proxy_log`` or ``policy_log``, one row a step.

    Parameters
    ----------
    history
        What TRL's trainer logged, by its own names; what it says of the whole run at
        last is left out.

    Examples
    --------
    >>> step = {"loss": 0.1, "step_time": 2.0, "num_tokens": 500.0, "step": 1}
    >>> training_log([step, {**step, "num_tokens": 900.0, "step": 2}])[
    ...     "tokens_per_second"
    ... ]
    0    250.0
    1    200.0
    Name: tokens_per_second, dtype: float64
    """
    # names in order, since a checkpoint does not keep another
    log = pd.DataFrame([dict(sorted(row.items())) for row in history if "loss" in row])
    tokens = log["num_tokens"].diff().fillna(log["num_tokens"])
    return log.assign(tokens_per_second=tokens / log["step_time"])


def show_curves(trainer: Trainer, folder: str, label: str) -> None:
    """Let the trainer's curves go to TensorBoard, into a folder of its label."""
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = str(Path(folder) / label)
    trainer.add_callback(callback)


def write_curves(log: pd.DataFrame, folder: str, label: str) -> None:
    """Write a log's curves for TensorBoard, as `show_curves` does, once it is whole."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(Path(folder) / label)) as writer:
        for row in log.to_dict("records"):
            step = int(row.pop("step"))
            for name, value in row.items():
                writer.add_scalar(f"train/{name}", value, step)
