"""Work that is done once: what it made and what it cost, in a folder of its own."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import pandas as pd

from minirec.costs import counting
from minirec.datasets.adapter import AdapterDataset
from minirec.datasets.atomic import made_once
from minirec.datasets.files import ParquetDataset
from minirec.datasets.matrix import MatrixDataset

Spent = dict[str, float]
"""``seconds``, and `minirec.costs.Costs` by their names."""

_COSTS = "costs.json"


class Kept(NamedTuple):
    """What lies in a folder that `keep` has filled."""

    folder: Path

    @property
    def spent(self) -> Spent:
        """What the work took when it was done."""
        return json.loads((self.folder / _COSTS).read_text("utf-8"))

    def load(self, name: str) -> Any:
        """Return a table, a matrix or an adapter."""
        for dataset, path in _datasets(self.folder / name).items():
            if path.exists():
                return dataset(filepath=str(path)).load()
        raise FileNotFoundError(self.folder / name)


def keep(folder: Path, make: Callable[[], Mapping[str, Any]]) -> Kept:
    """Do some work, unless its folder shows that it was done.

    What is there is whole: a process that is killed leaves nothing, and files that were
    damaged since are made again. Of several processes one works, and the others wait.

    Parameters
    ----------
    folder
        There or not; its name holds a hash of all that decides what comes out.
    make
        Returns tables (Parquet), matrices (safetensors) and adapters (a folder), by
        name.
    """

    def write(new: Path) -> None:
        with counting() as costs:
            began = perf_counter()
            made = make()
            seconds = perf_counter() - began
        new.mkdir()
        for name, value in made.items():
            kind = (
                ParquetDataset
                if isinstance(value, pd.DataFrame)
                else AdapterDataset
                if "tensors" in value
                else MatrixDataset
            )
            path = _datasets(new / name)[kind]
            kind(filepath=str(path)).save(value)
        spent = {"seconds": seconds, **asdict(costs)}
        (new / _COSTS).write_text(json.dumps(spent), "utf-8")

    made_once(folder, write)
    return Kept(folder)


def forget(folder: Path) -> None:
    """Delete a folder that `keep` has filled; the next time the work is done again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(f".{folder.name}.json").unlink(missing_ok=True)


def _datasets(path: Path) -> dict[Any, Path]:
    return {
        ParquetDataset: path.with_name(f"{path.name}.parquet"),
        MatrixDataset: path.with_name(f"{path.name}.safetensors"),
        AdapterDataset: path,
    }
