from fractions import Fraction
from itertools import pairwise
from math import floor

import ibis
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.histories.splits import order_and_split

# Whole seconds, and such as engines round when they stand as numbers in a query.
TIMES = [0.0, 1.0, 0.16195407019788421, 0.1 + 0.2, 0.3, 1_700_000_000.123456]

EVENTS = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from("tuvwxyz")),
    st.sampled_from(TIMES) | st.floats(-1e18, 1e18),
    min_size=1,
)


def table(events):
    """Make interactions of {(user, item): timestamp}."""
    rows = [(user, item, time) for (user, item), time in events.items()]
    return ibis.memtable(
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    )


def split(events, method, valid=0.1, test=0.1, pretrain=0.0, ties="item_id"):
    shares = valid, test, pretrain
    found = order_and_split(table(events), method, *shares, ties).execute()
    return found.sort_values(["user_id", "position"], ignore_index=True)


def test_the_last_of_each_user_is_left_out():
    events = {
        **{("a", "w"): 4, ("a", "x"): 1, ("a", "y"): 2, ("a", "z"): 3},
        **{("b", "x"): 8, ("b", "y"): 7},
        **{("c", "x"): 5},
    }
    found = split(events, "leave_last_out")
    assert found[["user_id", "item_id", "position", "split"]].to_numpy().tolist() == [
        ["a", "x", 0, "train"],
        ["a", "y", 1, "train"],
        ["a", "z", 2, "valid"],
        ["a", "w", 3, "test"],
        ["b", "y", 0, "valid"],
        ["b", "x", 1, "test"],
        ["c", "x", 0, "test"],
    ]


def test_equal_times_are_ordered_by_item():
    found = split({("a", "z"): 1, ("a", "x"): 1, ("a", "y"): 1}, "leave_last_out")
    assert found["item_id"].tolist() == ["x", "y", "z"]


def test_equal_times_at_random_are_in_an_order_that_tells_nothing_and_stays():
    items = [f"{number:03}" for number in range(400)]
    events = {(user, item): 1 for user in "ab" for item in items}
    found = split({**events, ("a", "999"): 0}, "leave_last_out", ties="random")
    one, other = (
        history["item_id"].tolist() for _, history in found.groupby("user_id")
    )
    assert one.pop(0) == "999"  # time goes before chance
    assert sorted(one) == sorted(other) == items
    # Neither ids nor another user say what comes next.
    rises = [
        np.mean(np.diff([int(item) for item in both]) > 0) for both in (one, other)
    ]
    assert rises == pytest.approx([0.5, 0.5], abs=0.1)
    places = np.array([[both.index(item) for item in items] for both in (one, other)])
    assert abs(np.corrcoef(places)[0, 1]) < 0.2
    # The order stays, whatever the order of the rows, and whoever else is there.
    mine = {pair: 1 for pair in reversed(events) if pair[0] == "a"}
    again = split(mine, "leave_last_out", ties="random")
    assert again["item_id"].tolist() == one


def test_time_cuts_ties_by_user_and_item():
    # In order: (1 a x), (2 a y), (2 a z), (2 b x), (2 b y): cuts after 2 and 3 rows.
    events = {
        **{("b", "y"): 2, ("b", "x"): 2},
        **{("a", "z"): 2, ("a", "y"): 2, ("a", "x"): 1},
    }
    found = split(events, "time", valid=0.2, test=0.4)
    assert found[["user_id", "item_id", "split"]].to_numpy().tolist() == [
        ["a", "x", "train"],
        ["a", "y", "train"],
        ["a", "z", "valid"],
        ["b", "x", "test"],
        ["b", "y", "test"],
    ]


def test_shares_of_each_user_are_cut_as_if_written_in_decimals():
    # 20 x 0.7, 20 x (1 - 0.05 - 0.15) and 20 x (1 - 0.15): 14, 16 and 17, of which
    # floats make 14.0, 15.999999999999996 and 17.0. User b: 3.5, 4 and 4.25.
    events = {("a", f"{i:02}"): i for i in range(20)}
    events |= {("b", f"{i:02}"): i for i in range(5)}
    found = split(events, "per_user", valid=0.05, test=0.15, pretrain=0.7)
    assert found["split"].tolist() == (
        ["pretrain"] * 14 + ["train"] * 2 + ["valid"] + ["test"] * 3
    ) + ["pretrain"] * 3 + ["train", "test"]


@pytest.mark.parametrize("method", ["leave_last_out", "time"])
def test_other_methods_pretrain_on_nothing(method):
    with pytest.raises(InputError, match=r"split.pretrain is 0.5, .* set it to 0, or"):
        split({("a", "x"): 1}, method, pretrain=0.5)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.1, 0.2, 0.7), "valid = 0.1 and test = 0.2 leaves nothing to train on"),
        ((0.1, 0.2, 0.1), "leaves no pretrain interaction"),
        ((1.5, 0.2, 0.1), r"preprocess.split.valid = 1.5 must lie between 0 and 1"),
    ],
)
def test_shares_of_each_user_that_leave_nothing(shares, message):
    with pytest.raises(InputError, match=message):
        split({("a", item): 1 for item in "stuvx"}, "per_user", *shares)


