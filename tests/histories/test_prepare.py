import datetime

import ibis
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.histories.ids import to_ids
from minirec.histories.prepare import prepare
from minirec.histories.splits import in_order

DAY = datetime.date(1970, 1, 2)

EVENTS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from("wxyz"),
        st.sampled_from([1.0, 4.0, 5.0]),
        st.sampled_from([0.0, 50_000.0, 86_400.0, 100_000.0]),
    ),
    min_size=1,
    max_size=30,
)


def prepared(events, *args):
    columns = ["user_id", "item_id", "rating", "timestamp"]
    core, numbers = prepare(ibis.memtable(pd.DataFrame(events, columns=columns)), *args)
    found = to_ids(in_order(core), numbers).drop("position").execute()
    return sorted(tuple(row) for row in found.to_numpy().tolist())


def naive(events, k, min_rating, since):
    """Sort and look at one event after the other; then drop until nothing changes."""
    first = {}
    for user, item, rating, time in sorted(events, key=lambda event: event[::-1]):
        first.setdefault((user, item), (rating, time))
    rows = {
        (*pair, *told)
        for pair, told in first.items()
        if told[0] >= min_rating and told[1] >= since
    }
    while True:
        users = [row[0] for row in rows]
        items = [row[1] for row in rows]
        stay = {
            row for row in rows if users.count(row[0]) >= k and items.count(row[1]) >= k
        }
        if stay == rows:
            return sorted(rows)
        rows = stay


def test_a_repeat_does_not_take_the_place_of_an_earliest_that_is_filtered():
    events = [("a", "x", 1.0, 1.0), ("a", "x", 5.0, 2.0), ("a", "y", 5.0, 3.0)]
    assert prepared(events, 1, 4) == [("a", "y", 5.0, 3.0)]


def test_items_without_a_title_do_not_count_for_the_core():
    events = [(user, item, 5.0, 1.0) for user in "ab" for item in "xy"]
    items = ibis.memtable({"item_id": ["x", "y"], "title": ["Up", ""]})
    columns = ["user_id", "item_id", "rating", "timestamp"]
    raw = ibis.memtable(pd.DataFrame(events, columns=columns))
    with pytest.raises(InputError, match="k_core = 2 leaves nothing"):
        prepare(raw, 2, items=items)
    core, _ = prepare(raw, 1, items=items)
    assert core.count().execute() == 2


@settings(max_examples=25, deadline=None)
@given(EVENTS, st.integers(1, 2), st.sampled_from([1.0, 4.0]))
def test_it_is_deduplicated_then_filtered_then_cut_to_its_core(events, k, min_rating):
    expected = naive(events, k, min_rating, 86_400.0)
    if not expected:
        with pytest.raises(InputError, match="leave"):
            prepared(events, k, min_rating, DAY)
        return
    assert prepared(events, k, min_rating, DAY) == expected
