import ibis
import pytest
from kedro.io import DatasetError

from minirec.datasets.column_map import column_map, in_seconds, missing, select


@pytest.fixture
def products():
    """Products as a file of Parquet may hold them: with lists and nested columns."""
    types = {
        "asin": "string",
        "features": "array<string>",
        "sizes": "array<int64>",
        "details": "struct<brand: string, made: struct<year: int64>>",
        "sold": "int64",
    }
    rows = [
        {
            "asin": "B1",
            "features": ["Loud.", "Light."],
            "sizes": [1, 2],
            "details": {"brand": "Acme", "made": {"year": 1999}},
            "sold": 1_600_000_000_123,
        },
        {"asin": "B2", "features": [], "sizes": None, "details": None, "sold": None},
    ]
    return ibis.memtable(rows, schema=types)


def test_lists_become_one_text(products):
    columns = column_map({"a": "features", "b": {"from": "sizes", "join": " | "}})
    assert select(products, columns).to_pyarrow().to_pydict() == {
        "a": ["Loud., Light.", ""],
        "b": ["1 | 2", None],
    }


def test_nested_columns_are_named_by_their_path(products):
    columns = column_map({"brand": "details.brand", "year": "details.made.year"})
    assert select(products, columns).to_pyarrow().to_pydict() == {
        "brand": ["Acme", None],
        "year": [1999, None],
    }


def test_a_column_whose_name_has_a_dot_is_not_nested():
    table = ibis.memtable({"a.b": [1]})
    assert select(table, column_map({"c": "a.b"})).columns == ("c",)


def test_columns_that_are_not_there_are_found(products):
    columns = column_map(
        {"a": "asin", "b": "price", "c": "details.colour", "d": "asin.x"}
    )
    assert missing(products, columns) == ["price", "details.colour", "asin.x"]


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [
        ("s", 1_600_000_000_123.0),
        ("ms", 1_600_000_000.123),
        ("us", 1_600_000.000123),
        ("ns", 1_600.000000123),
    ],
)
def test_a_unit_becomes_seconds(products, unit, seconds):
    columns = column_map({"timestamp": {"from": "sold", "unit": unit}})
    table = in_seconds(select(products, columns), columns)
    assert table.to_pyarrow().to_pydict() == {"timestamp": [seconds, None]}


def test_without_a_unit_a_timestamp_stays_as_it_is(products):
    columns = column_map({"timestamp": "sold", "item_id": "asin"})
    table = select(products, columns)
    assert in_seconds(table, columns) is table


def test_a_unit_of_what_is_no_number_is_refused(products):
    columns = column_map({"timestamp": {"from": "asin", "unit": "ms"}})
    with pytest.raises(
        DatasetError, match=r"unit is ms, but the column is string: take"
    ):
        in_seconds(select(products, columns), columns)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"a": {"form": "x"}}, r"^columns\.a\.from is missing: write"),
        ({"a": {"from": "x", "sep": ","}}, r"^columns\.a\.sep is unknown \(given"),
        ({"a": ["x"]}, r"^columns\.a\.from should be a valid string \(given"),
        (
            {"timestamp": {"from": "x", "unit": "h"}},
            r"^columns\.timestamp\.unit should be 's', 'ms', 'us' or 'ns' "
            r"\(given 'h'\): write",
        ),
        (
            {"rating": {"from": "x", "unit": "ms"}},
            r"^columns\.rating\.unit: only `timestamp` has one",
        ),
        (
            {"timestamp": {"from": "x", "format": "DD.MM.YYYY"}},
            r"^columns\.timestamp\.format is 'DD.MM.YYYY': write it in the words of st",
        ),
        (
            {"rating": {"from": "x", "format": "%d"}},
            r"^columns\.rating\.format: only `timestamp` has one: take it out$",
        ),
        (
            {"time_stamp": {"from": "x", "format": "%d"}},
            r"has one: did you mean timestamp\? Or take it out$",
        ),
        (
            {"timestamp": {"from": "x", "unit": "s", "format": "%d"}},
            r"^columns\.timestamp has a unit, .* and a format",
        ),
    ],
)
def test_a_map_that_cannot_be_read_is_refused(given, sentence):
    with pytest.raises(DatasetError, match=sentence):
        column_map(given)
