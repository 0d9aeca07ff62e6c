"""A table in a file, read and written by an Ibis backend."""

import functools
import json
import logging
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path, PurePosixPath
from threading import get_ident
from typing import Any, Literal
from uuid import uuid4

import ibis
import ibis.expr.types as ir
from kedro.io import DatasetError
from kedro_datasets._typing import TablePreview
from kedro_datasets.ibis import FileDataset

from minirec.columns import TIMESTAMP
from minirec.datasets import records
from minirec.datasets.atomic import replacing
from minirec.datasets.column_map import column_map, in_seconds, missing, select

SUFFIXES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}

# how many bad rows a complaint names
SHOWN = 3

logger = logging.getLogger(__name__)


class TableDataset(FileDataset):
    """A Parquet, CSV or JSON Lines file as an Ibis table, its columns under our names.

    Text files are read by DuckDB whatever the engine, and checked as a whole when they
    are loaded, see `minirec.datasets.records`. Until the process ends their rows lie as
    Parquet in a temporary folder: in the one that the environment variable TMPDIR
    names, which the workers of a cluster have to see.

    Saving replaces the file at once or not at all.

    Parameters
    ----------
    filepath : str
        The file; its suffix says its format unless `file_format` does. A text file may
        be compressed by gzip.
    file_format : {"csv", "json", "parquet"}, optional
        ``json`` is JSON Lines: an object in each line.
    columns : dict, optional
        Our name of a column to the source's, or to the fields of
        `minirec.datasets.column_map.Column`. Only these are read, lists as one text;
        without it, all are, as they are, under the source's own names.
    on_bad_rows : {"fail", "drop"}
        What to do with rows of a text file that cannot be used. ``drop`` leaves them
        out, and lists them in ``<filepath>.bad_rows.csv`` by line, reason and text.
    if_missing : str, optional
        What to do if the file is not there, as the end of a sentence.
    connection : dict, optional
        ``backend`` and the arguments of its ``connect``, or of ``pyspark`` the settings
        of its session by their full names; datasets with the same connection share it
        within a thread. Default: DuckDB in memory; within the project, `connection` of
        globals.yml. DuckDB spills to a folder of its own,
        which lies in the temporary folder unless ``temp_directory`` says otherwise.
    load_args : dict, optional
        How a text file is written, in the words of DuckDB's ``read_csv``: with a header
        and commas unless ``header`` and ``sep`` say otherwise. For Parquet, arguments
        of the backend's reader.
    save_args : dict, optional
        Arguments of the backend's writer.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        file_format: str | None = None,
        columns: dict[str, Any] | None = None,
        on_bad_rows: Literal["fail", "drop"] = "fail",
        if_missing: str | None = None,
        connection: dict[str, Any] | None = None,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        plain = PurePosixPath(filepath.removesuffix(".gz"))
        file_format = file_format or SUFFIXES.get(plain.suffix)
        if file_format not in SUFFIXES.values():
            raise DatasetError(
                f"{filepath} ends in none of {', '.join(SUFFIXES)}: say by "
                f"`file_format` in the catalog whether it is csv, json or parquet."
            )
        if on_bad_rows not in ("fail", "drop"):
            raise DatasetError(
                f"on_bad_rows is {on_bad_rows!r}: write `fail` or `drop`."
            )
        if on_bad_rows == "drop" and file_format not in records.FORMATS:
            raise DatasetError(
                f"on_bad_rows is for text files, and {filepath} is {file_format}: "
                f"leave it out."
            )
        self._columns = None if columns is None else column_map(columns)
        if file_format == "parquet" and any(
            column.format for column in (self._columns or {}).values()
        ):
            raise DatasetError(
                f"columns.{TIMESTAMP}.format is for text files, and {filepath} is "
                "parquet: take it out, and write times as times."
            )
        super().__init__(
            filepath=filepath,
            file_format=file_format,
            connection=connection,
            load_args=load_args,
            save_args=save_args,
            metadata=metadata,
        )
        self._on_bad_rows = on_bad_rows
        self._if_missing = if_missing
        self._converted: tuple[Any, Path] | None = None

    @property
    def _connection(self) -> Any:
        """A connection of this thread: DuckDB mixes up the results of two threads."""
        config = json.dumps(self._connection_config, sort_keys=True, default=str)
        key = (self._CONNECTION_GROUP, config, get_ident())
        if key not in self._connections:
            self._connections[key] = self._connect()
        return self._connections[key]

    def _connect(self) -> Any:
        settings = dict(self._connection_config)
        backend = settings.pop("backend")
        if backend == "pyspark":
            return _spark(settings)
        if backend == "duckdb":
            # Its own default is one folder for all that work in the same directory.
            settings.setdefault("temp_directory", _free_folder())
        return getattr(ibis, backend).connect(**settings)

    def load(self) -> ir.Table:
        """Return the table.

        Raises
        ------
        DatasetError
            If the file or one of `columns` is missing, if it cannot be read, or if it
            has bad rows and is not to go without them.
        """
        path = self._describe()["filepath"]
        if not self._exists():
            way_out = self._if_missing or (
                "put it there or correct `filepath` in the catalog; if a pipeline makes "
                "it, run that"
            )
            raise DatasetError(f"{path} does not exist: {way_out}.")
        columns = self._columns or {}
        if self._file_format in records.FORMATS:
            written = self.connection.read_parquet(str(self._as_parquet(path)))
            return in_seconds(records.good_rows(written), columns)
        table = self._read_parquet(path)
        if absent := missing(table, columns):
            raise DatasetError(
                f"{path} has no column {', '.join(absent)} (it has "
                f"{', '.join(table.columns)}): correct `columns` in the catalog."
            )
        return in_seconds(select(table, columns), columns) if columns else table

    def _read_parquet(self, path: str) -> ir.Table:
        import duckdb

        refused: tuple[type[Exception], ...] = (duckdb.Error,)
        if self._connection_config["backend"] == "pyspark":
            from pyspark.errors import PySparkException

            refused = (PySparkException,)
        if self._connection_config["backend"] == "duckdb" and Path(path).is_dir():
            path = f"{path}/*.parquet"  # as Spark writes

        # Not the parent's `load`, which wraps what the engine says.
        try:
            return self.connection.read_parquet(path, **self._load_args)
        except refused as error:
            said = str(error).splitlines()[0]
            raise DatasetError(
                f"{path} cannot be read ({said}): put a whole file in its place; "
                f"if a pipeline makes it, run that."
            ) from None

    def _as_parquet(self, path: str) -> Path:
        """Return what a text file became, made anew if the file is another."""
        stat = None if self._fs_prefix else Path(path).stat()
        marks = stat and (stat.st_size, stat.st_mtime_ns)
        if marks is not None and self._converted and self._converted[0] == marks:
            return self._converted[1]
        target = _scratch() / f"{uuid4().hex}.parquet"
        config = self._connection_config
        of_duckdb = config if config["backend"] in ("duckdb", "pyspark") else {}
        apart = ("backend", "database", "read_only")
        settings = {
            name: value
            for name, value in of_duckdb.items()
            if name not in apart and not name.startswith("spark.")
        }
        settings.setdefault("temp_directory", _free_folder())
        form = (self._file_format, self._columns, self._load_args)
        most = SHOWN if self._on_bad_rows == "fail" else None
        done = records.to_parquet(path, target, *form, settings, most)
        self._report(path, done)
        self._converted = (marks, target)
        return target

    def _report(self, path: str, done: records.Converted) -> None:
        """Raise or list what was bad."""
        table = f"{path}.bad_rows.csv"
        if done.n_bad and (self._on_bad_rows == "fail" or done.n_bad == done.rows):
            raise DatasetError(_complaint(path, done))
        if not self._fs_prefix:
            Path(table).unlink(missing_ok=True)  # of the file as it was before
        if not done.n_bad:
            return
        if self._fs_prefix:
            done.bad.to_csv(table, index=False)
        else:
            with replacing(Path(table)) as new:
                done.bad.to_csv(new, index=False)
        told = (path, f"{done.n_bad:,}", f"{done.rows:,}", table)
        logger.warning("%s: left out %s bad rows of %s, listed in %s", *told)

    def save(self, data: ir.Table) -> None:
        """Write the table, replacing the file as a whole."""
        if self._fs_prefix:
            # Object stores show an object only once it is complete.
            super().save(data)
            return
        write = getattr(self.connection, f"to_{self._file_format}")
        path = Path(self._get_save_path())
        # Spark writes folders and leaves this mark; another folder is not ours.
        ours = path.is_file() or (path / "_SUCCESS").is_file()
        with replacing(path, any_kind=ours) as new:
            write(data, str(new), **self._save_args)

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


def _complaint(path: str, done: records.Converted) -> str:
    first = [f"line {row.line} ({row.reason})" for row in done.bad[:SHOWN].itertuples()]
    rows = "1 bad row" if done.n_bad == 1 else f"{done.n_bad:,} bad rows"
    drop = (
        "" if done.n_bad == done.rows else ", or leave them out by `on_bad_rows: drop`"
    )
    form = (
        f", or by `format` of `{TIMESTAMP}` how its times are, such as `'%d.%m.%Y'`"
        if any(records.NUMBER_OR_DATE in line for line in first)
        else ""
    )
    return (
        f"{path} has {rows} of {done.rows:,}, such as {', '.join(first)}: mend them, or "
        f"say by `load_args` in the catalog how the file is written, such as `encoding: "
        f"latin-1` or `sep: ';'`{form}{drop}."
    )


def _spark(settings: dict[str, Any]) -> Any:
    """Connect to Spark; what is static must be said before its first session begins."""
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        raise DatasetError(
            "connection.backend is pyspark, which is not installed: run "
            "`pip install pyspark==4.0.5` (it needs Java 17 or later)."
        ) from None
    told: dict[str, Any] = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in settings.items()
        if name.startswith("spark.")
    }
    return ibis.pyspark.connect(SparkSession.builder.config(map=told).getOrCreate())


def _free_folder() -> str:
    """Return a folder that nobody has, for what DuckDB spills."""
    return str(_scratch() / uuid4().hex)


@functools.cache
def _scratch() -> Path:
    """Return a folder of this process, which goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="minirec-"))
    # Not by `atexit`, which does nothing in the processes of ParallelRunner.
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=0)
    return folder
