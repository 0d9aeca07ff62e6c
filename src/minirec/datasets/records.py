"""Text files of records, that is CSV and JSON Lines, as Parquet.

Engines disagree on such files: on quotes, blanks, types, and on what a bad row is. So
DuckDB alone reads them, whatever the engine, and writes Parquet, which every engine
reads alike.
"""
# ruff: noqa: PD003, PD004 (of Ibis, not of pandas)

import csv
import gzip
import json
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from statistics import mode
from typing import Any, NamedTuple

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import numpy as np
import pandas as pd
from ibis import _
from kedro.io import DatasetError

from minirec.cells import is_void, plain_text
from minirec.columns import ITEM_ID, RATING, TIMESTAMP, TITLE, USER_ID
from minirec.datasets.atomic import replacing
from minirec.datasets.column_map import PER_SECOND, Column
from minirec.times import tomorrow

# As DuckDB and Ibis call them: JSON is JSON Lines.
FORMATS = ("csv", "json")

# A column of whole lines, however they end: no text and no JSON has this character.
_LINES = {
    "header": False,
    "delim": "\x01",
    "quote": "",
    "escape": "",
    "strict_mode": False,
}

# What matters to whole lines, too.
_OF_LINES = ("buffer_size", "compression", "encoding", "max_line_size", "skip")

# Bytes of a line of JSON, as many as DuckDB's own reader of JSON allows.
_LONGEST = 16 * 2**20

# How many rows tell the form of the rest.
_PROBE = 1000

# What a timestamp has to be that says neither `unit` nor `format`.
NUMBER_OR_DATE = "a number or an ISO date"

# What programs write in the place of an id that is not there, in small letters.
_NONE = ("nan", "n/a", "#n/a", "<na>", "null", "none", r"\n")

# Beside our columns in what is written: why a row is bad, and its text if it is.
_REASON, _TEXT = "__reason", "__text"

# DuckDB's column of a row's place in a file of Parquet, from 0.
_ROW = "file_row_number"

# Gives a file's rows, all columns as text; takes more arguments of `read_csv`.
_Texts = Callable[..., ir.Table]


@ibis.udf.scalar.builtin
def json_valid(text: str) -> bool:  # type: ignore[empty-body]
    """Tell whether a text is JSON."""


@ibis.udf.scalar.builtin
def json_extract(text: str, paths: list[str]) -> list[str]:  # type: ignore[empty-body]
    """Take values out of JSON, each as JSON; null if it is not there."""


@ibis.udf.scalar.builtin
def json_extract_string(text: str, path: str) -> str:  # type: ignore[empty-body]
    """Take a value out of JSON as text, a string without its quotes."""


@ibis.udf.scalar.builtin
def from_json(text: str, structure: str) -> list[str]:  # type: ignore[empty-body]
    """Read a list of texts out of JSON."""


@ibis.udf.scalar.builtin
def try_strptime(text: str, form: str) -> dt.timestamp:
    """Read a date or time that is written in a form; null if it is not."""


class Converted(NamedTuple):
    """What became of a text file."""

    rows: int
    """Of the source, the bad ones among them; a header is none."""
    n_bad: int
    """How many are bad."""
    bad: pd.DataFrame
    """``line`` (from 1; a value of several lines counts as one line), ``reason`` and
    ``text``, in the order of lines; the first `most` of them."""


