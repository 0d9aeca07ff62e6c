"""Users and items that have enough interactions with one another."""

import ibis.expr.types as ir
from ibis import _

from minirec.columns import ITEM_ID, USER_ID
from minirec.errors import InputError


def k_core(interactions: ir.Table, k: int) -> ir.Table:
    """Keep the largest part in which each user and each item occurs `k` times or more.

    Dropping a user takes interactions from items and the other way round, so users
    and items are dropped in turn until none has too few. The result does not depend
    on the order. The interactions are stored once, in the engine's temporary storage;
    a round looks up those of whom it drops, and stores how many the others have left.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``user_id`` and ``item_id`` (ids or numbers).
    k : int
        At least 1.

    Returns
    -------
    ibis.Table
        Some of the rows.

    Raises
    ------
    InputError
        If nothing is left.
    """
    whole = interactions.cache()
    stored = {
        column: whole.group_by(column).aggregate(n=_.count()).cache()
        for column in (USER_ID, ITEM_ID)
    }
    largest = {
        column: sizes.n.max().fill_null(0).execute() for column, sizes in stored.items()
    }
    left: dict[str, ir.Table] = dict(stored)
    column, other = USER_ID, ITEM_ID
    settled = 0
    while settled < 2:
        dropped = left[column].filter(_.n < k)
        if dropped.count().execute() == 0:
            settled += 1
        else:
            settled = 0
            lost = (
                whole.semi_join(dropped, column)
                .group_by(other)
                .aggregate(lost=_.count())
            )
            fewer = (
                left[other]
                .left_join(lost, other)
                .select(other, n=_.n - _.lost.fill_null(0))
                .cache()
            )
            stored[other].release()
            stored[other] = left[other] = fewer
            left[column] = left[column].filter(_.n >= k)
        column, other = other, column
    if left[USER_ID].count().execute() == 0:
        raise InputError(
            f"preprocess.k_core = {k} leaves nothing: the largest user has "
            f"{largest[USER_ID]} interactions and the largest item "
            f"{largest[ITEM_ID]}, before others are dropped; lower it."
        )
    return whole.semi_join(left[USER_ID], USER_ID).semi_join(left[ITEM_ID], ITEM_ID)
