"""A training that was cut short, on disk: whole, or not at all.

What is trained and the optimizer's state as safetensors, all else as JSON; nothing is
pickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirec.datasets.atomic import replacing, sha256_of
from minirec.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import TrainerState

STATE = "trainer_state.json"  # by this name transformers' trainer looks for it
ADAPTER, OPTIMIZER = "adapter.safetensors", "optimizer.safetensors"
OTHERS = "others.safetensors"
SETTINGS, EARNED, HASHES = "optimizer.json", "earned.json", "sha256.json"


def write(
    folder: Path,
    state: TrainerState,
    adapter: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: Any | None,
    earned: list[tuple[int, float]],
    others: dict[str, torch.Tensor],
) -> None:
    """Write a checkpoint, and remove the one before.

    Parameters
    ----------
    folder
        Of this training's checkpoints, there or not.
    state
        The trainer's: its step and its log.
    adapter
        The tensors that are trained.
    optimizer, scheduler
        Whose states are kept. No scheduler: the learning rate is constant.
    earned
        The position and the mean reward of each prompt that was trained on.
    others
        Tensors of any other meaning.
    """
    from safetensors.torch import save_file

    of_optimizer = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, values in of_optimizer["state"].items():
        for name, value in values.items():
            kept: dict[str, Any] = tensors if hasattr(value, "detach") else numbers
            kept[f"{index}.{name}"] = value
    settings = {
        "param_groups": of_optimizer["param_groups"],
        "state": numbers,
        "scheduler": scheduler.state_dict() if scheduler else None,
    }
    path = folder / f"step-{state.global_step:08d}"
    with replacing(path) as new:
        new.mkdir()
        for name, those in (
            (OPTIMIZER, tensors),
            (ADAPTER, adapter),
            (OTHERS, others),
        ):
            save_file({n: t.contiguous() for n, t in those.items()}, new / name)
        state.save_to_json(str(new / STATE))
        (new / SETTINGS).write_text(json.dumps(settings), "utf-8")
        (new / EARNED).write_text(json.dumps(earned), "utf-8")
        hashes = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
        (new / HASHES).write_text(json.dumps(hashes, indent=2), "utf-8")
    _remove(other for other in folder.glob("step-*") if other != path)


def read_state(folder: Path) -> TrainerState:
    """Return the trainer's state of a checkpoint."""
    from transformers import TrainerState

    return TrainerState.load_from_json(str(folder / STATE))


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint that are trained."""
    from safetensors.torch import load_file

    return load_file(folder / ADAPTER)


def read_others(folder: Path) -> dict[str, torch.Tensor]:
    """Return the other tensors of a checkpoint."""
    from safetensors.torch import load_file

    return load_file(folder / OTHERS)


def read_earned(folder: Path) -> list[tuple[int, float]]:
    """Return the position and the mean reward of each prompt trained on so far."""
    found = json.loads((folder / EARNED).read_text("utf-8"))
    return [(position, reward) for position, reward in found]


def restore(
    folder: Path, optimizer: torch.optim.Optimizer, scheduler: Any | None
) -> None:
    """Give optimizer and scheduler the states of a checkpoint."""
    from safetensors.torch import load_file

    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**load_file(folder / OPTIMIZER), **settings["state"]}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": settings["param_groups"]}
    )
    if scheduler:
        scheduler.load_state_dict(settings["scheduler"])


def last_of(folder: Path) -> Path | None:
    """Return the last checkpoint in a folder; None if there is none.

    Raises
    ------
    InputError
        If it is not as it was written.
    """
    path = max(folder.glob("step-*"), default=None)
    if path is None:
        return None
    try:
        hashes = json.loads((path / HASHES).read_text("utf-8"))
        whole = all(sha256_of(path / n) == sha256 for n, sha256 in hashes.items())
    except (FileNotFoundError, ValueError):
        whole = False
    if not whole:
        raise InputError(
            f"the checkpoint {path} is not as it was written: delete this folder, and "
            "training begins anew, or bring it back from where it was copied"
        )
    return path


def keep_only(folder: Path) -> None:
    """Remove the folders of other trainings that lie beside this one's."""
    others = (other for other in folder.parent.glob("*") if other.is_dir())
    _remove(other for other in others if other != folder)


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)
