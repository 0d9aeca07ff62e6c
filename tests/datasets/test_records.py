import csv
import gzip
import json
from datetime import datetime

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io import DatasetError

from minirec.datasets.table import TableDataset

EVENTS = {"user_id": 0, "item_id": 1, "rating": 2, "timestamp": 3}
MINUTE = "2024-01-02 03:04:00"


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a file, reads it and gives its rows and bad ones."""

    def read(content, name="table.csv", **entry):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        rows = TableDataset(filepath=str(path), **entry).load().to_pyarrow().to_pydict()
        table = path.with_name(f"{name}.bad_rows.csv")
        if not table.exists():
            return rows, []
        bad = pd.read_csv(table)
        assert bad.columns.tolist() == ["line", "reason", "text"]
        return rows, bad.to_numpy().tolist()

    return read


def refused(read, *args, **entry):
    """Return what is said of a file that cannot be read, without its folder."""
    with pytest.raises(DatasetError) as error:
        read(*args, **entry)
    return str(error.value).rsplit("/", 1)[-1]


def test_columns_are_text_but_ratings_and_timestamps(read):
    rows, _ = read("user_id,item_id,rating,timestamp,zip\n007,1e3,4,8,02139\n")
    assert rows == {
        "user_id": ["007"],
        "item_id": ["1e3"],
        "rating": [4.0],
        "timestamp": [8.0],
        "zip": ["02139"],
    }


def test_the_wrong_types_of_late_rows_are_found(read):
    content = "user_id,rating\n" + "1,5\n" * 30_000 + "ann,many\n"
    said = refused(read, content)
    assert "1 bad row of 30,001, such as line 30002 (rating 'many' is not" in said


@pytest.mark.parametrize(
    ("moment", "seen"),
    [
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02 03:04:00", MINUTE),
        ("2024-01-02T03:04:00Z", MINUTE),
        ("2024-01-02T05:04:00+02:00", MINUTE),
        ("2024-01-02 03:04:00.000001", f"{MINUTE}.000001"),
    ],
)
def test_dates_and_times_are_read_in_utc(read, moment, seen):
    rows, _ = read(f"timestamp\n{moment}\n")
    assert rows["timestamp"] == [pd.Timestamp(seen)]


def test_milliseconds_become_seconds(read):
    columns = {"timestamp": {"from": "t", "unit": "ms"}}
    rows, _ = read("t\n1588687728923\n", columns=columns)
    assert rows == {"timestamp": [1588687728.923]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    "entry", [{}, {"load_args": {"header": False}, "columns": {"a": 0, "b": 1}}]
)
def test_ends_of_lines_and_byte_order_marks_are_no_part_of_values(
    read, end, mark, entry
):
    lines = ["x,1", "y,2"] if entry else ["a,b", "x,1", "y,2"]
    rows, _ = read(mark + end.join(lines) + end, **entry)
    assert rows == {"a": ["x", "y"], "b": ["1", "2"]}


def test_lines_that_end_in_different_ways_need_to_be_allowed(read):
    content = "a,b\r\nx,1\ny,2\r\n"
    said = refused(read, content)
    assert "or `strict_mode: false` if its lines end in different ways." in said
    rows, _ = read(content, load_args={"strict_mode": False})
    assert rows == {"a": ["x", "y"], "b": ["1", "2"]}


def test_fields_between_two_characters_hold_quotes_and_separators(read):
    rows, _ = read(
        '1::"Great" Cats: a, b | c (1998)::A|B\n2::Ben-Hur:: \n',
        "movies.dat",
        file_format="csv",
        load_args={"sep": "::", "header": False, "quote": ""},
        columns={"item_id": 0, "title": 1},
    )
    assert rows == {
        "item_id": ["1", "2"],
        "title": ['"Great" Cats: a, b | c (1998)', "Ben-Hur"],
    }


def test_columns_of_equal_names_or_of_any_are_told_apart(read):
    content = 'a,a,"user id:token","x ""y"""\n1,2,3,4\n'
    columns = {"a": "a", "b": "user id:token", "c": 'x "y"'}
    rows, _ = read(content, columns=columns)
    assert rows == {"a": ["2"], "b": ["3"], "c": ["4"]}


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=8)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.tuples(text, text), min_size=1, max_size=12))
def test_what_python_writes_is_read_as_it_was(tmp_path_factory, rows):
    """But an empty field of CSV is null, since CSV does not tell the two apart."""
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([("a", "b"), *rows])
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows), "utf-8"
    )
    columns = {"a": "a", "b": "b"}
    for name, empty in (("a.csv", None), ("a.jsonl", "")):
        dataset = TableDataset(filepath=str(folder / name), columns=columns)
        found = dataset.load().to_pyarrow().to_pylist()
        assert [(row["a"], row["b"]) for row in found] == [
            (a or empty, b or empty) for a, b in rows
        ]


