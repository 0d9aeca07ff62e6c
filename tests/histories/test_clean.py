import datetime
import decimal

import ibis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        "timestamp": ibis.dtype("float64"),
    }
    assert records(table) == [
        {"user_id": "1", "item_id": "7", "rating": 4.0, "timestamp": 9.9},
        {"user_id": "2", "item_id": "7", "rating": 5.0, "timestamp": 3.0},
    ]


def test_ratings_are_null_where_the_source_has_none():
    table = clean_interactions(interactions())
    assert table.rating.type() == ibis.dtype("float64")
    assert table.rating.isnull().all().execute()


@pytest.mark.parametrize(
    "times",
    [
        [0.1, 0.2],
        [0.1 + 0.2, 0.3],
        [-1, 0],
        [decimal.Decimal("1.25"), decimal.Decimal("1.50")],
    ],
)
def test_numbers_are_times_as_they_are(times):
    table = clean_interactions(interactions(timestamp=times)).order_by("user_id")
    assert table.timestamp.execute().tolist() == [float(time) for time in times]


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (datetime.datetime(1970, 1, 2, 0, 0, 1, 900_000), 86_401.9),
        (datetime.datetime(1970, 1, 2, 0, 0, 1, tzinfo=datetime.UTC), 86_401),
        (datetime.datetime(1969, 12, 31, 23, 59, 59, 250_000), -0.75),
        # Seconds since 1970 have 2 ** -22 to spare here, which is a quarter of 1e-6.
        (datetime.datetime(2024, 1, 2, 3, 4, 5, 123_456), 1_704_164_645.123456),
        (datetime.date(1970, 1, 3), 172_800),
    ],
)
def test_times_become_seconds_since_1970(moment, seconds):
    table = clean_interactions(interactions(timestamp=[moment, moment]))
    assert table.timestamp.execute().tolist() == [seconds, seconds]


def test_times_within_a_second_keep_their_order():
    start = datetime.datetime(2024, 1, 2, 3, 4, 5)
    times = [start + datetime.timedelta(microseconds=n) for n in (2, 1)]
    table = clean_interactions(interactions(timestamp=times))
    assert table.order_by("timestamp").user_id.execute().tolist() == ["b", "a"]
    assert table.timestamp.min().execute() == 1_704_164_645.000001


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
    ("timestamps", "n"),
    [
        ([1, None], 1),
        ([1.0, float("nan")], 1),
        ([1.0, float("inf")], 1),
    ],
)
def test_ratings_without_timestamps_are_counted(timestamps, n):
    with pytest.raises(InputError, match=f"{n} of 2 ratings without timestamps"):
        clean_interactions(interactions(timestamp=timestamps))


def cleaned_items(raw, *columns):
    """Clean items that all have interactions."""
    ids = raw.item_id.cast("string") if "item_id" in raw.columns else raw.title
    return clean_items(raw, ids.name("item_id").as_table(), columns)


def test_times_in_the_future_ask_for_their_unit():
    raw = interactions(timestamp=[1_588_687_728, 1_588_687_728_923])
    with pytest.raises(InputError) as error:
        clean_interactions(raw)
    assert str(error.value) == (
        "raw_interactions has 1 of 2 timestamps in the future, such as 1588687728923 "
        "seconds since 1970: drop those rows, or say in what the times are counted "
        "under `columns` of its catalog entry, such as `timestamp: {from: timestamp, "
        "unit: ms}`."
    )


def test_tags_are_no_part_of_titles():
    titles = ["A <b>Big</b>, One<BR/>Day", "I <3 U > me", "<p class='x'> Up</p>"]
    raw = ibis.memtable({"item_id": ["x", "y", "z"], "title": titles})
    found = cleaned_items(raw).order_by("item_id").title.execute()
    assert found.tolist() == ["A Big, One Day", "I <3 U > me", "Up"]


def test_items_without_interactions_are_left_out():
    raw = ibis.memtable({"item_id": [1, 2, 2], "title": ["Up", "Big", "Heat"]})
    interactions = ibis.memtable({"item_id": ["1", "3"]})
    assert clean_items(raw, interactions).title.execute().tolist() == ["Up"]


def test_items_come_in_one_form_one_row_each():
    raw = ibis.memtable(
        {
            "item_id": [2, 1, 1],
            "title": [" Up ", "Big", "Big"],
            "description": ["", "Comedy", None],
            "year": [2009, 1988, None],
        },
        schema={
            **dict.fromkeys(("title", "description"), "string"),
            **dict.fromkeys(("item_id", "year"), "int64"),
        },
    )
    assert records(cleaned_items(raw, "description", "year").fill_null("none")) == [
        {"item_id": "1", "title": "Big", "description": "Comedy", "year": "1988"},
        {"item_id": "2", "title": "Up", "description": "none", "year": "2009"},
    ]


def test_of_several_rows_of_an_item_one_stays_whole():
    raw = ibis.memtable(
        {
            "item_id": ["x", "x", "x", "x"],
            "title": ["A", "A", None, "A"],
            "another": [None, "1990", "0", "1990"],
            "genre": ["a", "z", "a", "z"],
        }
    )
    assert records(cleaned_items(raw, "another", "genre")) == [
        {"item_id": "x", "title": "A", "another": "1990", "genre": "z"}
    ]


def test_columns_that_engines_write_differently_are_refused():
    raw = ibis.memtable({"item_id": ["x"], "title": ["Up"], "price": [1e7]})
    assert cleaned_items(raw).columns == ("item_id", "title")
    with pytest.raises(InputError, match=r"raw_items.price is float64, and should be"):
        cleaned_items(raw, "price")


def test_ratings_that_are_no_numbers_are_null():
    raw = interactions(rating=[float("nan"), 4.0])
    assert clean_interactions(raw).rating.isnull().execute().tolist() == [True, False]


def test_entities_of_space_are_space():
    raw = ibis.memtable(
        {"item_id": ["x", "y"], "title": ["&nbsp;A&#10;B &amp; C", "&#160; "]}
    )
    found = cleaned_items(raw).order_by("item_id").title.to_pyarrow().to_pylist()
    assert found == ["A B &amp; C", None]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("Ab \t\n\r\f\v\x85\xa0\u2009\u3000")), min_size=1)
)
def test_titles_and_descriptions_are_one_line_with_single_spaces(texts):
    ids = [f"{row:03}" for row in range(len(texts))]
    raw = ibis.memtable(
        {"item_id": ids, "title": texts, "description": texts},
        schema=dict.fromkeys(("item_id", "title", "description"), "string"),
    )
    found = cleaned_items(raw, "description").order_by("item_id").to_pyarrow()
    expected = [" ".join(text.split()) or None for text in texts]
    assert found["title"].to_pylist() == expected
    assert found["description"].to_pylist() == expected


def test_titles_that_differ_in_white_space_alone_are_one():
    raw = ibis.memtable(
        {"item_id": ["x", "x"], "title": ["The\nBig  One", "The Big One "]}
    )
    assert cleaned_items(raw).title.execute().tolist() == ["The Big One"]


def test_items_need_no_descriptions():
    raw = ibis.memtable({"item_id": ["x"], "title": ["Up"]})
    table = cleaned_items(raw, "description")
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
        cleaned_items(ibis.memtable(columns))


def test_no_items_are_an_error():
    raw = ibis.memtable({"item_id": ["x"], "title": ["Up"]}).limit(0)
    with pytest.raises(InputError, match="raw_items is empty"):
        cleaned_items(raw)
