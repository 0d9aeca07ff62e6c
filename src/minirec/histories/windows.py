"""Samples: a window of the past and the item that came next."""

import ibis
import ibis.expr.types as ir
import numpy as np
from ibis import _

from minirec.columns import (
    DRAW,
    HISTORY_ITEM_ID,
    ITEM_ID,
    POSITION,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    TARGET_ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from minirec.errors import InputError


def windows(interactions: ir.Table, window: int) -> ir.Table:
    """Make a next-item sample of each interaction but a user's first.

    Parameters
    ----------
    interactions : ibis.Table
        ``user_id``, ``item_id``, ``timestamp``, ``position`` (from 0 within the user)
        and ``split``.
    window : int
        How many items of the past a sample holds at most; at least 1.

    Returns
    -------
    ibis.Table
        ``sample_id`` (int64, row number from 0 in the order of user_id and position),
        ``user_id``, ``position``, ``timestamp``, ``target_item_id``,
        ``history_item_id`` (the last `window` items before the target, oldest first)
        and ``split`` (of the target).
    """
    sizes = interactions.group_by(USER_ID).aggregate(n=_.count()).filter(_.n > 1)
    before = ibis.window(order_by=USER_ID, preceding=(None, 1))
    # The id of the user's first sample, so that no engine has to sort all samples;
    # DuckDB's sums of int64 are int128.
    first = (_.n - 1).cast("float64").sum().over(before).fill_null(0)
    users = sizes.select(USER_ID, first=first.cast("int64"))
    in_order = ibis.window(group_by="first", order_by=POSITION)
    # Engines shift columns faster than they collect moving frames.
    past = [_[ITEM_ID].lag(back).over(in_order) for back in range(window, 0, -1)]
    return (
        interactions.inner_join(users, USER_ID)
        .mutate(
            **{
                SAMPLE_ID: (_.first + _[POSITION] - 1).cast("int64"),
                TARGET_ITEM_ID: _[ITEM_ID],
                HISTORY_ITEM_ID: ibis.array(past).filter(lambda item: item.notnull()),
            }
        )
        .filter(_[POSITION] > 0)
        .select(
            SAMPLE_ID,
            USER_ID,
            POSITION,
            TIMESTAMP,
            TARGET_ITEM_ID,
            HISTORY_ITEM_ID,
            SPLIT,
        )
    )


def draw_pool(samples: ir.Table, split: str, n: int | None, seed: int) -> ir.Table:
    """Draw samples of a split at random, none twice.

    The draw is numpy's, over the ascending sample ids, so that every engine draws
    the same; a larger `n` keeps all that a smaller one draws.

    Parameters
    ----------
    samples : ibis.Table
        At least ``sample_id`` and ``split``.
    split : str
        Of the targets.
    n : int or None
        How many; None: all of them.
    seed : int
        Equal seeds give equal draws.

    Returns
    -------
    ibis.Table
        The drawn rows, with their place in the draw as ``draw``, from 0.

    Raises
    ------
    InputError
        If the split has no samples, or fewer than `n`.
    """
    of_split = samples.filter(_[SPLIT] == split)
    ids = np.sort(of_split[SAMPLE_ID].execute().to_numpy())
    if len(ids) == 0:
        raise InputError(
            f"No sample has a target in the {split} split: lower preprocess.k_core or "
            f"change preprocess.split, so that more of a user's interactions fall "
            f"into it."
        )
    if n is not None and n > len(ids):
        raise InputError(
            f"preprocess.pool.{split} = {n}, but there are only {len(ids)} {split} "
            f"samples: lower it, or set it to null for all of them."
        )
    drawn = np.random.default_rng(seed).permutation(ids)[:n]
    places = {SAMPLE_ID: drawn, DRAW: np.arange(len(drawn))}
    return of_split.inner_join(ibis.memtable(places), SAMPLE_ID)


def seen_items(pool: ir.Table, interactions: ir.Table) -> ir.Table:
    """Add all that the user had interacted with before each sample's target.

    Parameters
    ----------
    pool : ibis.Table
        At least ``sample_id``, ``user_id`` and ``position``.
    interactions : ibis.Table
        At least ``user_id``, ``item_id`` and ``position``.

    Returns
    -------
    ibis.Table
        The pool with ``seen_item_id``, in ascending order of id.
    """
    past = interactions.select(USER_ID, ITEM_ID, before=_[POSITION])
    seen = (
        pool.select(SAMPLE_ID, USER_ID, POSITION)
        .inner_join(past, USER_ID)
        .filter(_.before < _[POSITION])
        .group_by(SAMPLE_ID)
        .aggregate(**{SEEN_ITEM_ID: _[ITEM_ID].collect().sort()})
    )
    return pool.inner_join(seen, SAMPLE_ID)
