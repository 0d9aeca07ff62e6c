"""What decides a result, as a short hash."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel


def fingerprint(**parts: Any) -> str:
    """Hash named values: equal values give equal hashes, on any machine.

    Parameters
    ----------
    **parts
        Plain values, pydantic models, arrays, tensors, data frames, and dicts and
        lists of these. A path counts by the files in it.

    Returns
    -------
    str
        16 hexadecimal digits of a sha256.

    Raises
    ------
    TypeError
        If a value is of another type.

    Examples
    --------
    >>> fingerprint(a=1, b=[2.0]) == fingerprint(b=[2.0], a=1)
    True
    >>> fingerprint(a=1) == fingerprint(a=1.5)
    False
    """
    hashed = hashlib.sha256()
    _add(hashed, parts)
    return hashed.hexdigest()[:16]


def of_model(model: dict[str, str]) -> dict[str, Any]:
    """Return what identifies a model: its files, if it lies in a folder.

    Parameters
    ----------
    model
        Keyword arguments of ``from_pretrained``; none if there is no model.
    """
    if not model:
        return {}
    folder = Path(model["pretrained_model_name_or_path"])
    rest = {k: v for k, v in model.items() if k != "pretrained_model_name_or_path"}
    return {**rest, "model": folder if folder.is_dir() else str(folder)}


def _add(hashed: Any, value: Any) -> None:
    """Add a value with its type and size, so that no two lists of values are alike."""
    if isinstance(value, dict):
        hashed.update(f"dict {len(value)};".encode())
        for name in sorted(value):
            _add(hashed, name)
            _add(hashed, value[name])
    elif isinstance(value, list | tuple):
        hashed.update(f"list {len(value)};".encode())
        for each in value:
            _add(hashed, each)
    elif isinstance(value, BaseModel):
        _add(hashed, value.model_dump(mode="json"))
    elif value is None or isinstance(value, str | int | float | bool):
        text = json.dumps(value)
        hashed.update(f"value {len(text)};{text}".encode())
    elif isinstance(value, Path):
        _add(hashed, [_file(each, value) for each in sorted(value.rglob("*"))])
    elif isinstance(value, pd.DataFrame):
        table = pa.Table.from_pandas(value, preserve_index=False)
        sink = pa.BufferOutputStream()
        # One batch: how a table is cut is no part of it.
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        _bytes(hashed, f"table {value.shape}", sink.getvalue())
    elif hasattr(value, "detach"):  # a tensor; bfloat16 is unknown to numpy
        import torch

        plain = value.detach().cpu().contiguous()
        kind = f"tensor {plain.dtype} {tuple(plain.shape)}"
        _bytes(hashed, kind, plain.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        kind = f"array {value.dtype} {value.shape}"
        _bytes(hashed, kind, np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    else:
        raise TypeError(f"a {type(value).__name__} has no fingerprint")


def _bytes(hashed: Any, kind: str, data: Any) -> None:
    hashed.update(f"{kind};".encode())
    hashed.update(data)


def _file(path: Path, folder: Path) -> list[Any]:
    name = path.relative_to(folder).as_posix()
    if not path.is_file():
        return [name]
    with path.open("rb") as file:
        return [name, hashlib.file_digest(file, "sha256").hexdigest()]