def to_parquet(
    path: str,
    target: Path,
    file_format: str,
    columns: dict[str, Column] | None,
    load_args: dict[str, Any],
    settings: dict[str, Any],
    most: int | None = None,
) -> Converted:
    """Write a text file as Parquet, in which `good_rows` finds the good rows.

    All columns become text, but ``rating`` and ``timestamp`` numbers, and ``timestamp``
    times in UTC if most of its first values are dates or times. A row is bad if it has
    another number of fields or another encoding, if it is not JSON, if ``user_id``,
    ``item_id`` or ``timestamp`` is empty, if an id is a word such as ``nan``, if a value is not of its type, if a time lies
    in the future, or if its item has another title in an earlier row.

    Parameters
    ----------
    path : str
        The file, compressed by gzip or not.
    target : Path
        Where to write.
    file_format : {"csv", "json"}
        ``json`` is JSON Lines: an object in each line.
    columns : dict of str to Column, or None
        By our names. None: all that a CSV file has, by its own.
    load_args : dict
        How the file is written, in the words of DuckDB's ``read_csv``.
    settings : dict
        Of DuckDB, such as ``memory_limit``.
    most : int or None
        How many bad rows to tell of. None: of all.

    Raises
    ------
    DatasetError
        If the file is empty, damaged, lacks a column, or DuckDB cannot read it.
    """
    import duckdb

    args = {**_compression(path), **load_args}
    # Rows are counted to tell their lines.
    engine = ibis.duckdb.connect(**{**settings, "preserve_insertion_order": True})
    try:
        texts_of = _csv if file_format == "csv" else _json_lines
        texts = texts_of(engine, path, columns, args)
        times = _holds_times(texts(ignore_errors=True), columns)
        written_as = (columns or {}).get(TIMESTAMP) or Column.model_validate(
            {"from": TIMESTAMP}
        )
        engine.to_parquet(_typed(texts(store_rejects=True), times, written_as), target)
        rejected = _rejected(engine)
        _require_closed_quotes(path, rejected)
        _flag_other_titles(engine, target)
        written = engine.read_parquet(target, file_row_number=True)
        if file_format == "json" and columns:
            _require_keys(engine, path, columns, args, written)
        bad = written.filter(_[_REASON].notnull())
        told = bad.select(row=_[_ROW], reason=_[_REASON], text=_[_TEXT])
        flagged = told.order_by("row").limit(most).execute()
        others = np.array([], int)
        if len(flagged):
            others = _other_lines(engine, path, file_format, args, rejected)
        flagged["line"] = _line_numbers(flagged["row"], others)
        rows = int(written.count().execute()) + len(rejected)
        n_bad = int(bad.count().execute()) + len(rejected)
    except duckdb.Error as error:
        said = str(error).splitlines()[0]
        if str(target) in said:
            raise DatasetError(
                f"{path} cannot be written as Parquet ({said}): make room there, or "
                f"name another folder by the environment variable TMPDIR."
            ) from None
        raise DatasetError(
            f"{path} cannot be read ({said}): mend the file, or say by `load_args` in "
            f"the catalog how it is written, such as `encoding: latin-1`, `sep: ';'`, "
            f"or `strict_mode: false` if its lines end in different ways."
        ) from None
    finally:
        engine.disconnect()
    listed = pd.concat([rejected, flagged])[["line", "reason", "text"]]
    listed = listed.sort_values("line", ignore_index=True)
    return Converted(rows, n_bad, listed.head(most) if most else listed)


def good_rows(written: ir.Table) -> ir.Table:
    """Return the good rows of what `to_parquet` wrote, on any engine."""
    return written.filter(_[_REASON].isnull()).drop(_REASON, _TEXT)


def _compression(path: str) -> dict[str, str]:
    """Return what the reader has to know of a file that is compressed by gzip.

    It takes what is there of a damaged one for the whole.
    """
    file = Path(path)
    if not file.is_file():  # in an object store
        return {}
    with file.open("rb") as beginning:
        if beginning.read(2) != b"\x1f\x8b":
            return {}
    try:
        with gzip.open(file) as whole:
            while whole.read(2**20):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(
            f"{path} is a truncated or damaged gzip file ({error}): fetch it again."
        ) from None
    return {"compression": "gzip"}


def _lines(engine: Any, path: str, args: dict[str, Any], **how: bool) -> ir.Table:
    """Return the lines of a file as the column ``text``; null where they are empty."""
    given = {name: args[name] for name in _OF_LINES if name in args}
    return engine.read_csv(path, columns={"text": "VARCHAR"}, **_LINES, **given, **how)


