"""Numeric arrays in one safetensors file, loaded as memory maps."""

import json
import math
import operator
import struct
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro_datasets._typing import TablePreview

from minirec.datasets.atomic import local, replacing

# How safetensors names the types of numpy.
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_LENGTH = struct.Struct("<Q")


class MatrixDataset(
    AbstractVersionedDataset[dict[str, np.ndarray], dict[str, np.ndarray]]
):
    """Named arrays of numbers; row i of each belongs to the same thing.

    Saving replaces the file at once or not at all; arrays that were loaded before
    keep what they held.

    Parameters
    ----------
    filepath : str
        The safetensors file.
    version : Version, optional
        Set by Kedro where the entry is ``versioned``.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(PurePosixPath(local(filepath)), version)
        self.metadata = metadata

    def load(self) -> dict[str, np.ndarray]:
        """Return each array as a read-only memory map: rows are read when used.

        Raises
        ------
        DatasetError
            If the file is missing or is not a whole safetensors file of numbers.
        """
        path = Path(self._get_load_path())
        arrays: dict[str, np.ndarray] = {}
        for name, (dtype, shape, offset) in _layout(path).items():
            if math.prod(shape) == 0:
                arrays[name] = np.empty(shape, dtype)
                arrays[name].flags.writeable = False
            else:
                arrays[name] = np.memmap(path, dtype, "r", offset, shape)
        return arrays

    def save(self, data: dict[str, np.ndarray]) -> None:
        """Write the arrays, replacing the file as a whole.

        Raises
        ------
        DatasetError
            If an array does not hold numbers.
        """
        from safetensors.numpy import save_file

        for name, array in data.items():
            if array.dtype not in DTYPES.values():
                raise DatasetError(
                    f"{self._filepath} cannot hold {name} of type {array.dtype}: "
                    f"convert it to one of "
                    f"{', '.join(np.dtype(known).name for known in DTYPES.values())}."
                )
        contiguous = {name: np.ascontiguousarray(array) for name, array in data.items()}
        with replacing(Path(self._get_save_path())) as path:
            save_file(contiguous, path)

    def preview(self) -> TablePreview:
        """Return name, type and shape of each array for Kedro-Viz."""
        rows = [
            [name, np.dtype(dtype).name, " x ".join(map(str, shape))]
            for name, (dtype, shape, _) in _layout(Path(self._get_load_path())).items()
        ]
        return TablePreview(
            {
                "index": list(range(len(rows))),
                "columns": ["name", "dtype", "shape"],
                "data": rows,
            }
        )

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


def _layout(path: Path) -> dict[str, tuple[Any, tuple[int, ...], int]]:
    """Read type, shape and place in the file of each array, all checked."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist: run the pipeline that makes it.")
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            start = _LENGTH.size + length
            if start > size:
                raise ValueError("its header goes beyond its end")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            return {
                name: _checked(name, start, size, **entry)
                for name, entry in header.items()
            }
        except (ValueError, TypeError, AttributeError, struct.error) as error:
            raise DatasetError(
                f"{path} is no whole safetensors file of numbers "
                f"({error}): delete it and run the pipeline that makes it."
            ) from error


def _checked(
    name: str,
    start: int,
    size: int,
    dtype: str,
    shape: list[int],
    data_offsets: list[int],
) -> tuple[Any, tuple[int, ...], int]:
    if dtype not in DTYPES:
        raise ValueError(f"{name} has the type {dtype}")
    begin, end = map(operator.index, data_offsets)
    if not 0 <= begin <= end <= size - start:
        raise ValueError(f"{name} goes beyond its end")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"{name} has the shape {shape}")
    if math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize != end - begin:
        raise ValueError(f"{name} has another size than its shape {shape}")
    return DTYPES[dtype], tuple(shape), start + begin
