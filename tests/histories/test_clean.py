import datetime

import ibis
import pytest

from minirec.errors import InputError
from minirec.histories.clean import clean_interactions, clean_items


def interactions(**columns):
    base = {"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [1, 2]}
    return ibis.memtable({**base, **columns})


def records(table):
    return table.order_by(table.columns).execute().to_dict("records")


def test_interactions_come_in_one_form():
    raw = interactions(
        user_id=[1, 2], item_id=[7, 7], rating=[4, 5], timestamp=[9.9, 3.0]
    )
    table = clean_interactions(raw)
    assert dict(table.schema()) == {
        "user_id": ibis.dtype("string"),
        "item_id": ibis.dtype("string"),
        "rating": ibis.dtype("float64"),
        "timestamp": ibis.dtype("int64"),
    }
    assert records(table) == [
        {"user_id": "1", "item_id": "7", "rating": 4.0, "timestamp": 9},
        {"user_id": "2", "item_id": "7", "rating": 5.0, "timestamp": 3},
    ]


def test_ratings_are_null_where_the_source_has_none():
    table = clean_interactions(interactions())
    assert table.rating.type() == ibis.dtype("float64")
    assert table.rating.isnull().all().execute()


@pytest.mark.parametrize(
    "moment",
    [
        datetime.datetime(1970, 1, 2, 0, 0, 1, 900_000),
        datetime.datetime(1970, 1, 2, 0, 0, 1, tzinfo=datetime.UTC),
    ],
)
def test_times_become_whole_seconds(moment):
    table = clean_interactions(interactions(timestamp=[moment, moment]))
    assert table.timestamp.execute().tolist() == [86_401, 86_401]


def test_dates_become_seconds_of_their_midnight():
    day = datetime.date(1970, 1, 3)
    table = clean_interactions(interactions(timestamp=[day, day]))
    assert table.timestamp.execute().tolist() == [172_800, 172_800]


def test_of_repeated_interactions_the_earliest_stays():
    raw = ibis.memtable(
        {
            "user_id": ["a", "a", "a", "b"],
            "item_id": ["x", "x", "y", "x"],
            "rating": [1.0, 2.0, 3.0, 4.0],
            "timestamp": [9, 5, 7, 9],
        }
    )
    assert records(clean_interactions(raw)) == [
        {"user_id": "a", "item_id": "x", "rating": 2.0, "timestamp": 5},
        {"user_id": "a", "item_id": "y", "rating": 3.0, "timestamp": 7},
        {"user_id": "b", "item_id": "x", "rating": 4.0, "timestamp": 9},
    ]


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_a_missing_column_is_named_with_those_there(column):
    raw = interactions().drop(column)
    there = ", ".join(raw.columns)
    with pytest.raises(InputError, match=rf"no column {column} \(it has {there}\)"):
        clean_interactions(raw)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1.5, 2.0]}, r"raw_interactions.user_id is float64"),
        ({"item_id": [True, False]}, r"raw_interactions.item_id is boolean"),
        ({"rating": ["good", "bad"]}, r"raw_interactions.rating is string"),
        ({"timestamp": ["noon", "now"]}, r"raw_interactions.timestamp is string"),
    ],
)
def test_a_mistyped_column_is_named_with_its_type(columns, message):
    with pytest.raises(InputError, match=message):
        clean_interactions(interactions(**columns))


def test_an_empty_table_is_an_error():
    raw = interactions().limit(0)
    with pytest.raises(InputError, match="raw_interactions is empty"):
        clean_interactions(raw)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("user_id", ["a", None]),
        ("user_id", [1, None]),
        ("item_id", ["x", None]),
        ("item_id", ["x", " "]),
    ],
)
def test_a_null_id_is_counted(column, values):
    with pytest.raises(InputError, match=f"{column} is null in 1 rows"):
        clean_interactions(interactions(**{column: values}))


@pytest.mark.parametrize(
    ("timestamps", "n"),
    [
        ([1, None], 1),
        ([1.0, float("nan")], 1),
        ([1.0, float("inf")], 1),
        (["", None], 2),
    ],
)
def test_ratings_without_timestamps_are_counted(timestamps, n):
    with pytest.raises(InputError, match=f"{n} of 2 ratings without timestamps"):
        clean_interactions(interactions(timestamp=timestamps))


def test_items_come_in_one_form_one_row_each():
    raw = ibis.memtable(
        {
            "item_id": [2, 1, 1],
            "title": [" Up ", "Big", "Big"],
            "description": ["", "Comedy", None],
            "year": [2009, 1988, 1988],
        }
    )
    assert records(clean_items(raw).fill_null("none")) == [
        {"item_id": "1", "title": "Big", "description": "Comedy"},
        {"item_id": "2", "title": "Up", "description": "none"},
    ]


def test_items_need_no_descriptions():
    table = clean_items(ibis.memtable({"item_id": ["x"], "title": ["Up"]}))
    assert table.description.type() == ibis.dtype("string")
    assert table.description.isnull().all().execute()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["x"]}, r"raw_items has no column title \(it has item_id\)"),
        ({"title": ["Up"]}, r"raw_items has no column item_id \(it has title\)"),
        ({"item_id": [None, "x"], "title": ["Up", "Big"]}, "item_id is null in 1 rows"),
        ({"item_id": [1.0], "title": ["Up"]}, "raw_items.item_id is float64"),
        (
            {"item_id": ["x", "x", "y"], "title": ["Up", "Big", "Up"]},
            "raw_items gives 1 item ids several titles, such as x:",
        ),
    ],
)
def test_bad_items_are_named(columns, message):
    with pytest.raises(InputError, match=message):
        clean_items(ibis.memtable(columns))


def test_no_items_are_an_error():
    raw = ibis.memtable({"item_id": ["x"], "title": ["Up"]}).limit(0)
    with pytest.raises(InputError, match="raw_items is empty"):
        clean_items(raw)
