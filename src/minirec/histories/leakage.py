"""What training knows of the samples that it is evaluated on."""

import ibis.expr.types as ir
from ibis import _

from minirec.columns import (
    HISTORY_ITEM_ID,
    ITEM_ID,
    SPLIT,
    TARGET_ITEM_ID,
    TIMESTAMP,
    TRAIN,
    USER_ID,
)


def leakage(samples: ir.Table) -> ir.Table:
    """Count the targets of the other splits that training knows, or cannot know.

    Parameters
    ----------
    samples : ibis.Table
        ``user_id``, ``timestamp`` and ``target_item_id`` (of the target),
        ``history_item_id`` and ``split``.

    Returns
    -------
    ibis.Table
        A row of each split but train, with counts (int64): ``samples``;
        ``seen_targets``, which a train sample of the same user holds as its target or
        in its history (0 unless something is wrong); ``early_targets``, which are
        older than the last target of training (0 if split by time); and
        ``new_targets``, whose items no train sample holds.
    """
    train = samples.filter(_[SPLIT] == TRAIN)
    held = (
        train.select(USER_ID, **{ITEM_ID: _[HISTORY_ITEM_ID].unnest()})
        .union(train.select(USER_ID, **{ITEM_ID: _[TARGET_ITEM_ID]}))
        .distinct()
        .mutate(seen=1)
    )
    items = held.select(ITEM_ID).distinct().mutate(known=1)
    end = train.aggregate(end=_[TIMESTAMP].max())
    return (
        samples.filter(_[SPLIT] != TRAIN)
        .select(SPLIT, USER_ID, TIMESTAMP, **{ITEM_ID: _[TARGET_ITEM_ID]})
        .left_join(held, [USER_ID, ITEM_ID])
        .select(SPLIT, TIMESTAMP, ITEM_ID, "seen")
        .left_join(items, ITEM_ID)
        .cross_join(end)
        .group_by(SPLIT)
        .aggregate(
            samples=_.count().cast("int64"),
            seen_targets=_.seen.count().cast("int64"),
            early_targets=_.count(where=_[TIMESTAMP] < _.end).cast("int64"),
            new_targets=_.count(where=_.known.isnull()).cast("int64"),
        )
    )
