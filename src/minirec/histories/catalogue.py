"""The items that can be recommended."""

import ibis
import ibis.expr.types as ir
from ibis import _

from minirec.columns import (
    ITEM_ID,
    POPULARITY,
    PRETRAIN,
    SPLIT,
    TEXT,
    TITLE,
    TRAIN,
)
from minirec.errors import InputError
from minirec.histories.text import item_text


def popularity(interactions: ir.Table) -> ir.Table:
    """Count the interactions of each item that train or pre-train.

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
        **{POPULARITY: _.count(where=_[SPLIT].isin([PRETRAIN, TRAIN])).cast("int64")}
    )


def catalogue(
    items: ir.Table,
    interactions: ir.Table,
    template: str = "{title}. {description}",
) -> ir.Table:
    """Describe the items that have interactions, in ascending order of id.

    Parameters
    ----------
    items : ibis.Table
        ``item_id``, ``title`` and what the template names, one row an item.
    interactions : ibis.Table
        At least ``item_id`` and ``split``.
    template : str
        Of the text, as `item_text` takes it; where it writes nothing, the title
        stands.

    Returns
    -------
    ibis.Table
        ``item_id``, ``title``, ``text`` and ``popularity``, held in the engine's
        temporary storage.

    Raises
    ------
    InputError
        If an item has no title, the template cannot be used, or there are fewer than
        two items.
    """
    # An item of which the template writes nothing goes by its title.
    text = ibis.coalesce(item_text(items, template), items[TITLE])
    known = (
        popularity(interactions)
        .left_join(items.mutate(**{TEXT: text}), ITEM_ID)
        .select(ITEM_ID, TITLE, TEXT, POPULARITY)
        .order_by(ITEM_ID)
        .cache()
    )
    n_items = known.count().execute()
    untitled = known.filter(_[TITLE].isnull())[ITEM_ID].execute().tolist()
    if untitled and not items.semi_join(interactions, ITEM_ID).count().execute():
        raise InputError(
            f"raw_items has none of the {n_items} items of raw_interactions, such as "
            f"{', '.join(untitled[:5])}: are ids written alike in raw_interactions and "
            "raw_items?"
        )
    if untitled:
        raise InputError(
            f"raw_items has no title for {len(untitled)} of {n_items} items, such as "
            f"{', '.join(untitled[:5])}: add them, or leave out what names them by "
            f"`preprocess.filter.untitled: drop`."
        )
    if n_items < 2:
        raise InputError(
            "A catalogue of one item leaves nothing to rank: lower preprocess.k_core "
            "or add interactions with other items."
        )
    return known