def test_records_of_json_become_plain_columns(read):
    records = [
        {
            "asin": "B1",
            "title": "Say \u201chi\u201d 😀",
            "price": 12.5,
            "features": ["Loud.", "Light."],
            "details": {"Brand": "Acme", "Best of": [1, 2]},
        },
        {"asin": 7, "title": None, "price": "from $3", "features": []},
        {"asin": "B3", "features": "One text", "details": {"Brand": None}},
    ]
    rows, _ = read(
        "\n\n".join(map(json.dumps, records)),
        "meta.jsonl",
        columns={
            "item_id": "asin",
            "title": "title",
            "price": "price",
            "features": {"from": "features", "join": " "},
            "brand": "details.Brand",
            "best": "details.Best of",
        },
    )
    assert rows == {
        "item_id": ["B1", "7", "B3"],
        "title": ["Say \u201chi\u201d 😀", None, None],
        "price": ["12.5", "from $3", None],
        "features": ["Loud. Light.", "", "One text"],
        "brand": ["Acme", None, None],
        "best": ["1, 2", None, None],
    }


@pytest.mark.parametrize("name", ["meta.jsonl", "meta.json.gz", "meta.csv.gz", "a.csv"])
def test_compressed_files_are_read_whatever_their_names(read, name):
    form = "csv" if "csv" in name else "json"
    content = "item_id\nB1\n" if form == "csv" else '{"item_id": "B1"}\n'
    columns = {"item_id": "item_id"}
    rows, _ = read(gzip.compress(content.encode()), name, columns=columns)
    assert rows == {"item_id": ["B1"]}


@pytest.mark.parametrize("name", ["ratings.csv.gz", "reviews.jsonl.gz"])
@pytest.mark.parametrize("damage", ["half", "without its end", "a byte in the middle"])
def test_a_damaged_gzip_file_is_refused(read, name, damage):
    numbers = "".join(f"{number * 7919 % 10007}\n" for number in range(10_000))
    whole = gzip.compress(f"item_id\n{numbers}".encode())
    middle = len(whole) // 2
    content = {
        "half": whole[:middle],
        "without its end": whole[:-4],
        "a byte in the middle": whole[:middle] + b"\x00\xff\x00" + whole[middle + 3 :],
    }[damage]
    said = refused(read, content, name, columns={"item_id": "item_id"})
    assert said.startswith(f"{name} is a truncated or damaged gzip file (")
    assert said.endswith("): fetch it again.")


BAD = (
    "user_id,item_id,rating,timestamp\n"
    "ann,a,5,10\n"
    "bob,b,five,11\n"
    "\n"
    "cat,c,4\n"
    'dan,"d",3,12,9\n'
    ",e,,13\n"
    "eve,f,2,\n"
    "fay,g,,14\n"
    'gus," ",1,noon\n'
)
FOUND = [
    [3, "rating 'five' is not a number", "bob,b,five,11"],
    [5, "Expected Number of Columns: 4 Found: 3", "cat,c,4"],
    [6, "Expected Number of Columns: 4 Found: 5", 'dan,"d",3,12,9'],
    [7, "user_id is empty", ",e,,13"],
    [8, "timestamp is empty", "eve,f,2,"],
    [10, "item_id is empty", "gus, ,1,noon"],
]


