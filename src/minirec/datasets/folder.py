"""A folder in which a node keeps what spares it work."""

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError


class FolderDataset(AbstractDataset[Any, Path]):
    """A folder that a node itself reads and writes, made if it is not there.

    What lies in it decides how long the node takes, and nothing else: it is no part of
    what the node's tables are made from.

    Parameters
    ----------
    folder : str
        The folder; relative to the project.
    metadata : dict, optional
        For plugins.
    """

    def __init__(self, *, folder: str, metadata: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.metadata = metadata

    def load(self) -> Path:
        """Return the folder's absolute path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder.resolve()

    def identity(self) -> dict[str, str]:
        """Say nothing, so that no content counts as another source."""
        return {}

    def save(self, data: Any) -> None:
        """Raise: nodes write into the folder themselves."""
        raise DatasetError(
            f"The folder {self.folder} takes no data of the catalog: nodes that are "
            f"given it write into it."
        )

    def _exists(self) -> bool:
        # No run makes it, so none should wait for it: loading makes it.
        return True

    def _describe(self) -> dict[str, Any]:
        return {"folder": str(self.folder)}