def _csv(
    engine: Any, path: str, columns: dict[str, Column] | None, args: dict[str, Any]
) -> _Texts:
    dialect = {"header": True, "quote": '"', **args}
    dialect.setdefault("escape", dialect["quote"])
    sep = dialect["delim"] = dialect.pop("sep", dialect.get("delim", ","))
    given = dialect.pop("names", [])
    lines = _lines(engine, path, args, ignore_errors=True).filter(~_is_no_record(args))
    first = [
        _fields(line, sep, dialect["quote"])
        for line in lines.limit(1 if dialect["header"] else _PROBE).text.execute()
    ]
    if not first:
        raise DatasetError(f"{path} is empty: put a file that has rows in its place.")
    width = mode(map(len, first))
    names = first[0] if dialect["header"] else [*given, *range(width)[len(given) :]]
    # pandas writes its index under no name
    place = {str(n): index for index, n in enumerate(names[:width]) if n != ""}
    if columns is None:
        columns = {name: Column.model_validate({"from": name}) for name in place}
    sources = {name: str(column.source) for name, column in columns.items()}
    if missing := [source for source in sources.values() if source not in place]:
        counted = f"{width} in a line, counted from 0"
        has = ", ".join(place) if dialect["header"] or given else counted
        raise DatasetError(
            f"{path} has no column {', '.join(missing)} (it has {has}): correct "
            f"`columns` in the catalog, or `sep` in its `load_args`."
        )

    def texts(**how: bool) -> ir.Table:
        # By place, since names may be equal or hold what a name of SQL may not.
        raw = engine.read_csv(
            path, columns={f"c{i}": "VARCHAR" for i in range(width)}, **dialect, **how
        )
        record = ibis.array([raw[i].fill_null("") for i in range(width)]).join(sep)
        ours = {name: raw[place[source]] for name, source in sources.items()}
        return raw.select(**ours, **{_REASON: ibis.null("string"), _TEXT: record})

    return texts


def _json_lines(
    engine: Any, path: str, columns: dict[str, Column] | None, args: dict[str, Any]
) -> _Texts:
    if columns is None:
        raise DatasetError(
            f"{path} is JSON Lines: name what is to be read by `columns` in the catalog."
        )
    paths = [_path(column) for column in columns.values()]

    def texts(**how: bool) -> ir.Table:
        lines = _lines(engine, path, {"max_line_size": _LONGEST, **args}, **how)
        # A list in one step: the reader of JSON goes over the text but once.
        values = lines.filter(_.text.notnull()).select(
            **{
                _TEXT: _.text,
                _REASON: (~json_valid(_.text)).ifelse("not one JSON object", None),
            },
            values=ibis.cases((json_valid(_.text), json_extract(_.text, paths))),
        )
        ours = {
            name: _plain(values["values"][index], column.join)
            for index, (name, column) in enumerate(columns.items())
        }
        return values.select(
            **ours, **{each: values[each] for each in (_REASON, _TEXT)}
        )

    return texts


def _path(column: Column) -> str:
    return "$" + "".join(f'."{key}"' for key in str(column.source).split("."))


def _plain(value: ir.StringValue, join: str) -> ir.Value:
    """Return a JSON value as text, a list with `join` between its values."""
    texts = from_json(value, '["VARCHAR"]').join(join)
    is_list = value.startswith("[")
    return ibis.cases((is_list, texts), else_=json_extract_string(value, "$"))


def _fields(line: str, sep: str, quote: str) -> list[str]:
    if quote and len(sep) == 1:
        return next(csv.reader([line], delimiter=sep, quotechar=quote))
    return [field.strip(quote) for field in line.split(sep)]


def _is_no_record(args: dict[str, Any]) -> Any:
    """Say which of `_lines` are empty or a comment."""
    comment = args.get("comment")
    return _.text.isnull() | (_.text.startswith(comment) if comment else False)


def _holds_times(texts: ir.Table, columns: dict[str, Column] | None) -> bool | None:
    """Tell whether the timestamps are dates and times, or numbers; None if neither."""
    if TIMESTAMP not in texts.columns or (columns and columns[TIMESTAMP].unit):
        return False
    if columns and columns[TIMESTAMP].format:
        return True
    first = texts.filter(_[TIMESTAMP].notnull()).limit(_PROBE)[TIMESTAMP].as_table()
    found = first.aggregate(
        times=_[TIMESTAMP].try_cast("timestamp('UTC')").count(),
        numbers=_[TIMESTAMP].try_cast("float64").count(),
    ).execute()
    if found.times[0] == found.numbers[0] == 0:
        return None
    return bool(found.times[0] > found.numbers[0])


