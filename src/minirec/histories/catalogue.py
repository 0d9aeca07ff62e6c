"""The items that can be recommended."""

import ibis
import ibis.expr.types as ir
from ibis import _

from minirec.columns import (
    DESCRIPTION,
    ITEM_ID,
    POPULARITY,
    SPLIT,
    TEXT,
    TITLE,
    TRAIN,
)
from minirec.errors import InputError


def popularity(interactions: ir.Table) -> ir.Table:
    """Count the train interactions of each item that has any interaction.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``item_id`` and ``split``.

    Returns
    -------
    ibis.Table
        ``item_id`` and ``popularity`` (int64, 0 or more; higher is more popular).
    """
    return interactions.group_by(ITEM_ID).aggregate(
        **{POPULARITY: _.count(where=_[SPLIT] == TRAIN).cast("int64")}
    )


def catalogue(items: ir.Table, interactions: ir.Table) -> ir.Table:
    """Describe the items that have interactions, in ascending order of id.

    Parameters
    ----------
    items : ibis.Table
        ``item_id``, ``title`` and ``description``, one row an item.
    interactions : ibis.Table
        At least ``item_id`` and ``split``.

    Returns
    -------
    ibis.Table
        ``item_id``, ``title``, ``text`` (the title, with the description behind it if
        there is one) and ``popularity``.

    Raises
    ------
    InputError
        If an item has no title or there are fewer than two items.
    """
    described = ibis.cases(
        (_[DESCRIPTION].notnull(), _[TITLE] + ". " + _[DESCRIPTION]), else_=_[TITLE]
    )
    known = (
        popularity(interactions)
        .left_join(items, ITEM_ID)
        .mutate(**{TEXT: described})
        .select(ITEM_ID, TITLE, TEXT, POPULARITY)
        .order_by(ITEM_ID)
    )
    n_items = known.count().execute()
    untitled = known.filter(_[TITLE].isnull())[ITEM_ID].execute().tolist()
    if untitled:
        raise InputError(
            f"raw_items has no title for {len(untitled)} of {n_items} items, such as "
            f"{', '.join(untitled[:5])}: add them, or drop their rows from "
            f"raw_interactions."
        )
    if n_items < 2:
        raise InputError(
            "A catalogue of one item leaves nothing to rank: lower preprocess.k_core "
            "or add interactions with other items."
        )
    return known
