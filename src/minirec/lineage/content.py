"""What lies in files and folders: hashes, kept by size and time."""

import hashlib
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from minirec.datasets.atomic import replacing

logger = logging.getLogger(__name__)

# By what an object store says that an object is another than before.
_MARKS = ("size", "created", "LastModified", "ETag", "etag", "updated")

# Clocks of file systems tick in up to 10 ms: a file written again within a tick
# looks the same.
_TICK = 0.1


class Hashes:
    """sha256 of files and folders; a file is read again only if it looks another.

    Parameters
    ----------
    path : Path, optional
        JSON file that keeps the hashes between processes.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._new: dict[str, list[str]] = {}
        self._kept = self._read()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone: another process reads the file itself."""
        return Hashes, (self.path,)

    def of(self, fs: AbstractFileSystem, path: str) -> str | None:
        """Return the hash of a file, or of a folder's files with their names.

        Hidden files in a folder do not count: systems and editors leave them.

        Parameters
        ----------
        fs
            Where the path lies.
        path
            As the file system writes it.

        Returns
        -------
        str or None
            64 hexadecimal digits; None if nothing is there, or cannot be reached.
        """
        try:
            if not fs.isdir(path):
                return self._of_file(fs, path)
            parts = [
                f"{self._of_file(fs, file)} {file.removeprefix(path)}"
                for file in _files(fs, path)
            ]
        except OSError:
            return None
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def save(self) -> None:
        """Add what was hashed to the JSON file."""
        with self._lock:
            if self.path is None or not self._new:
                return
            # Another process may have added to it.
            self._kept = {**self._read(), **self._new}
            self._new.clear()
            try:
                with replacing(self.path) as path:
                    path.write_text(json.dumps(self._kept, indent=0), "utf-8")
            except OSError as error:
                logger.warning(
                    "%s cannot be written (%s): files are read again to know that they "
                    "have not changed",
                    self.path,
                    error.strerror,
                )

    def _of_file(self, fs: AbstractFileSystem, path: str) -> str:
        marks, changed_at = _looks(fs, path)
        name = fs.unstrip_protocol(path)
        kept = self._new.get(name) or self._kept.get(name)
        if kept and kept[0] == marks:
            return kept[1]
        with fs.open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time() - changed_at > _TICK:
            with self._lock:
                self._new[name] = [marks, found]
        return found

    def _read(self) -> dict[str, list[str]]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            kept = json.loads(self.path.read_text("utf-8"))
        except ValueError:  # a damaged file costs reading the others again
            return {}
        return kept if isinstance(kept, dict) else {}


def _looks(fs: AbstractFileSystem, path: str) -> tuple[str, float]:
    """Return what tells a file from another, and when it was changed if it says so."""
    if isinstance(fs, LocalFileSystem):
        found = os.stat(path)  # of what a link leads to, unlike fsspec
        marks = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        return " ".join(map(str, marks)), found.st_mtime
    info = fs.info(path)
    return " ".join(str(info.get(mark)) for mark in _MARKS), 0


def _files(fs: AbstractFileSystem, path: str) -> list[str]:
    """Return the files below a folder, in order."""
    if isinstance(fs, LocalFileSystem):
        found = [
            os.path.join(folder, file)
            for folder, _, files in os.walk(path, followlinks=True)
            for file in files
        ]
    else:
        found = fs.find(path)
    return sorted(
        file for file in found if "/." not in file.removeprefix(path).replace("\\", "/")
    )