def _typed(texts: ir.Table, times: bool | None, written_as: Column) -> ir.Table:
    """Give the columns their types, and each bad row a reason."""
    reasons = [(texts[_REASON].notnull(), texts[_REASON])]
    typed = {}
    for name in (USER_ID, ITEM_ID, TIMESTAMP):
        if name in texts.columns:
            reasons.append((is_void(texts[name]), ibis.literal(f"{name} is empty")))
    for name in (USER_ID, ITEM_ID):
        if name in texts.columns:
            said = (
                ibis.literal(f"{name} is '") + texts[name] + "', which stands for none"
            )
            # no `isin`, which DuckDB joins: rows would lose their order
            small = texts[name].strip().lower()
            reasons += [(small == word, said) for word in _NONE]
    for name in (RATING, TIMESTAMP):
        if name not in texts.columns:
            continue
        text, kind = texts[name], "a number"
        number = text.try_cast("float64")
        value = ibis.cases((~is_void(number), number))
        if name == TIMESTAMP and times:
            kind = "a date or time"
            if form := written_as.format:
                kind += f" as its `format` {form} has it"
                value = try_strptime(text, form)
            else:
                value = text.try_cast("timestamp('UTC')").cast("timestamp")
        elif name == TIMESTAMP and times is None:
            kind = NUMBER_OR_DATE
        elif name == TIMESTAMP and (unit := written_as.unit):
            kind += f", as its `unit` {unit} would have it"
        said = ibis.literal(f"{name} '") + text.substr(0, 40) + f"' is not {kind}"
        reasons.append((~is_void(text) & value.isnull(), said))
        if name == TIMESTAMP:
            late = "' lies in the future"
            if times:
                latest = ibis.literal(_moment(tomorrow()))
            else:
                unit = written_as.unit or "s"
                latest = ibis.literal(tomorrow() * PER_SECOND[unit])
                late += f": is its unit not {unit}?"
            said = ibis.literal(f"{name} '") + text.substr(0, 40) + late
            reasons.append((value > latest, said))
        typed[name] = value
    marked = texts.mutate(**{_REASON: ibis.cases(*reasons)})
    kept = ibis.cases((_[_REASON].notnull(), _[_TEXT]))
    return marked.mutate(**typed, **{_TEXT: kept})


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def _flag_other_titles(engine: Any, target: Path) -> None:
    """Give the rows a reason whose item has another title in an earlier row.

    In a table of events a title may be that of the event, such as a review's.
    """
    written = engine.read_parquet(target, file_row_number=True)
    if not {ITEM_ID, TITLE} <= set(written.columns) or USER_ID in written.columns:
        return
    one_line = plain_text(written[TITLE])
    titled = written.filter(_[_REASON].isnull(), one_line.notnull()).select(
        _ROW, ITEM_ID, title=one_line
    )
    ids = titled.group_by(ITEM_ID).aggregate(n=_.title.nunique()).filter(_.n > 1)
    rows = titled.semi_join(ids, ITEM_ID).order_by(_ROW).execute()
    if rows.empty:
        return
    first = rows.groupby(ITEM_ID)["title"].transform("first")
    others = rows[rows["title"] != first]
    said = "item_id '" + others[ITEM_ID] + "' has the title '" + first.str[:40]
    flags = ibis.memtable({_ROW: others[_ROW], "said": said[others.index] + "' above"})
    ours = [name for name in written.columns if name not in (_REASON, _TEXT, _ROW)]
    record = ibis.array(
        [written[name].cast("string").fill_null("") for name in ours]
    ).join(", ")
    flagged = (
        written.mutate(record=record)
        .left_join(flags, _ROW)
        .order_by(_ROW)
        .mutate(
            **{
                _REASON: ibis.coalesce(_.said, _[_REASON]),
                _TEXT: ibis.cases((_.said.notnull(), _.record), else_=_[_TEXT]),
            }
        )
        .select(*ours, _REASON, _TEXT)
    )
    with replacing(target) as new:
        engine.to_parquet(flagged, new)


