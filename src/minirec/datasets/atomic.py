"""Files and folders that are there whole or not at all, and stay as they were made."""

import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from kedro.io import DatasetError
from kedro.io.core import get_protocol_and_path

logger = logging.getLogger(__name__)


def local(filepath: str) -> str:
    """Return the path of a file or folder on this machine.

    Raises
    ------
    DatasetError
        If it lies anywhere else: none could be replaced there in one step.
    """
    protocol, path = get_protocol_and_path(filepath)
    if protocol != "file":
        raise DatasetError(
            f"{filepath} is not on this machine, and what MiniRec keeps there it could "
            "not replace as a whole: name a path of a local or mounted disk"
        )
    return path


@contextmanager
def replacing(path: Path, *, any_kind: bool = False) -> Iterator[Path]:
    """Give a free path beside `path`; the file or folder written there replaces it.

    If the block fails, `path` stays as it was and nothing is left beside it. A process
    that is killed leaves hidden files beside `path`, which nothing reads and the next
    call removes; one killed between the two renames of a folder leaves no `path`, as
    if it had never been saved.

    Parameters
    ----------
    path : Path
        A file or a folder, there or not; its parents are made.
    any_kind : bool
        Let a file replace a folder and a folder a file.

    Yields
    ------
    Path
        Where to write, on the same file system.

    Raises
    ------
    OSError
        If a file was written and `path` is a folder, or the other way round, unless
        `any_kind` allows that.
    """
    path = path.resolve()  # a link stays, and what it leads to is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    hidden = path.with_name(f".{path.name}.{uuid4().hex}")
    new, old, lock = (
        hidden.with_name(f"{hidden.name}.{kind}") for kind in ("new", "old", "lock")
    )
    with hidden.open("x") as held:
        try:
            # Renamed once it is locked: a lock that is free is a dead process's.
            fcntl.flock(held, fcntl.LOCK_EX)
            hidden.rename(lock)
            yield new
            _open_to_others(new, os.fstat(held.fileno()).st_mode)
            if path.exists() and (
                (path.is_dir() and new.is_dir())
                or (any_kind and path.is_dir() != new.is_dir())
            ):
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
            _remove(new, old, hidden, lock)


def _open_to_others(new: Path, mode: int) -> None:
    """Let those read who may read any new file: safetensors writes for its owner alone."""
    readable = stat.S_IMODE(mode)
    for each in [*new.rglob("*"), new]:
        if each.exists() and not each.is_symlink():
            # who may read a folder may enter it
            enter = (readable & 0o444) >> 2 if each.is_dir() else 0
            each.chmod(stat.S_IMODE(each.stat().st_mode) | readable | enter)


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they saved left beside `path`."""
    folder, pattern = path.parent, f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}.lock"
    if folder.parent.name == path.name:
        # One of Kedro's versions, <name>/<version>/<name>: it is saved but once.
        folder, pattern = folder.parent, f"*/{pattern}"
    for lock in folder.glob(pattern):
        # Somebody is writing, or has just finished.
        with suppress(BlockingIOError, FileNotFoundError), lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The lock goes last: without it nobody would find the others.
            _remove(lock.with_suffix(".new"), lock.with_suffix(".old"), lock)


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def in_the_way(path: Path) -> Path | None:
    """Return the folder that keeps `path` from being written; None if none does.

    That is the first above `path` that is there, if it is no folder or cannot be
    written to. Nothing is made, and a disk that is full is not noticed.
    """
    there = next(parent for parent in path.resolve().parents if os.path.lexists(parent))
    fine = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return None if fine else there


def made_once(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file or folder that is to stay as it was made; again if it did not.

    What was made is recorded in ``.<name>.json`` beside it: size, time and sha256 of
    each file. Files of recorded size and time are taken for unchanged; others are
    hashed, and made again unless only their time is new. So are files of which there
    is no record. Hidden files inside a folder are not looked at. Of several threads
    and processes one makes, and the others wait.

    Parameters
    ----------
    path : Path
        A file or a folder, there or not; its parents are made.
    make : function of a Path
        Writes it there.
    """
    record = path.with_name(f".{path.name}.json")
    if _looks_as_recorded(path, _read(record)):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with record.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        known = _read(record)
        if _looks_as_recorded(path, known):
            return
        if not path.exists() or known.get("sha256") != _sha256s(path):
            if path.exists():
                logger.warning("%s is not as it was made: making it again", path)
            with replacing(path) as new:
                make(new)
        made = {"size_and_mtime_ns": _sizes_and_times(path), "sha256": _sha256s(path)}
        # In place: the file is also the lock.
        held.truncate(0)
        held.write(json.dumps(made, indent=2))


def _read(record: Path) -> dict[str, Any]:
    try:
        return json.loads(record.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        # Never made, or being written or cut short.
        return {}


def _looks_as_recorded(path: Path, known: dict[str, Any]) -> bool:
    try:
        found = _sizes_and_times(path)
    except FileNotFoundError:
        # Somebody is making it again.
        return False
    return path.exists() and known.get("size_and_mtime_ns") == found


def _sizes_and_times(path: Path) -> dict[str, list[int]]:
    stats = {name: file.stat() for name, file in _files(path).items()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _sha256s(path: Path) -> dict[str, str]:
    return {name: sha256_of(file) for name, file in _files(path).items()}


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.name: path}
    found = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    return {
        name.as_posix(): file
        for name, file in found.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
