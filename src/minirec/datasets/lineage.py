"""The records of all saved datasets as one table."""

from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import AbstractDataset, CatalogProtocol, DatasetError

from minirec.lineage.content import Hashes


class LineageDataset(AbstractDataset[Any, pd.DataFrame]):
    """How every saved dataset was made, and whether that still holds; read only.

    Parameters
    ----------
    filepath : str
        JSON file that keeps hashes of files by size and time.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self, *, filepath: str, metadata: dict[str, Any] | None = None
    ) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata
        self.hashes = Hashes(self._filepath)
        self.catalog: CatalogProtocol | None = None

    def load(self) -> pd.DataFrame:
        """Return one row a record, in the order of the pipelines.

        Returns
        -------
        DataFrame
            The fields of `minirec.lineage.record.Record`, after ``dataset`` and
            ``state``: ``is fresh``, or why the dataset is not what its pipeline would
            make now.
        """
        from minirec.lineage.project import graph_of

        if self.catalog is None:
            raise DatasetError(
                "lineage knows no other datasets: load it from the project's catalog, "
                "with `minirec.lineage.hook.LineageHook` in settings.py."
            )
        graph = graph_of(self.catalog)
        rows = []
        for name in graph.makers:
            if record := graph.record(name):
                doubt = graph.doubt(name)
                state = doubt.all if doubt else "is fresh"
                rows.append({"dataset": name, "state": state, **record.model_dump()})
        return pd.DataFrame(rows)

    def save(self, data: Any) -> None:
        """Raise: records are written with the datasets that they speak of."""
        raise DatasetError("lineage is read only: a run writes the records.")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the catalog behind: processes of a run have their own."""
        return {**vars(self), "catalog": None}

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
