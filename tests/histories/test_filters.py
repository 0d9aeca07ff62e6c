import datetime

import ibis
import pytest

from minirec.errors import InputError
from minirec.histories.filters import (
    deduplicate,
    drop_untitled,
    filter_interactions,
)

DAY = 86_400.0


def interactions(*rows):
    columns = ["user_id", "item_id", "rating", "timestamp"]
    return ibis.memtable(
        [dict(zip(columns, row, strict=True)) for row in rows],
        schema=dict(
            zip(columns, ["string", "string", "float64", "float64"], strict=True)
        ),
    )


def rows(table):
    found = table.order_by(table.columns).to_pyarrow().to_pylist()
    return [tuple(row.values()) for row in found]


def test_of_repeated_interactions_the_earliest_stays():
    table = interactions(
        ("a", "x", 1.0, 9.0),
        ("a", "x", 2.0, 5.0),
        ("a", "y", 3.0, 7.0),
        ("b", "x", 4.0, 9.0),
    )
    assert rows(deduplicate(table)) == [
        ("a", "x", 2.0, 5.0),
        ("a", "y", 3.0, 7.0),
        ("b", "x", 4.0, 9.0),
    ]


def test_of_repeats_at_one_time_the_lowest_rating_stays():
    table = interactions(
        ("a", "x", None, 5.0), ("a", "x", 4.0, 5.0), ("a", "x", 3.0, 5.0)
    )
    assert rows(deduplicate(table)) == [("a", "x", 3.0, 5.0)]


def test_without_limits_all_stay():
    table = interactions(("a", "x", None, -1.0), ("a", "y", 1.0, 1e12))
    assert rows(filter_interactions(table)) == rows(table)


def test_ratings_from_the_lowest_on_stay_and_rows_without_one_go():
    table = interactions(
        ("a", "w", 3.5, 1.0),
        ("a", "x", 4.0, 1.0),
        ("a", "y", 5.0, 1.0),
        ("a", "z", None, 1.0),
    )
    found = filter_interactions(table, min_rating=4)
    assert found.order_by("item_id").item_id.execute().tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("since", "until", "stay"),
    [
        ("1970-01-02", None, ["x", "y", "z"]),
        (None, "1970-01-03", ["w", "x", "y"]),
        ("1970-01-02", "1970-01-03", ["x", "y"]),
    ],
)
def test_days_are_from_the_first_to_before_the_last(since, until, stay):
    table = interactions(
        ("a", "w", None, DAY - 0.5),
        ("a", "x", None, DAY),
        ("a", "y", None, 2 * DAY - 0.5),
        ("a", "z", None, 2 * DAY),
    )
    days = [day and datetime.date.fromisoformat(day) for day in (since, until)]
    found = filter_interactions(table, None, *days)
    assert found.order_by("item_id").item_id.execute().tolist() == stay


ITEMS = ibis.memtable(
    {"item_id": [1, 2, 2, 3], "title": ["Up", None, "Big", " "]},
    schema={"item_id": "int64", "title": "string"},
)


def test_interactions_with_untitled_items_go_and_are_counted(caplog):
    table = interactions(
        *(("a", item, None, 1.0) for item in ("1", "2", "3", "4")),
        ("b", "3", None, 1.0),
    )
    assert rows(drop_untitled(table, ITEMS)) == [
        ("a", "1", None, 1.0),
        ("a", "2", None, 1.0),
    ]
    assert "left out 3 of 5 interactions: their items have no title" in caplog.text


def test_ids_that_no_titled_item_has_are_an_error():
    table = interactions(("a", "01", None, 1.0))
    with pytest.raises(InputError, match="no title for any item of raw_interactions"):
        drop_untitled(table, ITEMS)
