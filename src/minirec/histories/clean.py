"""What the source gave, checked and in one form."""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir
from ibis import _

from minirec.cells import is_void, plain_text
from minirec.columns import DESCRIPTION, ITEM_ID, RATING, TIMESTAMP, TITLE, USER_ID
from minirec.errors import InputError
from minirec.times import tomorrow

INTERACTIONS = "raw_interactions"
ITEMS = "raw_items"

# a name that no column of a source is likely to have
ROW = "__row"


def clean_interactions(raw: ir.Table) -> ir.Table:
    """Check the raw interactions and bring them into one form.

    `number_ids` checks the ids: it looks at each once instead of in every row.

    Parameters
    ----------
    raw : ibis.Table
        At least ``user_id``, ``item_id`` (text or whole numbers) and ``timestamp``
        (seconds since 1970, or dates and times); ``rating`` (numbers) if the source
        has one.

    Returns
    -------
    ibis.Table
        ``user_id`` string, ``item_id`` string, ``rating`` float64 (null where there is
        none) and ``timestamp`` float64 (seconds since 1970; of dates and times to the
        microsecond).

    Raises
    ------
    InputError
        If a column is missing or mistyped, the table is empty, or a timestamp is null
        or in the future.
    """
    _require_columns(raw, INTERACTIONS, [USER_ID, ITEM_ID, TIMESTAMP])
    seconds = _as_seconds(raw)
    counts = _counts(
        raw.aggregate(
            rows=_.count(),
            timestamp=is_void(raw[TIMESTAMP]).sum(),
            future=(seconds > tomorrow()).sum(),
        )
    )
    _require_rows(counts["rows"], INTERACTIONS)
    if counts[TIMESTAMP]:
        raise InputError(
            f"{INTERACTIONS} has {counts[TIMESTAMP]} of {counts['rows']} ratings "
            f"without timestamps: histories need the order of events, so drop those "
            f"rows or name a column that holds times under `columns` of its catalog "
            f"entry."
        )
    if counts["future"]:
        latest = seconds.max().execute()
        raise InputError(
            f"{INTERACTIONS} has {counts['future']} of {counts['rows']} timestamps in "
            f"the future, such as {latest:.0f} seconds since 1970: drop those rows, or "
            f"say in what the times are counted under `columns` of its catalog entry, "
            f"such as `timestamp: {{from: timestamp, unit: ms}}`."
        )
    return raw.select(
        **{
            USER_ID: _as_id(raw, INTERACTIONS, USER_ID),
            ITEM_ID: _as_id(raw, INTERACTIONS, ITEM_ID),
            RATING: _as_rating(raw),
            TIMESTAMP: seconds,
        }
    )


def clean_items(
    raw: ir.Table, interactions: ir.Table, columns: Sequence[str] = ()
) -> ir.Table:
    """Check the raw items that count and bring them into one form, one row an item.

    Of several rows of an item one stays as a whole: with a title, and else the first
    in alphabetical order.

    Parameters
    ----------
    raw : ibis.Table
        At least ``item_id`` (text or whole numbers) and ``title``.
    interactions : ibis.Table
        At least ``item_id``, strings: items without any are left out, unchecked.
    columns : sequence of str
        Others of its columns, of text or whole numbers, that are to stay; a
        ``description`` that it does not have is null.

    Returns
    -------
    ibis.Table
        ``item_id``, ``title`` and `columns`, all strings, held in the engine's
        temporary storage; each is one line, with single spaces and without tags of
        HTML, and null where it holds nothing.

    Raises
    ------
    InputError
        If a column is missing or mistyped, the table is empty, an id is null, or one
        id has several titles.
    """
    _require_columns(raw, ITEMS, [ITEM_ID, TITLE])
    counts = _counts(raw.aggregate(rows=_.count(), item_id=is_void(raw[ITEM_ID]).sum()))
    _require_rows(counts["rows"], ITEMS)
    require_ids(counts[ITEM_ID], ITEMS, ITEM_ID)
    told = list(dict.fromkeys([TITLE, *columns]))
    if DESCRIPTION in told and DESCRIPTION not in raw.columns:
        raw = raw.mutate(**{DESCRIPTION: ibis.null("string")})
    counted = raw.mutate(**{ITEM_ID: _as_id(raw, ITEMS, ITEM_ID)}).semi_join(
        interactions.select(ITEM_ID).distinct(), ITEM_ID
    )
    texts = {name: _as_text(counted, name) for name in told}
    items = counted.select(ITEM_ID, **texts).distinct().cache()
    titles = items.group_by(ITEM_ID).aggregate(n=_[TITLE].nunique())
    ambiguous = titles.filter(_.n > 1)[ITEM_ID].execute().tolist()
    if ambiguous:
        raise InputError(
            f"{ITEMS} gives {len(ambiguous)} item ids several titles, such as "
            f"{_some(ambiguous)}: keep one row for each item."
        )
    # Engines differ in where nulls sort.
    order = [key for name in told for key in (items[name].isnull(), items[name])]
    first = ibis.row_number().over(ibis.window(group_by=ITEM_ID, order_by=order))
    return items.mutate(**{ROW: first}).filter(_[ROW] == 0).drop(ROW)


