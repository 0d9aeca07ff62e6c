"""Files and folders that are there whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a free path beside `path`; the file or folder written there replaces it.

    If the block fails, `path` stays as it was and nothing is left beside it.

    Parameters
    ----------
    path : Path
        A file or a folder, there or not; its parents are made.

    Yields
    ------
    Path
        Where to write, on the same file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = f".{path.name}.{uuid4().hex}"
    new, old = path.with_name(f"{hidden}.new"), path.with_name(f"{hidden}.old")
    try:
        yield new
        if path.is_dir():
            # A folder that holds something can only be moved out of the way.
            path.rename(old)
            try:
                new.rename(path)
            except OSError:
                old.rename(path)
                raise
        else:
            new.replace(path)
    finally:
        for leftover in (new, old):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
