"""Which interactions count."""

import logging
from datetime import UTC, date, datetime, time

import ibis
import ibis.expr.types as ir
from ibis import _

from minirec.columns import ITEM_ID, RATING, TIMESTAMP, USER_ID
from minirec.errors import InputError
from minirec.histories.clean import titled_ids

logger = logging.getLogger(__name__)


def deduplicate(interactions: ir.Table) -> ir.Table:
    """Keep the earliest of a user's interactions with an item.

    Of those at one time the lowest rating stays; a rating goes before none.

    Parameters
    ----------
    interactions : ibis.Table
        ``user_id`` and ``item_id`` (ids or numbers), ``rating`` and ``timestamp``.

    Returns
    -------
    ibis.Table
        Some of the rows, a user and item at most once.
    """
    repeat = ibis.row_number().over(
        ibis.window(group_by=[USER_ID, ITEM_ID], order_by=[TIMESTAMP, RATING])
    )
    return interactions.mutate(repeat=repeat).filter(_.repeat == 0).drop("repeat")


def filter_interactions(
    interactions: ir.Table,
    min_rating: float | None = None,
    since: date | None = None,
    until: date | None = None,
) -> ir.Table:
    """Keep the interactions of a rating and of a time.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``rating`` and ``timestamp`` (seconds since 1970).
    min_rating : float or None
        The lowest rating that stays; rows without a rating go. None: all stay.
    since, until : datetime.date or None
        The first day that stays and the first that goes again, in UTC. None: no limit.

    Returns
    -------
    ibis.Table
        Some of the rows.
    """
    if min_rating is not None:
        interactions = interactions.filter(_[RATING] >= min_rating)
    if since is not None:
        interactions = interactions.filter(_[TIMESTAMP] >= _seconds(since))
    if until is not None:
        interactions = interactions.filter(_[TIMESTAMP] < _seconds(until))
    return interactions


def drop_untitled(interactions: ir.Table, raw_items: ir.Table) -> ir.Table:
    """Keep the interactions with items that have a title; log how many go.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``item_id``, strings.
    raw_items : ibis.Table
        At least ``item_id`` (text or whole numbers) and ``title``.

    Returns
    -------
    ibis.Table
        Some of the rows.

    Raises
    ------
    InputError
        If the items lack a column, or none of the rows is left.
    """
    kept = interactions.semi_join(titled_ids(raw_items), ITEM_ID)
    rows, left = (int(table.count().execute()) for table in (interactions, kept))
    if rows and not left:
        raise InputError(
            "raw_items has no title for any item of raw_interactions: their ids may be "
            "written differently; name the right columns under `columns` of their "
            "catalog entries."
        )
    if left < rows:
        told = (f"{rows - left:,}", f"{rows:,}")
        logger.warning(
            "left out %s of %s interactions: their items have no title", *told
        )
    return kept


def _seconds(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())
