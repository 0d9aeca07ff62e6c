"""Kedro's datasets of local files, each file there whole or not at all."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from kedro.io import Version
from kedro_datasets import pandas, plotly
from kedro_datasets._typing import TablePreview

from minirec.datasets.atomic import replacing


class WholeFile(ABC):
    """Goes before one of Kedro's datasets: saving replaces the file in one step.

    Parameters
    ----------
    filepath : str
        The file.
    load_args, save_args : dict, optional
        Of the library's reader and writer.
    version : Version, optional
        Set by Kedro where the entry is ``versioned``.
    metadata : dict, optional
        For plugins.
    """

    _get_save_path: Callable[[], Any]
    _invalidate_cache: Callable[[], None]
    _save_args: dict[str, Any]

    # Spelt out because a catalog lists a dataset's settings by this signature.
    def __init__(
        self,
        *,
        filepath: str,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(  # type: ignore[call-arg]
            filepath=filepath,
            load_args=load_args,
            save_args=save_args,
            version=version,
            metadata=metadata,
        )

    def save(self, data: Any) -> None:
        """Write the data, replacing the file as a whole."""
        with replacing(Path(self._get_save_path())) as path:
            self._write(data, path)
        self._invalidate_cache()

    @abstractmethod
    def _write(self, data: Any, path: Path) -> None:
        """Write the data to a new file."""


class ParquetDataset(WholeFile, pandas.ParquetDataset):
    """``pandas.ParquetDataset`` that saves in one step and previews lists."""

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

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        data.to_parquet(path, **self._save_args)


class CSVDataset(WholeFile, pandas.CSVDataset):
    """``pandas.CSVDataset`` that saves in one step."""

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        data.to_csv(path, **self._save_args)


class FigureDataset(WholeFile, plotly.JSONDataset):
    """``plotly.JSONDataset`` that saves in one step."""

    def _write(self, data: go.Figure, path: Path) -> None:
        path.write_text(data.to_json(**self._save_args), "utf-8")