def test_bad_rows_are_named_by_line_and_column(read):
    assert refused(read, BAD) == (
        "table.csv has 6 bad rows of 8, such as line 3 (rating 'five' is not a "
        "number), line 5 (Expected Number of Columns: 4 Found: 3), line 6 (Expected "
        "Number of Columns: 4 Found: 5): mend them, or say by `load_args` in the catalog "
        "how the file is written, such as `encoding: latin-1` or `sep: ';'`, or leave "
        "them out by `on_bad_rows: drop`."
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bad_rows_are_dropped_and_listed(read, caplog, end):
    rows, bad = read(BAD.replace("\n", end).encode(), on_bad_rows="drop")
    assert rows == {
        "user_id": ["ann", "fay"],
        "item_id": ["a", "g"],
        "rating": [5.0, None],
        "timestamp": [10.0, 14.0],
    }
    assert bad == FOUND
    assert "left out 6 bad rows of 8, listed in" in caplog.text


def test_comments_and_lines_before_the_header_count(read):
    content = "made by hand\n\nuser_id,item_id\n# a comment\nann,a\n\n,b\nbob\n"
    load_args = {"skip": 2, "comment": "#"}
    rows, bad = read(content, on_bad_rows="drop", load_args=load_args)
    assert rows == {"user_id": ["ann"], "item_id": ["a"]}
    assert [(line, reason.split(":")[0]) for line, reason, _ in bad] == [
        (7, "user_id is empty"),
        (8, "Expected Number of Columns"),
    ]


def test_bad_rows_of_a_file_without_a_header(read):
    content = "ann::a::5::10\nbob::b::::11\n::c::1::12\ncat:d:3:13\ndan::d::x::14\n"
    rows, bad = read(
        content,
        "ratings.dat",
        file_format="csv",
        load_args={"sep": "::", "header": False, "quote": ""},
        columns=EVENTS,
        on_bad_rows="drop",
    )
    assert rows["rating"] == [5.0, None]
    assert bad == [
        [3, "user_id is empty", "::c::1::12"],
        [4, "Expected Number of Columns: 4 Found: 1", "cat:d:3:13"],
        [5, "rating 'x' is not a number", "dan::d::x::14"],
    ]


def test_a_short_first_line_does_not_decide_how_many_columns_there_are(read):
    load_args = {"sep": "\t", "header": False}
    entry = {"load_args": load_args, "columns": EVENTS, "on_bad_rows": "drop"}
    rows, bad = read("ann\ta\t5\nbob\tb\t4\t1\ncat\tc\t4\t2\n", **entry)
    assert rows["user_id"] == ["bob", "cat"]
    assert [line for line, *_ in bad] == [1]


def test_bad_lines_of_json_are_dropped_and_listed(read):
    lines = [
        '{"who": "ann", "what": "a", "stars": 5, "when": 1600000000123}',
        '{"who": "bob", "what": "b", "stars": "five", "when": 1}',
        "",
        '{"who": "cat", "what": "c"',
        "[1, 2]",
        '{"who": "dan", "what": "", "stars": null, "when": 2}',
        '{"who": "eve", "what": "e", "stars": "4.5", "when": "3000"}',
    ]
    columns = {
        "user_id": "who",
        "item_id": "what",
        "rating": "stars",
        "timestamp": {"from": "when", "unit": "ms"},
    }
    rows, bad = read(
        "\n".join(lines), "events.jsonl", columns=columns, on_bad_rows="drop"
    )
    assert rows == {
        "user_id": ["ann", "eve"],
        "item_id": ["a", "e"],
        "rating": [5.0, 4.5],
        "timestamp": [1600000000.123, 3.0],
    }
    assert bad == [
        [2, "rating 'five' is not a number", lines[1]],
        [4, "not one JSON object", lines[3]],
        [5, "user_id is empty", lines[4]],
        [6, "item_id is empty", lines[5]],
    ]


def test_bytes_of_another_encoding_are_bad_rows(read):
    content = "item_id,title\n1,Amélie\n2,Up\n,Heat\n3,Über\n,Big\n".encode("latin-1")
    rows, bad = read(content, on_bad_rows="drop")
    assert rows["title"] == ["Up"]
    assert [line for line, *_ in bad] == [2, 4, 5, 6]
    rows, bad = read(content, on_bad_rows="drop", load_args={"encoding": "latin-1"})
    assert rows["title"] == ["Amélie", "Up", "Über"]
    assert [line for line, *_ in bad] == [4, 6]


def test_bad_bytes_among_lines_of_json(read):
    good, empty = b'{"item_id": "B1"}\n', b'{"item_id": ""}\n'
    content = good + b'{"item_id": "\xe9"}\n' + b"\n" + empty + good + empty
    columns = {"item_id": "item_id"}
    rows, bad = read(content, "meta.jsonl", columns=columns, on_bad_rows="drop")
    assert rows == {"item_id": ["B1", "B1"]}
    assert [line for line, *_ in bad] == [2, 4, 6]


def test_a_quote_that_never_ends_costs_its_own_line(read):
    titles = "".join(f'{number},"Title, {number}"\n' for number in range(5_000))
    rows, bad = read(f'item_id,title\n{titles}x,"Up\n', on_bad_rows="drop")
    assert len(rows["title"]) == 5_000
    assert bad == [[5002, "Value with unterminated quote found", 'x,"Up']]


def test_a_quote_that_swallows_lines_is_refused_whatever_is_dropped(read):
    titles = "".join(f"{number},Title {number}\n" for number in range(50_000))
    content = f'item_id,title\na,b\nx,"open\n{titles}'
    said = refused(read, content, on_bad_rows="drop")
    assert (
        "opens a quote in line 3 that is not closed: mend it, or say `quote: ''`"
        in said
    )
    rows, _ = read(content, load_args={"quote": ""})
    assert len(rows["title"]) == 50_002


def test_numbers_are_finite(read):
    _, bad = read("rating\n1\nnan\ninf\n-inf\n", on_bad_rows="drop")
    assert [reason for _, reason, _ in bad] == [
        f"rating '{text}' is not a number" for text in ("nan", "inf", "-inf")
    ]


def test_a_column_without_a_name_is_left_out(read):
    rows, _ = read(",user_id\n0,ann\n")
    assert rows == {"user_id": ["ann"]}


def test_titles_of_events_may_differ(read):
    rows, _ = read("user_id,item_id,title,rating\na,x,Good,1\nb,x,Bad,2\n")
    assert rows["title"] == ["Good", "Bad"]


def test_titles_that_differ_in_form_alone_are_one(read):
    rows, _ = read("item_id,title,rating\nx,<b>Up</b>,1\nx, Up&nbsp;,2\n")
    assert len(rows["title"]) == 2


def test_lines_are_counted_across_what_is_read_at_once(read):
    """DuckDB reads a file of 32 MB in parts."""
    good = "ann,a,a title of some length to fill the file with text\n"
    content = "user_id,item_id,title\n" + (good * 100_000 + "bob\n,b,\n") * 6
    _, bad = read(content, on_bad_rows="drop")
    short = [2 + 100_000 * (i + 1) + 2 * i for i in range(6)]
    assert [line for line, *_ in bad] == sorted([*short, *(i + 1 for i in short)])


def test_a_list_of_dropped_rows_goes_when_the_file_is_mended(read, tmp_path):
    _, bad = read("user_id,item_id\nann,a\nbob\n", on_bad_rows="drop")
    assert len(bad) == 1
    _, bad = read("user_id,item_id\nann,a\nbob,b\n", on_bad_rows="drop")
    assert bad == []
    assert not list(tmp_path.glob("*.bad_rows.csv"))


def test_a_file_of_bad_rows_alone_is_refused_even_so(read):
    said = refused(read, "user_id,item_id\nann\nbob\n", on_bad_rows="drop")
    assert said.startswith("table.csv has 2 bad rows of 2, such as line 2 (")


def test_a_wrong_separator_is_named(read):
    columns = {"user_id": "user", "item_id": "item"}
    assert refused(read, "user;item\nann;a\n", columns=columns) == (
        "table.csv has no column user, item (it has user;item): correct `columns` in "
        "the catalog, or `sep` in its `load_args`."
    )
    said = refused(read, "ann::a::5::10\n", load_args={"header": False}, columns=EVENTS)
    assert "has no column 1, 2, 3 (it has 1 in a line, counted from 0): correct" in said


def test_a_key_that_no_record_has_is_named(read):
    content = '{"asin": "B1", "price": null}\n{"asin": "B2", "title": "Up"}\n'
    columns = {"item_id": "asin", "price": "price", "title": "title", "brand": "brand"}
    assert refused(read, content, "meta.jsonl", columns=columns) == (
        "meta.jsonl has no column brand (its first record has asin, price): correct "
        "`columns` in the catalog."
    )


def test_json_needs_to_know_its_columns(read):
    said = refused(read, '{"asin": "B1"}\n', "meta.jsonl")
    assert said == (
        "meta.jsonl is JSON Lines: name what is to be read by `columns` in the catalog."
    )


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_named(read, content):
    said = refused(read, content)
    assert said == "table.csv is empty: put a file that has rows in its place."


def test_a_header_alone_is_a_table_without_rows(read):
    assert read("user_id,rating\n") == ({"user_id": [], "rating": []}, [])


def test_an_argument_that_the_reader_does_not_know_is_named(read):
    said = refused(read, "item_id\n1\n", load_args={"delimit": ";"})
    assert '(Binder Error: Invalid named parameter "delimit"' in said
    assert "say by `load_args` in the catalog how it is written" in said


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "timestamp '1588687728923' lies in the future: is its unit not s?"),
        (
            {"columns": {"timestamp": {"from": "timestamp", "unit": "ms"}}},
            "timestamp '95886877289230000' lies in the future: is its unit not ms?",
        ),
    ],
)
def test_a_time_in_the_future_asks_for_its_unit(read, entry, reason):
    late = "95886877289230000" if entry else "1588687728923"
    said = refused(read, f"timestamp\n{late}\n1588687\n", **entry)
    assert f"1 bad row of 2, such as line 2 ({reason}): mend them" in said


