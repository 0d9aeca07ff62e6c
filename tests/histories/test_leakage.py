import ibis
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.histories import leakage as module
from minirec.histories.leakage import leakage
from minirec.histories.splits import order_and_split
from minirec.histories.windows import windows


def report(*samples):
    columns = ["user_id", "timestamp", "target_item_id", "history_item_id", "split"]
    table = ibis.memtable(
        [dict(zip(columns, sample, strict=True)) for sample in samples],
        schema={
            **dict.fromkeys(columns, "string"),
            "timestamp": "float64",
            "history_item_id": "array<string>",
        },
    )
    found = leakage(table).order_by("split")
    assert found.columns == (
        "split",
        "samples",
        "seen_targets",
        "early_targets",
        "new_targets",
    )
    return [tuple(row.values()) for row in found.to_pyarrow().to_pylist()]


@pytest.fixture(params=[0, module.LOOKS])
def looks(request, monkeypatch):
    """Both ways to find what training holds."""
    monkeypatch.setattr(module, "LOOKS", request.param)


@pytest.mark.usefixtures("looks")
def test_targets_are_counted_by_split():
    assert report(
        ("a", 2.0, "x", ["w"], "train"),
        ("b", 5.0, "y", ["w"], "train"),
        ("a", 3.0, "z", ["w", "x"], "valid"),  # early, and new
        ("a", 6.0, "x", ["w"], "test"),  # seen as a target
        ("b", 5.0, "w", ["y"], "test"),  # seen in a history
        ("b", 7.0, "x", ["y"], "test"),  # seen by another user alone
    ) == [("test", 3, 2, 0, 0), ("valid", 1, 0, 1, 1)]


def test_without_training_every_target_is_new():
    assert report(("a", 3.0, "z", ["w", "x"], "test")) == [("test", 1, 0, 0, 1)]


@settings(max_examples=10, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abc"), st.sampled_from("tuvwxyz")),
        st.floats(0, 9) | st.integers(0, 2).map(float),  # in baskets
        min_size=8,
    )
)
@pytest.mark.parametrize("ties", ["item_id", "random"])
@pytest.mark.parametrize("method", ["leave_last_out", "time", "per_user"])
def test_our_splits_do_not_leak(method, ties, events):
    rows = [(user, item, time) for (user, item), time in events.items()]
    table = ibis.memtable(
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    )
    samples = windows(order_and_split(table, method, 0.2, 0.2, ties=ties), 2)
    found = leakage(samples).execute()
    assert found["seen_targets"].sum() == 0
    if method == "time":
        assert found["early_targets"].sum() == 0
