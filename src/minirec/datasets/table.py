"""A table in a file, read and written by an Ibis backend."""

from pathlib import Path, PurePosixPath
from typing import Any

import ibis.expr.types as ir
from kedro.io import DatasetError
from kedro_datasets._typing import TablePreview
from kedro_datasets.ibis import FileDataset

from minirec.datasets.atomic import replacing


class TableDataset(FileDataset):
    """A CSV or Parquet file as an Ibis table, its columns under our names.

    Saving replaces the file at once or not at all.

    Parameters
    ----------
    filepath : str
        The file; its suffix says its format unless `file_format` does.
    file_format : str, optional
        As in the backend's ``read_<file_format>`` and ``to_<file_format>``.
    columns : dict of str to str, optional
        Our name of a column to the name in the file. Only these are read; without it,
        all are, under the file's own names.
    connection : dict, optional
        ``backend`` and the arguments of its ``connect``; datasets with the same
        connection share it. Default: DuckDB in memory.
    load_args, save_args : dict, optional
        Arguments of the backend's reader and writer.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        file_format: str | None = None,
        columns: dict[str, str] | None = None,
        connection: dict[str, Any] | None = None,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        suffix = PurePosixPath(filepath).suffix.removeprefix(".")
        if file_format is None and suffix not in ("csv", "parquet"):
            raise DatasetError(
                f"{filepath} ends neither in .csv nor in .parquet: say what it is by "
                f"`file_format` in the catalog."
            )
        super().__init__(
            filepath=filepath,
            file_format=file_format or suffix,
            connection=connection,
            load_args=load_args,
            save_args=save_args,
            metadata=metadata,
        )
        if (
            self._file_format == "csv"
            and self._connection_config["backend"] == "duckdb"
        ):
            # Types guessed from the first rows break, or spoil ids, on later ones.
            self._load_args.setdefault("sample_size", -1)
        self._columns = columns

    def load(self) -> ir.Table:
        """Return the table.

        Raises
        ------
        DatasetError
            If the file or one of `columns` is missing.
        """
        path = self._describe()["filepath"]
        if not self._exists():
            raise DatasetError(
                f"{path} does not exist: run the pipeline that makes it, or correct "
                f"`filepath` in the catalog."
            )
        table = super().load()
        if self._columns is None:
            return table
        missing = [name for name in self._columns.values() if name not in table.columns]
        if missing:
            raise DatasetError(
                f"{path} has no column {', '.join(missing)} (it has "
                f"{', '.join(table.columns)}): correct `columns` in the catalog."
            )
        return table.select(**self._columns)

    def save(self, data: ir.Table) -> None:
        """Write the table, replacing the file as a whole."""
        if self._fs_prefix:
            # Object stores show an object only once it is complete.
            super().save(data)
            return
        write = getattr(self.connection, f"to_{self._file_format}")
        with replacing(Path(self._get_save_path())) as path:
            write(data, str(path), **self._save_args)

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows for Kedro-Viz, lists and times as plain values."""
        head = self.load().limit(nrows).to_pyarrow()
        rows = zip(*head.to_pydict().values(), strict=True)
        return TablePreview(
            {
                "index": list(range(head.num_rows)),
                "columns": head.column_names,
                "data": [list(row) for row in rows],
            }
        )
