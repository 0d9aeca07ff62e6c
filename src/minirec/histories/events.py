"""What happened, and when, to the items that a sample's history shows."""

import ibis.expr.types as ir
from ibis import _

from minirec.columns import (
    HISTORY_ITEM_ID,
    POSITION,
    RATING,
    SAMPLE_ID,
    TIMESTAMP,
    USER_ID,
)


def history_events(pool: ir.Table, interactions: ir.Table) -> ir.Table:
    """Return rating and time of each item of each sample's history.

    Parameters
    ----------
    pool : ibis.Table
        At least ``sample_id``, ``user_id``, ``position`` and ``history_item_id``.
    interactions : ibis.Table
        At least ``user_id``, ``position``, ``rating`` and ``timestamp``.

    Returns
    -------
    ibis.Table
        ``sample_id``, ``position`` (of the item), ``rating`` and ``timestamp``: as
        many rows of a sample as its history has items. By ``position`` they are in
        the history's order.
    """
    past = interactions.select(USER_ID, RATING, TIMESTAMP, before=_[POSITION])
    return (
        pool.select(
            SAMPLE_ID,
            USER_ID,
            last=_[POSITION],
            first=_[POSITION] - _[HISTORY_ITEM_ID].length(),
        )
        .inner_join(past, USER_ID)
        .filter(_.before >= _.first, _.before < _.last)
        .select(SAMPLE_ID, RATING, TIMESTAMP, **{POSITION: _.before})
    )