def _rejected(engine: Any) -> pd.DataFrame:
    """Return the lines that the reader refused: ``line``, ``reason``, ``text``."""
    # A short line has an error for each column that it lacks, a long one for each that
    # is too many; what counts is where a short one ends, and where a long one does.
    found = engine.raw_sql(
        """
        SELECT
            line::BIGINT AS line,
            any_value(csv_line) AS text,
            arg_max(error_message, (
                error_type = 'UNQUOTED VALUE',
                if(error_type = 'MISSING COLUMNS', -1, 1) * column_idx::BIGINT
            )) AS reason,
            bool_or(
                error_type IN ('INVALID ENCODING', 'LINE SIZE OVER MAXIMUM')
            ) AS unreadable
        FROM reject_errors
        GROUP BY line
        """
    ).df()
    return found.assign(
        text=found["text"].str.strip("\r\n"), reason=found["reason"].str.rstrip(". ")
    )


def _require_closed_quotes(path: str, rejected: pd.DataFrame) -> None:
    """Raise if a quote swallowed the lines behind it: nobody can say which are bad."""
    quoted = rejected["reason"].str.contains("unterminated quote")
    swallowed = rejected[quoted & rejected["text"].str.contains("[\r\n]")]
    if len(swallowed):
        raise DatasetError(
            f"{path} opens a quote in line {swallowed['line'].min()} that is not "
            f"closed: mend it, or say `quote: ''` by `load_args` in the catalog if "
            f"quotes are characters like others."
        )


def _other_lines(
    engine: Any, path: str, file_format: str, args: dict[str, Any], bad: pd.DataFrame
) -> np.ndarray:
    """Return the lines that are not in what was written, counted from 1."""
    skipped = np.arange(1, args.get("skip", 0) + 1)
    unreadable = np.union1d(skipped, bad.loc[bad["unreadable"], "line"])
    lines = _lines(
        engine, path, {"max_line_size": _LONGEST, **args}, ignore_errors=True
    )
    numbered = lines.mutate(row=ibis.row_number())
    empty = numbered.filter(_is_no_record(args)).row.execute()
    others = np.union1d(bad["line"], _line_numbers(empty, unreadable))
    others = np.union1d(others, skipped)
    if file_format == "csv" and args.get("header", True):
        header = next(line for line in count(1) if line not in others)
        others = np.union1d(others, header)
    return others


def _line_numbers(rows: pd.Series, others: np.ndarray) -> np.ndarray:
    """Return the lines, from 1, of rows counted from 0 over all lines but `others`."""
    nth = rows.to_numpy() + 1
    before = others - np.arange(len(others))
    return nth + np.searchsorted(before, nth, side="right")


def _require_keys(
    engine: Any,
    path: str,
    columns: dict[str, Column],
    args: dict[str, Any],
    written: ir.Table,
) -> None:
    """Raise if a key is in none of the records."""
    held = written.aggregate(**{name: _[name].count() for name in columns}).execute()
    suspects = [name for name in columns if held[name][0] == 0]
    if not suspects:
        return
    lines = _lines(
        engine, path, {"max_line_size": _LONGEST, **args}, ignore_errors=True
    )
    records = lines.filter(_.text.notnull()).filter(json_valid(_.text))
    paths = [_path(columns[name]) for name in suspects]
    # A key that is null is there, as JSON's null.
    found = records.select(values=json_extract(_.text, paths)).aggregate(
        _.count().name("records"),
        **{name: _["values"][i].count() for i, name in enumerate(suspects)},
    )
    counts = found.execute()
    absent = [name for name in suspects if counts[name][0] == 0]
    if counts["records"][0] and absent:
        keys = json.loads(records.limit(1).text.execute()[0])
        sources = ", ".join(str(columns[name].source) for name in absent)
        raise DatasetError(
            f"{path} has no column {sources} (its first record has {', '.join(keys)}): "
            f"correct `columns` in the catalog."
        )
