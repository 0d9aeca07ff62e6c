import ibis
import pytest

from minirec.errors import InputError
from minirec.histories.catalogue import catalogue, popularity

INTERACTIONS = ibis.memtable(
    {
        "item_id": ["y", "x", "y", "y", "z"],
        "split": ["train", "train", "train", "test", "valid"],
    }
)


def items(titles, descriptions=None):
    names = sorted(titles)
    return ibis.memtable(
        {
            "item_id": names,
            "title": [titles[name] for name in names],
            "description": [(descriptions or {}).get(name) for name in names],
        },
        schema={"item_id": "string", "title": "string", "description": "string"},
    )


def test_popularity_counts_train_interactions_alone():
    found = popularity(INTERACTIONS).order_by("item_id").execute()
    assert found.to_numpy().tolist() == [["x", 1], ["y", 2], ["z", 0]]


def test_the_catalogue_holds_the_items_with_interactions_in_order():
    titles = {"w": "Alien", "x": "Big", "y": "Up", "z": "Heat"}
    found = catalogue(items(titles, {"y": "Balloons"}), INTERACTIONS).execute()
    assert found.to_dict("list") == {
        "item_id": ["x", "y", "z"],
        "title": ["Big", "Up", "Heat"],
        "text": ["Big", "Up. Balloons", "Heat"],
        "popularity": [1, 2, 0],
    }


def test_the_template_writes_the_text():
    titles = {"x": "Big", "y": "Up", "z": "Heat"}
    template = "{description}: {title}"
    found = catalogue(items(titles, {"y": "Balloons"}), INTERACTIONS, template)
    assert found.execute()["text"].tolist() == ["Big", "Balloons: Up", "Heat"]


@pytest.mark.parametrize("titles", [{"y": "Up"}, {"y": "Up", "x": None, "z": None}])
def test_items_without_a_title_are_named(titles):
    with pytest.raises(InputError, match="no title for 2 of 3 items, such as x, z:"):
        catalogue(items(titles), INTERACTIONS)


def test_five_of_many_untitled_items_are_named():
    many = ibis.memtable({"item_id": list("abcdefg"), "split": ["train"] * 7})
    with pytest.raises(InputError, match="6 of 7 items, such as a, b, c, d, e:"):
        catalogue(items({"g": "Heat"}), many)


def test_where_no_item_is_known_ids_are_in_doubt():
    three = ibis.memtable({"item_id": list("abc"), "split": ["train"] * 3})
    said = "none of the 3 items .*, such as a, b, c: are ids written alike"
    with pytest.raises(InputError, match=said):
        catalogue(items({"z": "Heat"}), three)
    with pytest.raises(InputError, match="no title for 3 of 3 items, such as a, b, c:"):
        catalogue(items(dict.fromkeys("abc")), three)


def test_a_catalogue_of_one_item_is_an_error():
    one = INTERACTIONS.filter(ibis._.item_id == "x")
    with pytest.raises(InputError, match="catalogue of one item"):
        catalogue(items({"x": "Big"}), one)