def titled_ids(raw: ir.Table) -> ir.Table:
    """Return the ids of the raw items that have a title.

    Parameters
    ----------
    raw : ibis.Table
        At least ``item_id`` (text or whole numbers) and ``title``.

    Returns
    -------
    ibis.Table
        ``item_id``, strings, each once.

    Raises
    ------
    InputError
        If a column is missing or mistyped.
    """
    _require_columns(raw, ITEMS, [ITEM_ID, TITLE])
    ids = raw.select(
        _as_id(raw, ITEMS, ITEM_ID).name(ITEM_ID), title=_as_text(raw, TITLE)
    )
    return ids.filter(_[TITLE].notnull()).select(ITEM_ID).distinct()


def require_ids(void: int, name: str, column: str) -> None:
    """Raise an `InputError` if `void` rows of the table `name` have no id."""
    if void:
        raise InputError(
            f"{name}.{column} is null in {void} rows: give each row an id or drop it."
        )


def _counts(aggregated: ir.Table) -> dict[str, int]:
    # A sum over no rows is null.
    row = aggregated.fill_null(0).execute().iloc[0]
    return {str(name): int(value) for name, value in row.items()}


def _require_columns(table: ir.Table, name: str, columns: list[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            f"{name} has no column {', '.join(missing)} (it has "
            f"{', '.join(table.columns)}): name the source's own under `columns` of "
            f"its catalog entry."
        )


def _require_rows(rows: int, name: str) -> None:
    if rows == 0:
        raise InputError(
            f"{name} is empty: point its catalog entry to a file that has rows."
        )


def _mistyped(name: str, column: ir.Column, expected: str) -> InputError:
    return InputError(
        f"{name}.{column.get_name()} is {column.type()}, and should be {expected}: "
        f"convert it, or name another column under `columns` of its catalog entry."
    )


def _as_id(table: ir.Table, name: str, column: str) -> ir.StringColumn:
    dtype = table[column].type()
    whole = dtype.is_integer() or (dtype.is_decimal() and dtype.scale == 0)
    if dtype.is_string() or whole or dtype.is_uuid():
        return table[column].cast("string")
    raise _mistyped(name, table[column], "text or whole numbers")


def _as_rating(raw: ir.Table) -> ir.Value:
    if RATING not in raw.columns:
        return ibis.null("float64")
    if raw[RATING].type().is_numeric():
        rating = raw[RATING].cast("float64")
        return ibis.cases((~is_void(rating), rating))
    raise _mistyped(INTERACTIONS, raw[RATING], "numbers")


def _as_seconds(raw: ir.Table) -> ir.Value:
    time = raw[TIMESTAMP]
    dtype = time.type()
    if dtype.is_date() or dtype.is_timestamp():
        moment = time.cast("timestamp")
        # Some engines' seconds have the fraction and some round it away.
        whole = moment.truncate("s").epoch_seconds().cast("float64")
        # By text, since Spark gives parts of a second in no other way.
        return whole + moment.strftime("%f").cast("float64") / 1e6
    if dtype.is_numeric():
        return time.cast("float64")
    raise _mistyped(INTERACTIONS, time, "numbers, dates or times")


def _as_text(table: ir.Table, column: str) -> ir.StringValue:
    dtype = table[column].type()
    plain = ("string", "integer", "boolean", "date", "uuid", "null")
    if not any(getattr(dtype, f"is_{kind}")() for kind in plain):
        # Engines write other values each in a way of its own.
        raise _mistyped(ITEMS, table[column], "text or whole numbers")
    return plain_text(table[column])


def _some(ids: list[str]) -> str:
    return ", ".join(sorted(ids)[:5])