def test_fractions_of_a_second_come_before_the_item():
    events = {("a", "x"): 0.3, ("a", "y"): 0.2, ("a", "z"): 0.1}
    found = split(events, "leave_last_out")
    assert found["item_id"].tolist() == ["z", "y", "x"]


def test_time_cuts_ties_of_fractions():
    # Both cuts fall among the ties of the later moment.
    late = 0.16195407019788421
    events = {
        **{("a", "w"): 0.16, ("a", "x"): late},
        **{("b", "x"): late, ("b", "y"): late, ("b", "z"): late},
    }
    found = split(events, "time", valid=0.4, test=0.2)
    assert found["split"].tolist() == ["train", "train", "valid", "valid", "test"]


def test_users_of_two_interactions_leave_nothing_to_train_on():
    with pytest.raises(InputError, match=r"preprocess.split.method .* largest has 2"):
        split({("a", "x"): 1, ("a", "y"): 2}, "leave_last_out")


@pytest.mark.parametrize(
    ("valid", "test", "message"),
    [
        (0.0, 0.1, r"preprocess.split.valid = 0.0 must lie between 0 and 1"),
        (0.1, 1.5, r"preprocess.split.test = 1.5 must lie between 0 and 1"),
        (0.5, 0.5, r"preprocess.split.valid \+ preprocess.split.test = 1.0"),
        (0.1, 0.4, r"leaves no valid interaction of 3"),
        (0.4, 0.1, r"leaves no test interaction of 3"),
        (0.49, 0.5, r"leaves no train interaction of 3"),
    ],
)
def test_shares_out_of_range_or_too_small_are_named(valid, test, message):
    events = {("a", "x"): 1, ("a", "y"): 2, ("b", "x"): 3}
    with pytest.raises(InputError, match=message):
        split(events, "time", valid, test)


@settings(max_examples=20, deadline=None)
@given(EVENTS)
def test_leave_last_out_follows_each_user(events):
    lengths = pd.Series([user for user, _ in events]).value_counts()
    if lengths.max() < 3:
        with pytest.raises(InputError):
            split(events, "leave_last_out")
        return
    found = split(events, "leave_last_out")
    assert len(found) == len(events)
    for _, history in found.groupby("user_id"):
        n = len(history)
        assert history["position"].tolist() == list(range(n))
        order = list(zip(history["timestamp"], history["item_id"], strict=True))
        assert order == sorted(order)
        expected = ["train"] * n + ["valid", "test"]
        assert history["split"].tolist() == expected[-n:]


@settings(max_examples=20, deadline=None)
@given(EVENTS, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
@pytest.mark.parametrize(("ties", "last"), [("item_id",) * 2, ("random", "position")])
def test_time_splits_are_exact_and_in_order(ties, last, events, valid, test):
    n = len(events)
    n_valid, n_test = round(valid * n), round(test * n)
    if valid + test >= 1 or 0 in (n_valid, n_test, n - n_valid - n_test):
        with pytest.raises(InputError):
            split(events, "time", valid, test, ties=ties)
        return
    found = split(events, "time", valid, test, ties=ties)
    # As histories have it: of a user no earlier one is in a later split.
    in_order = found.sort_values(["timestamp", "user_id", last])
    expected = ["train"] * (n - n_valid - n_test) + ["valid"] * n_valid
    assert in_order["split"].tolist() == expected + ["test"] * n_test


SHARES = st.integers(1, 30).map(lambda percent: Fraction(percent, 100))


@settings(max_examples=20, deadline=None)
@given(EVENTS, SHARES, SHARES, st.integers(0, 39).map(lambda p: Fraction(p, 100)))
def test_shares_of_each_user_are_exact(events, valid, test, pretrain):
    def of_user(n):
        ends = [pretrain, 1 - valid - test, 1 - test, Fraction(1)]
        cuts = [0, *(floor(share * n) for share in ends)]
        names = ["pretrain", "train", "valid", "test"]
        sizes = [end - start for start, end in pairwise(cuts)]
        return [name for name, k in zip(names, sizes, strict=True) for _ in range(k)]

    lengths = pd.Series([user for user, _ in events]).value_counts().sort_index()
    expected = [name for n in lengths for name in of_user(n)]
    shares = (float(valid), float(test), float(pretrain))
    needed = {"train", "valid", "test"} | ({"pretrain"} if pretrain else set())
    if not needed <= set(expected):
        with pytest.raises(InputError, match="interaction"):
            split(events, "per_user", *shares)
        return
    assert split(events, "per_user", *shares)["split"].tolist() == expected
