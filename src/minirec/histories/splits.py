"""Which interactions train, validate and test."""

import math
from typing import Literal

import ibis
import ibis.expr.types as ir
from ibis import _

from minirec.columns import (
    ITEM_ID,
    POSITION,
    PRETRAIN,
    SPLIT,
    TEST,
    TIMESTAMP,
    TRAIN,
    USER_ID,
    VALID,
)
from minirec.errors import InputError

Method = Literal["leave_last_out", "time", "per_user"]
Ties = Literal["item_id", "random"]

# more than the rounding errors of a share, its difference to 1 and its product with any
# number of interactions, and less than such a product can be away from a whole number
# that it is not (shares have few digits)
SLACK = 1e-9

# how finely a look at all timestamps tells them apart
BINS = 4096


def order_and_split(
    interactions: ir.Table,
    method: Method,
    valid: float,
    test: float,
    pretrain: float = 0.0,
    ties: Ties = "item_id",
) -> ir.Table:
    """Place each interaction within its user's history and in a split.

    Parameters and errors are those of `in_order` and `split`.
    """
    return split(in_order(interactions, ties), method, valid, test, pretrain)


def in_order(interactions: ir.Table, ties: Ties = "item_id") -> ir.Table:
    """Place each interaction within its user's history.

    Parameters
    ----------
    interactions : ibis.Table
        At least ``user_id``, ``item_id`` (ids or numbers) and ``timestamp``, a user
        and item at most once.
    ties : {"item_id", "random"}
        By what equal timestamps of a user are ordered. ``random``: by a hash of user
        and item, which is the same in every run and on every engine; that ids ascend
        is a pattern that a model of sequences would learn.

    Returns
    -------
    ibis.Table
        The rows with ``position`` (int64, from 0 within the user), held in the
        engine's temporary storage.
    """
    order = [TIMESTAMP, ITEM_ID]
    if ties == "random":
        user, item = (interactions[name].cast("string") for name in (USER_ID, ITEM_ID))
        order.insert(1, (user + " " + item).hexdigest("md5"))
    by_time = ibis.window(group_by=USER_ID, order_by=order)
    # Spark's row numbers are int32, which Ibis does not know.
    position = ibis.row_number().over(by_time).cast("int32").cast("int64")
    # Stored, since what comes next needs memory for itself.
    return interactions.mutate(**{POSITION: position}).cache()


def split(
    ordered: ir.Table,
    method: Method,
    valid: float,
    test: float,
    pretrain: float = 0.0,
) -> ir.Table:
    """Say of each interaction which split it is in.

    Parameters
    ----------
    ordered : ibis.Table
        At least ``user_id``, ``item_id``, ``timestamp`` and ``position``.
    method : {"leave_last_out", "time", "per_user"}
        ``leave_last_out``: each user's last interaction tests, the one before
        validates, all earlier ones train. ``time``: over all users in the order of
        (timestamp, user_id, position), the last ones test, those before validate.
        ``per_user``: of each user's n interactions the first ``pretrain`` only
        pre-train a policy, the last ``test`` test, the ``valid`` before them validate,
        the rest train; where a share s of them ends lies at position floor(s n).
    valid, test : float
        For ``time`` and ``per_user``: shares of the interactions, in (0, 1); those of
        ``time`` are rounded to whole rows.
    pretrain : float
        For ``per_user`` alone: share from 0, below 1.

    Returns
    -------
    ibis.Table
        The rows with ``split``.

    Raises
    ------
    InputError
        If a share is out of range or a split is left without interactions.
    """
    if pretrain and method != "per_user":
        raise InputError(
            f"preprocess.split.pretrain is {pretrain:g}, and preprocess.split.method is "
            f"{method}, which has no such share: set it to 0, or choose per_user."
        )
    if method == "leave_last_out":
        return _leave_last_out(ordered)
    if method == "per_user":
        return _per_user(ordered, pretrain, valid, test)
    return _by_time(ordered, valid, test)


def _leave_last_out(ordered: ir.Table) -> ir.Table:
    longest = int(ordered[POSITION].max().execute()) + 1
    if longest < 3:
        raise InputError(
            f"preprocess.split.method = leave_last_out needs users with 3 interactions "
            f"or more, but the largest has {longest}: add interactions or choose "
            f"`time`."
        )
    last = ordered.group_by(USER_ID).aggregate(last=_[POSITION].max())
    split = ibis.cases(
        (_[POSITION] == _.last, TEST), (_[POSITION] == _.last - 1, VALID), else_=TRAIN
    )
    return ordered.inner_join(last, USER_ID).mutate(**{SPLIT: split}).drop("last")


