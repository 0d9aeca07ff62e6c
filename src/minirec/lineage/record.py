"""The record beside a saved dataset: what it was made from."""

import functools
import json
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from kedro.io import AbstractDataset, AbstractVersionedDataset, CachedDataset
from kedro.io.core import VersionNotFoundError
from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict, ValidationError

from minirec.datasets.atomic import replacing
from minirec.lineage.code import OWN_PACKAGE, digest

SUFFIX = ".lineage.json"

# Of a source, where it lies.
WHERE = ("folder", "place")


class Part(BaseModel):
    """What one or several nodes were given, apart from tables of other nodes."""

    model_config = ConfigDict(frozen=True)

    code: dict[str, str] = {}
    """Hash of each definition that ran, by its dotted path."""
    params: dict[str, Any] = {}
    """Values by their names in the catalog, such as ``params:seed``."""
    sources: dict[str, dict[str, Any]] = {}
    """What the datasets are that no node makes, and how tables are loaded."""

    def __or__(self, other: "Part") -> "Part":
        """Return both; where they differ, the other's."""
        return Part(
            code=self.code | other.code,
            params=self.params | other.params,
            sources=self.sources | other.sources,
        )


class Origin(BaseModel):
    """What a dataset is made from."""

    model_config = ConfigDict(frozen=True)

    node: str
    function: str
    inputs: dict[str, str]
    """Key of each input that another node makes."""
    own: Part
    """What its node is given."""
    upstream: Part
    """What the nodes before are given."""
    key: str
    """Hash of `function`, `inputs` and `own`: equal keys mean equally made."""

    @property
    def everything(self) -> Part:
        """Its own part and all that lies upstream."""
        return self.upstream | self.own


class Record(Origin):
    """An origin that was, with what came out of it."""

    dataset: str
    content: str
    """sha256 of the file, or of the folder's files."""
    input_contents: dict[str, str]
    """`content` of each input that another node made."""
    models: dict[str, str]
    """Which models and adapters lie upstream, by their names in the catalog."""
    versions: dict[str, str]
    """Of Python and of each package that the project requires."""
    git_commit: str | None
    """With ``-dirty`` where files differ from it; None outside of a repository."""
    run_id: str | None
    saved_at: str
    """ISO 8601, UTC."""


def key_of(function: str, place: list[Any], inputs: dict[str, str], own: Part) -> str:
    """Return the key of an origin; `place` is how the node is wired."""
    own_part = {
        **own.model_dump(),
        # What was moved is the same.
        "sources": {
            name: {k: v for k, v in source.items() if k not in WHERE}
            for name, source in own.sources.items()
        },
    }
    text = json.dumps([function, place, inputs, own_part], sort_keys=True)
    # 1 and 1.0 are one number, however it was written.
    same = json.loads(text, parse_float=_number)
    return digest(json.dumps(same, sort_keys=True))


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


class Location(NamedTuple):
    """Where a dataset's data lies."""

    fs: AbstractFileSystem
    path: str


def location(dataset: AbstractDataset, *, saved: bool = False) -> Location | None:
    """Return the file or folder of a dataset; None if it has none.

    Parameters
    ----------
    dataset
        Of the catalog.
    saved
        Of a versioned dataset, the version that is saved, not the one to be loaded.
    """
    if isinstance(dataset, CachedDataset):
        dataset = dataset._dataset
    filepath = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
    if filepath is None:
        return None
    path = PurePosixPath(str(filepath))
    if isinstance(dataset, AbstractVersionedDataset):
        try:
            version = (
                dataset.resolve_save_version()
                if saved
                else dataset.resolve_load_version()
            )
        except VersionNotFoundError:
            return Location(_fs(dataset), str(path / "none" / path.name))
        path = path / version / path.name if version else path
    return Location(_fs(dataset), str(path))


def _fs(dataset: AbstractDataset) -> AbstractFileSystem:
    found: Any = getattr(dataset, "_fs", None) or getattr(dataset, "_filesystem", None)
    if isinstance(found, AbstractFileSystem):
        return found
    # Some of Kedro's datasets make theirs when asked.
    return found() if callable(found) else LocalFileSystem()


def read(where: Location) -> Record | None:
    """Return the record beside a dataset; None if there is none that can be read."""
    try:
        text = where.fs.cat_file(where.path + SUFFIX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Record.model_validate_json(text)
    except ValidationError:
        return None


def write(where: Location, record: Record) -> None:
    """Write the record beside its dataset, replacing one that is there."""
    text = record.model_dump_json(indent=1)
    if isinstance(where.fs, LocalFileSystem):
        with replacing(Path(where.path + SUFFIX)) as path:
            path.write_text(text, "utf-8")
    else:
        # Object stores show an object only once it is complete.
        where.fs.pipe_file(where.path + SUFFIX, text.encode())


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of each package that the project requires.

    Of a project that runs from its source alone, Python's.
    """
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    try:
        wanted = map(Requirement, metadata.requires(OWN_PACKAGE) or ())
    except metadata.PackageNotFoundError:
        return found
    for each in sorted(wanted, key=lambda each: each.name):
        if not each.marker or each.marker.evaluate():
            with suppress(metadata.PackageNotFoundError):
                found[each.name] = metadata.version(each.name)
    return found


def git_commit() -> str | None:
    """Return the commit of the working folder's repository, if there is one."""
    git = [
        "git",
        "--no-optional-locks",
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    return said.stdout.strip() or None
