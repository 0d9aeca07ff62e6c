"""Users and items that have enough interactions with one another."""

import ibis.expr.types as ir
from ibis import _

from minirec.columns import ITEM_ID, USER_ID
from minirec.errors import InputError


def k_core(interactions: ir.Table, k: int) -> ir.Table:
    """Keep the largest part in which each user and each item occurs `k` times or more.

    Dropping a user takes interactions from items and the other way round, so both are
    filtered until nothing changes. The result does not depend on the order.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``user_id`` and ``item_id``.
    k : int
        At least 1.

    Returns
    -------
    ibis.Table
        Some of the rows, held in the engine's temporary storage.

    Raises
    ------
    InputError
        If nothing is left.
    """
    whole = interactions.cache()
    core, rows = whole, whole.count().execute()
    while True:
        smaller = (
            core.semi_join(_frequent(core, USER_ID, k), USER_ID)
            .semi_join(_frequent(core, ITEM_ID, k), ITEM_ID)
            .cache()
        )
        left = smaller.count().execute()
        if left == 0:
            raise InputError(
                f"preprocess.k_core = {k} leaves nothing: the largest user has "
                f"{_largest(whole, USER_ID)} interactions and the largest item "
                f"{_largest(whole, ITEM_ID)}, before others are dropped; lower it."
            )
        if left == rows:
            return smaller
        if core is not whole:
            core.release()
        core, rows = smaller, left


def _frequent(interactions: ir.Table, column: str, k: int) -> ir.Table:
    return interactions.group_by(column).aggregate(n=_.count()).filter(_.n >= k)


def _largest(interactions: ir.Table, column: str) -> int:
    sizes = interactions.group_by(column).aggregate(n=_.count())
    return int(sizes.n.max().execute())