def _by_time(ordered: ir.Table, valid: float, test: float) -> ir.Table:
    _check_shares(valid, test)
    if valid + test >= 1:
        raise InputError(
            f"preprocess.split.valid + preprocess.split.test = {valid + test} leaves "
            f"nothing to train on: lower them below 1 together."
        )
    rows = int(ordered.count().execute())
    n_valid, n_test = round(valid * rows), round(test * rows)
    n_train = rows - n_valid - n_test
    for name, n in (("valid", n_valid), ("test", n_test), ("train", n_train)):
        if n == 0:
            raise InputError(
                f"preprocess.split with valid = {valid} and test = {test} leaves no "
                f"{name} interaction of {rows}: change the shares or add interactions."
            )
    split = ibis.cases(
        (_before_row(ordered, n_train), TRAIN),
        (_before_row(ordered, n_train + n_valid), VALID),
        else_=TEST,
    )
    return ordered.mutate(**{SPLIT: split})


def _per_user(
    ordered: ir.Table, pretrain: float, valid: float, test: float
) -> ir.Table:
    _check_shares(valid, test)
    if not (pretrain >= 0 and pretrain + valid + test < 1 - SLACK):
        raise InputError(
            f"preprocess.split with pretrain = {pretrain}, valid = {valid} and test = "
            f"{test} leaves nothing to train on: let the first be at least 0, and their "
            f"sum below 1."
        )
    sizes = ordered.group_by(USER_ID).aggregate(n=(_[POSITION].max() + 1))
    n = _.n.cast("float64")

    def before(share: float) -> ir.BooleanValue:
        return _[POSITION] < (n * _exact(share) + _exact(SLACK)).floor()

    split = ibis.cases(
        (before(pretrain), PRETRAIN),
        (before(1 - test - valid), TRAIN),
        (before(1 - test), VALID),
        else_=TEST,
    )
    found = ordered.inner_join(sizes, USER_ID).mutate(**{SPLIT: split}).drop("n")
    counts = found.group_by(SPLIT).aggregate(n=_.count()).execute()
    wanted = [TRAIN, VALID, TEST] + [PRETRAIN] * (pretrain > 0)
    for name in wanted:
        if name not in set(counts[SPLIT]):
            raise InputError(
                f"preprocess.split with pretrain = {pretrain}, valid = {valid} and test "
                f"= {test} of each user leaves no {name} interaction: change the shares "
                f"or add interactions."
            )
    return found


def _check_shares(valid: float, test: float) -> None:
    for name, share in (("valid", valid), ("test", test)):
        if not 0 < share < 1:
            raise InputError(
                f"preprocess.split.{name} = {share} must lie between 0 and 1."
            )


def _before_row(interactions: ir.Table, row: int) -> ir.BooleanValue:
    """Say which interactions come before row number `row` of all in order of time.

    The bin of the timestamps that holds the row is counted in finer bins until it is
    one moment, so that no engine has to sort more than the ties of that moment.
    """
    columns = (TIMESTAMP, USER_ID, POSITION)
    time, user, position = (interactions[name] for name in columns)
    low, high = -math.inf, math.inf
    bins = interactions.aggregate(n=_.count(), low=time.min(), high=time.max())
    while low < high:
        found = bins.execute()
        ends = found["n"].cumsum()
        place = ends.searchsorted(row, side="right")
        row -= int(ends[place] - found["n"][place])
        low, high = float(found["low"][place]), float(found["high"][place])
        share = (time - _exact(low)) / _exact(high - low)
        bins = (
            interactions.filter(time.between(_exact(low), _exact(high)))
            .group_by(bin=(share * BINS).floor())
            .aggregate(n=_.count(), low=time.min(), high=time.max())
            .order_by("bin")
        )
    place = ibis.row_number().over(order_by=[USER_ID, POSITION])
    ties = interactions.filter(time == _exact(low)).mutate(place=place)
    first = ties.filter(_.place == row).select(USER_ID, POSITION).to_pyarrow()
    ((user_id, cut),) = (tuple(found.values()) for found in first.to_pylist())
    return (time < _exact(low)) | (
        (time == _exact(low))
        & ((user < user_id) | ((user == user_id) & (position < cut)))
    )


def _exact(number: float) -> ir.FloatingScalar:
    """Return a literal; as text, since engines read a number as a decimal, rounded."""
    return ibis.literal(repr(number)).cast("float64")