def test_a_date_in_the_future_is_a_bad_row(read):
    rows, bad = read(
        "timestamp\n2024-01-02\n2424-01-02\n",
        on_bad_rows="drop",
    )
    assert rows == {"timestamp": [pd.Timestamp("2024-01-02")]}
    assert bad == [[3, "timestamp '2424-01-02' lies in the future", "2424-01-02"]]


TWO_TITLES = (
    "item_id,title,year\n"
    "x,Up,2009\n"
    "y,Big,1988\n"
    "x,Heat,1995\n"
    "y, Big  ,1988\n"
    "x,,\n"
    "x,Alien,1979\n"
)


def test_rows_that_give_an_item_another_title_are_bad(read):
    said = refused(read, TWO_TITLES)
    assert (
        "2 bad rows of 6, such as line 4 (item_id 'x' has the title 'Up' above), line "
        "7 (item_id 'x' has the title 'Up' above): mend them" in said
    )


def test_of_two_titles_the_first_stays(read):
    rows, bad = read(TWO_TITLES, on_bad_rows="drop")
    assert rows["item_id"] == ["x", "y", "y", "x"]
    assert rows["title"] == ["Up", "Big", " Big  ", None]
    assert rows["year"] == ["2009", "1988", "1988", None]
    reason = "item_id 'x' has the title 'Up' above"
    assert bad == [[4, reason, "x, Heat, 1995"], [7, reason, "x, Alien, 1979"]]


