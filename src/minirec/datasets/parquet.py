"""A pandas table in a Parquet file, there whole or not at all."""

from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import Version
from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas import ParquetDataset as PandasParquetDataset

from minirec.datasets.atomic import replacing


class ParquetDataset(PandasParquetDataset):
    """Kedro's ``pandas.ParquetDataset`` on a local file, with two differences.

    Saving replaces the file at once or not at all, and the preview shows columns of
    lists.

    Parameters
    ----------
    filepath : str
        The file.
    load_args, save_args : dict, optional
        Of ``pandas.read_parquet`` and ``DataFrame.to_parquet``.
    version : Version, optional
        Set by Kedro where the entry is ``versioned``.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            filepath=filepath,
            load_args=load_args,
            save_args=save_args,
            version=version,
            metadata=metadata,
        )

    def save(self, data: pd.DataFrame) -> None:
        """Write the table, replacing the file as a whole."""
        with replacing(Path(self._get_save_path())) as path:
            data.to_parquet(path, **self._save_args)
        self._invalidate_cache()

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows for Kedro-Viz, lists as plain values."""
        head = self.load().head(nrows)
        rows: list[list[Any]] = [
            [value.tolist() if hasattr(value, "tolist") else value for value in row]
            for row in head.itertuples(index=False)
        ]
        return TablePreview(
            {"index": list(range(len(head))), "columns": list(head), "data": rows}
        )
