import ibis
import pytest

from minirec.errors import InputError
from minirec.histories.text import item_text, template_columns


def text(template, **values):
    """Write one item of the values."""
    schema = dict.fromkeys(values, "string")
    items = ibis.memtable([values], schema=schema)
    return item_text(items, template).to_pyarrow().to_pylist()[0]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ({"title": "Heat", "year": "1995", "genres": "Crime"}, "Heat (1995). Crime"),
        ({"title": "Heat", "year": None, "genres": "Crime"}, "Heat. Crime"),
        ({"title": "Heat", "year": "1995", "genres": None}, "Heat (1995)"),
        ({"title": "Heat", "year": None, "genres": None}, "Heat"),
        ({"title": None, "year": "1995", "genres": "Crime"}, "(1995). Crime"),
        ({"title": None, "year": None, "genres": "Crime"}, "Crime"),
        ({"title": None, "year": None, "genres": None}, None),
    ],
)
def test_a_null_leaves_nothing_behind(values, written):
    assert text("{title} ({year}). {genres}", **values) == written


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("{a}", "A"),
        ("{b}", None),
        ("{b}{a}", "A"),
        ("Name: {a}; kind: {b}.", "Name: A."),
        ("Kind: {b}; name: {a}.", "name: A."),
        ("- {a}", "- A"),
        ('{a} "{b}"', "A"),
        ('"{a}", {b}', '"A"'),
        ("{a} [{b} ({b})] {a}", "A A"),
        ("{{{a}}}", "{A}"),
        ("{a} and {a}", "A and A"),
    ],
)
def test_what_stands_before_a_column_and_closes_behind_it_belongs_to_it(
    template, written
):
    assert text(template, a="A", b=None) == written


def test_numbers_are_written_too():
    items = ibis.memtable({"title": ["Heat"], "year": [1995]})
    assert item_text(items, "{title}, {year}").execute().tolist() == ["Heat, 1995"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{title", "cannot be read .*: write column names between braces"),
        ("title}", "cannot be read .*: write column names between braces"),
        ("{}", "cannot be read: write"),
        ("{title!r}", "cannot be read: write"),
        ("{title:>9}", "cannot be read: write"),
        ("title", "cannot be read: write"),
        ("", "cannot be read: write"),
        ("{title} {year}", r"names year, but raw_items has title: .* catalog entry"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(template, message):
    with pytest.raises(InputError, match=rf"preprocess.item_text .*{message}"):
        text(template, title="Heat")


def test_the_columns_of_a_template_are_in_its_order():
    assert template_columns(
        "{title} {{a}} ({year}) {description}", ["year", "title"]
    ) == [
        "title",
        "year",
        "description",
    ]
