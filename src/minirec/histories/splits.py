"""Which interactions train, validate and test."""

from typing import Literal

import ibis
import ibis.expr.types as ir
import numpy as np
from ibis import _

from minirec.columns import (
    ITEM_ID,
    POSITION,
    SPLIT,
    TEST,
    TIMESTAMP,
    TRAIN,
    USER_ID,
    VALID,
)
from minirec.errors import InputError

Method = Literal["leave_last_out", "time"]


def order_and_split(
    interactions: ir.Table, method: Method, valid: float, test: float
) -> ir.Table:
    """Place each interaction within its user's history and in a split.

    Equal timestamps of a user are ordered by item id.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``user_id``, ``item_id`` and ``timestamp``, a user and item at most
        once.
    method : {"leave_last_out", "time"}
        ``leave_last_out``: each user's last interaction tests, the one before
        validates, all earlier ones train. ``time``: over all users in the order of
        (timestamp, user_id, item_id), the last ones test, those before validate.
    valid, test : float
        For ``time`` alone: shares of the interactions, in (0, 1), rounded to whole
        rows.

    Returns
    -------
    ibis.Table
        The rows with ``position`` (int64, from 0 within the user) and ``split``.

    Raises
    ------
    InputError
        If a share is out of range or a split is left without interactions.
    """
    by_time = ibis.window(group_by=USER_ID, order_by=[TIMESTAMP, ITEM_ID])
    ordered = interactions.mutate(
        **{POSITION: ibis.row_number().over(by_time).cast("int64")}
    )
    if method == "leave_last_out":
        return _leave_last_out(ordered)
    return _by_time(ordered, valid, test)


def _leave_last_out(ordered: ir.Table) -> ir.Table:
    longest = int(ordered[POSITION].max().execute()) + 1
    if longest < 3:
        raise InputError(
            f"preprocess.split.method = leave_last_out needs users with 3 interactions "
            f"or more, but the largest has {longest}: add interactions or choose "
            f"`time`."
        )
    n_after = _.count().over(ibis.window(group_by=USER_ID)) - 1 - _[POSITION]
    split = ibis.cases((_.n_after == 0, TEST), (_.n_after == 1, VALID), else_=TRAIN)
    return ordered.mutate(n_after=n_after).mutate(**{SPLIT: split}).drop("n_after")


def _by_time(ordered: ir.Table, valid: float, test: float) -> ir.Table:
    for name, share in (("valid", valid), ("test", test)):
        if not 0 < share < 1:
            raise InputError(
                f"preprocess.split.{name} = {share} must lie between 0 and 1."
            )
    if valid + test >= 1:
        raise InputError(
            f"preprocess.split.valid + preprocess.split.test = {valid + test} leaves "
            f"nothing to train on: lower them below 1 together."
        )
    moments = (
        ordered.group_by(TIMESTAMP).aggregate(n=_.count()).order_by(TIMESTAMP).execute()
    )
    rows = int(moments["n"].sum())
    n_valid, n_test = round(valid * rows), round(test * rows)
    n_train = rows - n_valid - n_test
    for name, n in (("valid", n_valid), ("test", n_test), ("train", n_train)):
        if n == 0:
            raise InputError(
                f"preprocess.split with valid = {valid} and test = {test} leaves no "
                f"{name} interaction of {rows}: change the shares or add interactions."
            )
    # The counts of each moment find the two cuts, so only ties have to be ranked:
    # no engine has to sort the whole table.
    ends = moments["n"].cumsum().to_numpy()

    def before(cut: int) -> ir.BooleanColumn:
        moment = int(np.searchsorted(ends, cut, side="right"))
        # As text, since engines read a literal number as a decimal, rounded.
        exact = repr(float(moments[TIMESTAMP][moment]))
        timestamp = ibis.literal(exact).cast("float64")
        ties_before = cut - int(ends[moment] - moments["n"][moment])
        return (_[TIMESTAMP] < timestamp) | (
            (_[TIMESTAMP] == timestamp) & (_.tie < ties_before)
        )

    ties = ibis.window(group_by=TIMESTAMP, order_by=[USER_ID, ITEM_ID])
    split = ibis.cases(
        (before(n_train), TRAIN), (before(n_train + n_valid), VALID), else_=TEST
    )
    return (
        ordered.mutate(tie=ibis.row_number().over(ties))
        .mutate(**{SPLIT: split})
        .drop("tie")
    )
