"""A table in a file, read and written by an Ibis backend."""

import json
from pathlib import Path, PurePosixPath
from threading import get_ident
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
        connection share it within a thread. Default: DuckDB in memory.
    load_args, save_args : dict, optional
        Arguments of the backend's reader and writer. DuckDB reads a CSV file with a
        header, separated by commas, unless ``header`` and ``delim`` say otherwise.
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
            # Types guessed from the first rows break, or spoil ids, on later ones; a
            # separator guessed for a file with a bad row makes one column of it.
            self._load_args.setdefault("sample_size", -1)
            self._load_args.setdefault("header", True)
            if "sep" not in self._load_args:
                self._load_args.setdefault("delim", ",")
        self._columns = columns

    @property
    def _connection(self) -> Any:
        """A connection of this thread: DuckDB mixes up the results of two threads."""
        config = json.dumps(self._connection_config, sort_keys=True, default=str)
        key = (self._CONNECTION_GROUP, config, get_ident())
        if key not in self._connections:
            self._connections[key] = self._connect()
        return self._connections[key]

    def load(self) -> ir.Table:
        """Return the table.

        Raises
        ------
        DatasetError
            If the file or one of `columns` is missing, or DuckDB cannot read the file.
        """
        import duckdb

        path = self._describe()["filepath"]
        if not self._exists():
            raise DatasetError(
                f"{path} does not exist: run the pipeline that makes it, or correct "
                f"`filepath` in the catalog."
            )
        # Not the parent's `load`, which wraps what the engine says.
        read = getattr(self.connection, f"read_{self._file_format}")
        try:
            table = read(path, **self._load_args)
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
            if self._file_format != "csv":
                raise DatasetError(
                    f"{path} cannot be read ({said}): put a whole file in its place, "
                    f"or run the pipeline that makes it."
                ) from None
            raise DatasetError(
                f"{path} cannot be read ({_bad_line(path, self._load_args) or said}): "
                f"mend the file, or say how it is written by `load_args` in the "
                f"catalog, such as `encoding: latin-1` or `delim: ';'`."
            ) from None
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


def _bad_line(path: str, load_args: dict[str, Any]) -> str | None:
    """Say what is wrong with the first bad line of a CSV file that DuckDB refused.

    It often refuses a whole file without saying which line it stumbled over.
    """
    import duckdb
    import ibis

    engine = ibis.duckdb.connect()
    try:
        table = engine.read_csv(path, **{**load_args, "store_rejects": True})
        # A line is looked at only as far as its columns are needed.
        table.aggregate(table[column].max() for column in table.columns).execute()
    except duckdb.Error:
        # Not a line was wrong but an argument, and DuckDB had named it.
        return None
    first = engine.raw_sql(
        "SELECT line, error_message FROM reject_errors "
        "ORDER BY line, column_idx DESC LIMIT 1"
    ).fetchone()
    return first and f"line {first[0]}: {first[1].rstrip('.')}"
