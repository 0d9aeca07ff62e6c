"""Numbers in place of ids: what is counted, joined and sorted often is then small."""

import ibis
import ibis.expr.types as ir
from ibis import _

from minirec.cells import is_void
from minirec.columns import ITEM_ID, POSITION, USER_ID
from minirec.errors import InputError
from minirec.histories.clean import INTERACTIONS, require_ids

NUMBER = "number"


def number_ids(interactions: ir.Table, k: int) -> dict[str, ir.Table]:
    """Give numbers to the users and the items that occur `k` times or more.

    The order of the numbers is that of the ids. Others than these cannot be in a
    k-core, even before repeated interactions are dropped.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``user_id`` and ``item_id``, strings.
    k : int
        At least 1.

    Returns
    -------
    dict of str to ibis.Table
        Under ``user_id`` and ``item_id``: that column and ``number`` (int32, from 0),
        held in the engine's temporary storage.

    Raises
    ------
    InputError
        If an id is null or blank, or no user or no item occurs so often.
    """
    return {column: _number(interactions, column, k) for column in (USER_ID, ITEM_ID)}


def _number(interactions: ir.Table, column: str, k: int) -> ir.Table:
    sizes = interactions.group_by(column).aggregate(n=_.count())
    void = is_void(sizes[column])
    # Those without an id are kept for a moment, to be counted in the same pass.
    kept = sizes.filter((sizes.n >= k) | void)
    number = ibis.row_number().over(order_by=column).cast("int32")
    numbered = kept.mutate(**{NUMBER: number}).cache()
    without = numbered.filter(is_void(numbered[column])).n.sum().fill_null(0).execute()
    require_ids(without, INTERACTIONS, column)
    if numbered.count().execute() == 0:
        largest = sizes.n.max().fill_null(0).execute()
        if largest == 0:
            raise InputError(
                "preprocess.filter leaves no interactions: lower min_rating (null if "
                "the source has no ratings), or let since and until lie farther apart."
            )
        raise InputError(
            f"preprocess.k_core = {k} leaves nothing: no {column} has more than "
            f"{largest} interactions; lower it."
        )
    return numbered.select(column, NUMBER)


def to_numbers(interactions: ir.Table, numbers: dict[str, ir.Table]) -> ir.Table:
    """Put numbers in place of ids; rows whose user or item has none go.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``user_id`` and ``item_id``, strings.
    numbers : dict of str to ibis.Table
        From `number_ids`.

    Returns
    -------
    ibis.Table
        The same columns, ``user_id`` and ``item_id`` int32.
    """
    columns = interactions.columns
    for column, table in numbers.items():
        interactions = interactions.inner_join(table, column).drop(column)
        interactions = interactions.rename({column: NUMBER})
    return interactions.select(columns)


def to_ids(interactions: ir.Table, numbers: dict[str, ir.Table]) -> ir.Table:
    """Put the ids back in place of their numbers.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``user_id`` and ``item_id``, as `to_numbers` gives them, and
        ``position``.
    numbers : dict of str to ibis.Table
        From `number_ids`.

    Returns
    -------
    ibis.Table
        The same columns, ``user_id`` and ``item_id`` strings, in ascending order of
        ``user_id`` and ``position``.
    """
    columns = interactions.columns
    users, items = (
        table.rename({f"{column}_number": NUMBER}) for column, table in numbers.items()
    )
    user, item = f"{USER_ID}_number", f"{ITEM_ID}_number"
    return (
        interactions.rename({user: USER_ID, item: ITEM_ID})
        .inner_join(users, user)
        .inner_join(items, item)
        # Numbers are in the order of ids, and faster to sort.
        .order_by([user, POSITION])
        .select(columns)
    )
