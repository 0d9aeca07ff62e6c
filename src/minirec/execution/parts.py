"""Finished batches on disk, each a Parquet file that is believed only if it is whole."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from minirec.columns import SAMPLE_ID
from minirec.datasets.atomic import replacing

# The column by which a row of the table and what came of it know each other.
ROW = "_row"

# Rows that are hashed at once: their values lie in memory as Python's own.
_AT_ONCE = 10_000

logger = logging.getLogger(__name__)


def with_hashes(table: pd.DataFrame) -> pa.Table:
    """Return a table with a hash of each row's names and values.

    Parameters
    ----------
    table
        N rows of anything that Parquet can hold; their index does not count.

    Returns
    -------
    pyarrow.Table
        The same columns and `ROW`, 32 hexadecimal digits; the order of the columns
        does not count.
    """
    found = pa.Table.from_pandas(table, preserve_index=False)
    names = sorted(found.column_names)
    head = repr(names).encode()
    hashes = [
        hashlib.blake2b(head + repr(values).encode(), digest_size=16).hexdigest()
        for chunk in found.select(names).to_batches(max_chunksize=_AT_ONCE)
        for values in zip(*(column.to_pylist() for column in chunk), strict=True)
    ]
    return found.append_column(ROW, pa.array(hashes, pa.string()))


def write(folder: Path, batch: pa.Table, result: pa.Table) -> str:
    """Write what came of a batch; the file is there whole or not at all.

    Parameters
    ----------
    folder
        There or not.
    batch
        B rows with ``sample_id`` and `ROW`.
    result
        Any number of rows, at least one for each ``sample_id`` of the batch.

    Returns
    -------
    str
        Name of the file: the sha256 of what is in it, by which damage shows.

    Raises
    ------
    OSError
        If it cannot be written, naming the folder; nothing is left of it.
    ValueError
        If a sample of the batch has no row, or a row belongs to none.
    """
    ids = batch[SAMPLE_ID].combine_chunks()
    place = pc.index_in(result[SAMPLE_ID].cast(ids.type), value_set=ids)
    if place.null_count or pc.count_distinct(place).as_py() < len(batch):
        raise ValueError(
            f"a worker was given {len(batch)} samples, and returned rows of "
            f"{pc.count_distinct(place).as_py()} of them and {place.null_count} rows "
            "of no such sample"
        )
    kept = result.replace_schema_metadata(None)
    kept = kept.append_column(ROW, batch[ROW].take(place))
    buffer = pa.BufferOutputStream()
    # numbers that hardly repeat, as gradients do, would be half as large again
    pq.write_table(kept, buffer, use_dictionary=False)
    data = buffer.getvalue()
    name = f"{hashlib.sha256(data).hexdigest()}.parquet"
    try:
        with replacing(folder / name) as new:
            new.write_bytes(data)
    except OSError as error:  # a write, unlike `open`, does not say of which file
        raise OSError(error.errno, error.strerror, str(folder)) from None
    return name


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder, in order; none if it is not there."""
    return sorted(path.name for path in folder.glob("*.parquet"))


def index(folder: Path, names: Iterable[str]) -> pa.Table:
    """Say which rows lie in which file; files that are damaged are removed.

    Returns
    -------
    pyarrow.Table
        `ROW` and ``part``, the file's name.
    """
    found = [
        pa.table({ROW: pa.array([], pa.string()), "part": pa.array([], pa.string())})
    ]
    damaged = []
    for name in names:
        table = _read(folder / name, [ROW])
        if table is None:
            damaged.append(name)
        else:
            rows = table[ROW].unique()
            found.append(pa.table({ROW: rows, "part": pa.repeat(name, len(rows))}))
    for name in damaged:
        (folder / name).unlink(missing_ok=True)
    if damaged:
        logger.warning(
            "%d damaged files removed from %s: what was in them is done again",
            len(damaged),
            folder,
        )
    return pa.concat_tables(found)


def parts_of(rows: pa.Table, known: pa.Table) -> pa.Array:
    """Return the file in which each row lies, null where it lies in none."""
    place = pc.index_in(rows[ROW], value_set=known[ROW].combine_chunks())
    return known["part"].take(place).combine_chunks()


def collect(folder: Path, rows: pa.Table, parts: pa.Array) -> Iterator[pa.Table]:
    """Yield what came of some rows, file by file.

    Parameters
    ----------
    folder
        Where the files lie.
    rows
        N rows with `ROW`.
    parts
        The file of each, as `parts_of` says.

    Yields
    ------
    pyarrow.Table
        Columns as the worker returned them; rows of one sample stay as they were.
    """
    wanted = pa.table({ROW: rows[ROW], "part": parts}).to_pandas()
    for name, of_part in wanted.groupby("part", sort=False)[ROW]:
        table = _read(folder / str(name), None)
        if table is None:
            raise OSError(f"{folder / str(name)} was damaged after it was written")
        # A row may lie in two files: a worker may die after it has written one.
        own = table.filter(pc.is_in(table[ROW], pa.array(of_part, pa.string())))
        yield own.drop_columns(ROW)


def in_order(tables: Iterable[pa.Table]) -> pa.Table:
    """Put tables together, sorted by ``sample_id``; rows of a sample stay in order."""
    # A batch of nothing but nulls or empty lists has columns of no type.
    whole = pa.concat_tables(tables, promote_options="permissive")
    return whole.take(pc.sort_indices(whole, [(SAMPLE_ID, "ascending")]))


def _read(path: Path, columns: list[str] | None) -> pa.Table | None:
    """Return the table in a file; None if the file is not as it was written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != path.stem:
        return None
    return pq.read_table(pa.BufferReader(data), columns=columns)
