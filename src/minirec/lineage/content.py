"""What lies in files and folders: hashes, kept by size and time."""

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from minirec.datasets.atomic import replacing

# By what a file system says that a file is another than before: size, times, tags.
_MARKS = ("size", "mtime", "created", "ino", "LastModified", "ETag", "etag", "updated")

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
        self._path = path
        self._lock = threading.Lock()
        self._new: dict[str, list[str]] = {}
        self._kept = self._read()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone: another process reads the file itself."""
        return Hashes, (self._path,)

    def of(self, files: AbstractFileSystem, path: str) -> str | None:
        """Return the hash of a file, or of a folder's files with their names.

        Parameters
        ----------
        files
            Where the path lies.
        path
            As the file system writes it.

        Returns
        -------
        str or None
            64 hexadecimal digits; None if nothing is there.
        """
        try:
            info = files.info(path)
        except FileNotFoundError:
            return None
        if info["type"] != "directory":
            return self._of_file(files, path, info)
        found = files.find(path, detail=True)
        parts = [
            f"{self._of_file(files, name, info)} {name.removeprefix(path)}"
            for name, info in sorted(found.items())
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def save(self) -> None:
        """Add what was hashed to the JSON file."""
        with self._lock:
            if self._path is None or not self._new:
                return
            # Another process may have added to it.
            self._kept = {**self._read(), **self._new}
            with replacing(self._path) as path:
                path.write_text(json.dumps(self._kept, indent=0), "utf-8")
            self._new.clear()

    def _of_file(
        self, files: AbstractFileSystem, path: str, info: dict[str, Any]
    ) -> str:
        marks = " ".join(str(info.get(mark)) for mark in _MARKS)
        name = files.unstrip_protocol(path)
        kept = self._new.get(name) or self._kept.get(name)
        if kept and kept[0] == marks:
            return kept[1]
        with files.open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time() - info.get("mtime", 0) > _TICK:
            with self._lock:
                self._new[name] = [marks, found]
        return found

    def _read(self) -> dict[str, list[str]]:
        if self._path is None or not self._path.is_file():
            return {}
        try:
            return json.loads(self._path.read_text("utf-8"))
        except ValueError:  # a damaged file costs reading the others again
            return {}