def test_an_item_that_events_name_again_keeps_its_title(read):
    content = "user_id,item_id,title,timestamp\na,x,Up,1\nb,x,Up,2\n"
    rows, _ = read(content)
    assert rows["title"] == ["Up", "Up"]


def test_times_are_read_by_the_format_that_is_named(read):
    columns = {"timestamp": {"from": "sold", "format": "%d.%m.%Y %H:%M"}}
    text = "sold\n24.03.2024 12:30\n2024-03-24\n01.02.2024 00:00\n"
    rows, bad = read(text, columns=columns, on_bad_rows="drop")
    assert rows == {"timestamp": [datetime(2024, 3, 24, 12, 30), datetime(2024, 2, 1)]}
    said = (
        "timestamp '2024-03-24' is not a date or time as its `format` %d.%m.%Y %H:%M "
        "has it"
    )
    assert bad == [[3, said, "2024-03-24"]]


def test_a_text_that_was_to_be_a_number_of_units_is_told(read):
    columns = {"timestamp": {"from": "sold", "unit": "ms"}}
    said = refused(read, "sold\n2024-03-24\n", columns=columns)
    assert "'2024-03-24' is not a number, as its `unit` ms would have it)" in said


def test_a_form_of_times_that_nobody_knows_asks_for_its_format(read):
    said = refused(read, "timestamp\n24.03.2024\n")
    assert "line 2 (timestamp '24.03.2024' is not a number or an ISO date)" in said
    assert (
        "or by `format` of `timestamp` how its times are, such as `'%d.%m.%Y'`." in said
    )


def test_a_format_is_for_text_files(read):
    columns = {"timestamp": {"from": "sold", "format": "%d.%m.%Y"}}
    said = refused(read, b"", "table.parquet", columns=columns)
    assert said.endswith(
        "table.parquet is parquet: take it out, and write times as times."
    )
