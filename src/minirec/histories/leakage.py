"""What training knows of the samples that it is evaluated on."""

import ibis.expr.types as ir
from ibis import _

from minirec.columns import (
    HISTORY_ITEM_ID,
    ITEM_ID,
    PRETRAIN,
    SPLIT,
    TARGET_ITEM_ID,
    TIMESTAMP,
    TRAIN,
    USER_ID,
)

# how often a target may be looked up in train samples, on average over these
LOOKS = 8


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
        A row of each split that neither trains nor pre-trains, with counts (int64): ``samples``;
        ``seen_targets``, which a train sample of the same user holds as its target or
        in its history (0 unless something is wrong); ``early_targets``, which are
        older than the last target of training (0 if split by time); and
        ``new_targets``, whose items no train sample holds.
    """
    trains = samples[SPLIT].isin([PRETRAIN, TRAIN])
    train = samples.filter(trains).rename({ITEM_ID: TARGET_ITEM_ID})
    others = samples.filter(~trains).rename({ITEM_ID: TARGET_ITEM_ID})
    targets = others.select(USER_ID, ITEM_ID).distinct()
    held = _held(train, targets).mutate(seen=1)
    known = _known(train, targets).mutate(known=1)
    end = train.aggregate(end=_[TIMESTAMP].max())
    return (
        others.select(SPLIT, USER_ID, TIMESTAMP, ITEM_ID)
        .left_join(held, [USER_ID, ITEM_ID])
        .select(SPLIT, TIMESTAMP, ITEM_ID, "seen")
        .left_join(known, ITEM_ID)
        .cross_join(end)
        .group_by(SPLIT)
        .aggregate(
            samples=_.count().cast("int64"),
            seen_targets=_.seen.count().cast("int64"),
            early_targets=_.count(where=_[TIMESTAMP] < _.end).cast("int64"),
            new_targets=_.count(where=_.known.isnull()).cast("int64"),
        )
    )


def _held(train: ir.Table, targets: ir.Table) -> ir.Table:
    """Return the targets that a train sample of the same user holds."""
    sizes = train.group_by(USER_ID).aggregate(n=_.count())
    wanted = targets.group_by(USER_ID).aggregate(m=_.count())
    both = sizes.inner_join(wanted, USER_ID).aggregate(
        looks=(_.n.cast("float64") * _.m).sum(), n=_.n.sum()
    )
    looks, rows = both.fill_null(0).to_pyarrow().to_pylist()[0].values()
    past = train[HISTORY_ITEM_ID]
    if looks <= LOOKS * rows:
        # Far cheaper, unless long histories have many targets each.
        pairs = train.select(USER_ID, last=train[ITEM_ID], past=past)
        found = pairs.inner_join(targets, USER_ID).filter(
            (_.last == _[ITEM_ID]) | _.past.contains(_[ITEM_ID])
        )
    else:
        every = train.select(USER_ID, **{ITEM_ID: past.unnest()})
        every = every.union(train.select(USER_ID, ITEM_ID))
        found = every.semi_join(targets, [USER_ID, ITEM_ID])
    return found.select(USER_ID, ITEM_ID).distinct()


def _known(train: ir.Table, targets: ir.Table) -> ir.Table:
    """Return the items of the targets that any train sample holds."""
    items = targets.select(ITEM_ID).distinct()
    often = items.semi_join(train, ITEM_ID)
    # Few are left, and no distinct items of all histories have to be held.
    rest = items.anti_join(train, ITEM_ID)
    past = train.select(**{ITEM_ID: train[HISTORY_ITEM_ID].unnest()})
    return often.union(past.semi_join(rest, ITEM_ID).distinct())
