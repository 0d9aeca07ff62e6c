"""Which column of a source is which of ours, and how it becomes a plain one."""

from typing import Any, Literal

import ibis.expr.types as ir
from kedro.io import DatasetError
from pydantic import BaseModel, Field, ValidationError

from minirec.columns import TIMESTAMP
from minirec.errors import did_you_mean, what_is_wrong

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Column(BaseModel, extra="forbid", frozen=True):
    """A column of a source."""

    source: str | int = Field(alias="from", union_mode="left_to_right")
    """Its name, ``outer.inner`` if it is nested; without a header, its position from 0."""
    join: str = ", "
    """What stands between the values of a list when they become one text."""
    unit: Literal["s", "ms", "us", "ns"] | None = None
    """Of a timestamp that is a number; None: seconds, or a date and time."""
    format: str | None = None
    """Of a timestamp that a text file does not write as ISO 8601 does, in the words of
    ``strptime``, such as ``%d.%m.%Y``."""


def column_map(given: dict[str, Any]) -> dict[str, Column]:
    """Return the columns that a catalog entry names.

    Parameters
    ----------
    given : dict
        By our names: the source's name or position, or the fields of `Column` with
        ``from`` for `source`.

    Raises
    ------
    DatasetError
        If a field is unknown or mistyped, or another column than ``timestamp`` has a
        unit or a format, or this one both.
    """
    found = {}
    for name, value in given.items():
        try:
            fields = value if isinstance(value, dict) else {"from": value}
            found[name] = Column.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            said = what_is_wrong(["columns", name, *first["loc"]], first)
            raise DatasetError(
                f"{said}: write the source's name of the "
                "column, or `from`, `join`, `unit` and `format`"
            ) from None
        for field in ("unit", "format"):
            if getattr(found[name], field) is not None and name != TIMESTAMP:
                meant = did_you_mean(name, [TIMESTAMP])
                raise DatasetError(
                    f"columns.{name}.{field}: only `{TIMESTAMP}` has one: "
                    + (f"{meant}Or take it out" if meant else "take it out")
                )
        form = found[name].format
        if form is not None and "%" not in form:
            raise DatasetError(
                f"columns.{name}.format is {form!r}: write it in the words of strptime, "
                "such as '%d.%m.%Y'"
            )
        if found[name].unit and form:
            raise DatasetError(
                f"columns.{name} has a unit, as a number does, and a format, as a text "
                "does: take one out"
            )
    return found


def missing(table: ir.Table, columns: dict[str, Column]) -> list[str]:
    """Return which columns of the map a table does not have, by the source's names."""
    sources = [column.source for column in columns.values()]
    return [str(source) for source in sources if _find(table, source) is None]


def select(table: ir.Table, columns: dict[str, Column]) -> ir.Table:
    """Take the columns of the map out of a table that has them, lists as text."""
    return table.select(
        **{
            name: _plain(_find(table, column.source), column.join)
            for name, column in columns.items()
        }
    )


def in_seconds(table: ir.Table, columns: dict[str, Column]) -> ir.Table:
    """Turn a timestamp with a unit into seconds.

    Raises
    ------
    DatasetError
        If it is not a number.
    """
    unit = columns[TIMESTAMP].unit if TIMESTAMP in columns else None
    if unit is None:
        return table
    given = table[TIMESTAMP]
    if not given.type().is_numeric():
        raise DatasetError(
            f"columns.{TIMESTAMP}.unit is {unit}, but the column is {given.type()}: "
            f"take `unit` out, or name a column of numbers."
        )
    return table.mutate(**{TIMESTAMP: given.cast("float64") / PER_SECOND[unit]})


def _find(table: ir.Table, source: str | int) -> ir.Value | None:
    if source in table.columns:
        return table[source]
    outer, *inner = str(source).split(".")
    value: Any = table[outer] if outer in table.columns else None
    for name in inner:
        if not isinstance(value, ir.StructValue) or name not in value.names:
            return None
        value = value[name]
    return value


def _plain(value: Any, join: str) -> Any:
    return value.cast("array<string>").join(join) if value.type().is_array() else value
