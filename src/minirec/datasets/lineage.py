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
        """Return how each dataset was made, in the order of the pipelines.

        Returns
        -------
        DataFrame
            One row for each dataset that a pipeline saves: ``dataset``, ``state``
            (``is fresh``, or why it is not to be read, as `minirec trace table` says)
            and the fields of `minirec.lineage.record.Record`, none of them where there
            is no record.
        """
        from minirec.lineage.project import graph_of

        if self.catalog is None:
            raise DatasetError(
                "lineage knows no other datasets: load it from the project's catalog, "
                "with `minirec.lineage.hook.LineageHook` in settings.py."
            )
        graph = graph_of(self.catalog)
        rows = []
        for name in filter(graph.location, graph.makers):
            doubt, record = graph.doubt_whole_way(name), graph.record(name)
            known = {} if record is None else record.model_dump()
            state = doubt.all if doubt else "is fresh"
            rows.append({"dataset": name, "state": state, **known})
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
