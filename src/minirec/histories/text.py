"""An item in words."""

from collections.abc import Sequence
from string import Formatter

import ibis
import ibis.expr.types as ir

from minirec.columns import DESCRIPTION
from minirec.errors import InputError

# what closes something that was opened before a value
CLOSING = ')]}>"”»'
# what only parts a value from the one before it
PARTING = " \t\n.,;:/|·•\u2013\u2014-"


def item_text(items: ir.Table, template: str) -> ir.StringColumn:
    """Write each item by a template such as ``"{title} ({year}). {genres}"``.

    A null takes along what stands between it and the column before it, and brackets
    or quotes that close right behind it: without a year the item reads
    ``"Heat. Crime"``. Where all columns before a value are null, so are the points and
    spaces that would part them: without a title it reads ``"(1995). Crime"``.

    Parameters
    ----------
    items : ibis.Table
        The columns that the template names.
    template : str
        As `str.format` reads it, with column names alone between braces.

    Returns
    -------
    ibis.StringColumn
        One line an item; null if every value is null.

    Raises
    ------
    InputError
        If the template cannot be read, or names no column or one that is missing.
    """
    literals, columns = _parse(template, items.columns)
    text = ibis.literal("")
    started = ibis.literal(False)
    for place, column in enumerate(columns):
        value = items[column].cast("string")
        behind, rest = _closing(literals[place + 1])
        before, literals[place + 1] = literals[place], rest
        alone = before.lstrip(PARTING) if place else before
        lead = ibis.ifelse(started, before, alone)
        text += ibis.ifelse(value.notnull(), lead + value + behind, "")
        started = started | value.notnull()
    return ibis.ifelse(started, text + literals[-1], ibis.null("string"))


def template_columns(template: str, known: Sequence[str]) -> list[str]:
    """Return the columns that a template of `item_text` names.

    Parameters
    ----------
    template : str
        As `item_text` takes it.
    known : sequence of str
        The columns that it may name; ``description`` it always may.

    Raises
    ------
    InputError
        As `item_text`.
    """
    return _parse(template, list(dict.fromkeys([*known, DESCRIPTION])))[1]


def _closing(literal: str) -> tuple[str, str]:
    """Part what closes something, at the start, from the rest."""
    rest = literal.lstrip(CLOSING)
    return literal.removesuffix(rest), rest


def _parse(template: str, known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the columns of the template, and what stands before and behind each."""
    wrong = f"preprocess.item_text = {template!r} cannot be read"
    way_out = "write column names between braces, such as '{title}. {description}'."
    literals, columns = [""], []
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{wrong} ({error}): {way_out}") from None
    for literal, column, form, conversion in parts:
        literals[-1] += literal
        if column is None:  # an escaped brace, or the end
            continue
        if form or conversion or not column:
            raise InputError(f"{wrong}: {way_out}")
        if column not in known:
            raise InputError(
                f"preprocess.item_text names {column}, but raw_items has "
                f"{', '.join(known)}: correct it, or add the column under "
                f"`columns` of the catalog entry."
            )
        literals.append("")
        columns.append(column)
    if not columns:
        raise InputError(f"{wrong}: {way_out}")
    return literals, columns
