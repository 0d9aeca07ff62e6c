"""Kedro's datasets of local files, each file there whole or not at all."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
from kedro.io import Version
from kedro_datasets import pandas, plotly, text
from kedro_datasets._typing import HTMLPreview, TablePreview

from minirec.datasets.atomic import local, replacing

# Kedro-Viz takes a preview for Markdown once it has made it safe, and so may make
# markup of what a page shows as text. These look alike, and it leaves them alone.
LOOK_ALIKES = str.maketrans(
    {"\n": "<br>", "*": "\u2217", "_": "\u02cd", "`": "\u02cb", "]": "]\u2060"}
)


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
            filepath=local(filepath),
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


class JSONLinesDataset(WholeFile, pandas.JSONDataset):
    """``pandas.JSONDataset`` with an object a line, that saves in one step."""

    # without `dtype`, pandas would make numbers and dates of texts that look like them
    DEFAULT_LOAD_ARGS: ClassVar = {
        "lines": True,
        "dtype": False,
        "precise_float": True,
    }
    # pandas would cut off numbers after 15 digits
    DEFAULT_SAVE_ARGS: ClassVar = {"ensure_ascii": False}

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for row in data.to_dict("records"):
                file.write(json.dumps(row, **self._save_args) + "\n")


class WholeText(WholeFile):
    """`WholeFile` before a dataset of text, in UTF-8.

    Parameters
    ----------
    filepath : str
        The file.
    version : Version, optional
        Set by Kedro where the entry is ``versioned``.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super(WholeFile, self).__init__(  # type: ignore[call-arg]
            filepath=local(filepath),
            version=version,
            fs_args={"open_args_load": {"encoding": "utf-8"}},
            metadata=metadata,
        )

    def _write(self, data: str, path: Path) -> None:
        path.write_text(data, "utf-8")


class TextDataset(WholeText, text.TextDataset):
    """``text.TextDataset`` that saves in one step."""


class HTMLDataset(WholeText, text.TextDataset):
    """``text.TextDataset`` of a page, that saves in one step and previews a section."""

    def preview(self) -> HTMLPreview:
        """Return the page's first ``<section>`` for Kedro-Viz, without its style."""
        _, start, rest = self.load().partition("<section")
        section, end, _ = rest.partition("</section>")
        return HTMLPreview(f"{start}{section}{end}".translate(LOOK_ALIKES))
