import ibis
import pytest

from minirec.errors import InputError
from minirec.histories.ids import number_ids, to_ids, to_numbers


def interactions(*pairs):
    users, items = zip(*pairs, strict=True)
    columns = {"user_id": users, "item_id": items, "position": range(len(pairs))}
    return ibis.memtable(
        {name: list(values) for name, values in columns.items()},
        schema={"user_id": "string", "item_id": "string", "position": "int64"},
    )


def rows(table):
    return table.order_by("position").execute().to_numpy().tolist()


def test_numbers_are_in_the_order_of_the_ids():
    numbers = number_ids(interactions(("b", "x"), ("a", "10"), ("B", "9")), 1)
    users, items = (numbers[column].execute() for column in ("user_id", "item_id"))
    assert dict(users.to_numpy().tolist()) == {"B": 0, "a": 1, "b": 2}
    assert dict(items.to_numpy().tolist()) == {"10": 0, "9": 1, "x": 2}


def test_who_occurs_too_seldom_gets_no_number_and_loses_the_rows():
    table = interactions(("a", "x"), ("a", "y"), ("b", "x"), ("a", "x"))
    numbers = number_ids(table, 2)
    numbered = to_numbers(table, numbers)
    assert dict(numbered.schema()) == {
        "user_id": ibis.dtype("int32"),
        "item_id": ibis.dtype("int32"),
        "position": ibis.dtype("int64"),
    }
    assert rows(numbered) == [[0, 0, 0], [0, 0, 3]]
    assert rows(to_ids(numbered, numbers)) == [["a", "x", 0], ["a", "x", 3]]


def test_numbers_become_the_ids_that_they_were_in_order():
    table = interactions(("b", "x"), ("b", "y"), ("a", "y"))
    numbers = number_ids(table, 1)
    found = to_ids(to_numbers(table, numbers), numbers).execute()
    assert found.to_numpy().tolist() == [["a", "y", 2], ["b", "x", 0], ["b", "y", 1]]


@pytest.mark.parametrize("void", [None, "", " ", "\t\n"])
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_rows_without_an_id_are_counted(column, void):
    pairs = [(void, "x"), ("a", "x"), (void, "x"), ("a", "x")]
    if column == "item_id":
        pairs = [(item, user) for user, item in pairs]
    with pytest.raises(
        InputError, match=f"raw_interactions.{column} is null in 2 rows"
    ):
        number_ids(interactions(*pairs), 2)


@pytest.mark.parametrize("id_", ["!", " a", "\u00a0b"])
def test_an_id_of_more_than_white_space_is_one(id_):
    numbers = number_ids(interactions((id_, "x")), 1)
    assert numbers["user_id"].user_id.execute().tolist() == [id_]


def test_too_few_interactions_name_the_parameter_and_the_most_there_are():
    table = interactions(("a", "x"), ("a", "y"), ("b", "x"))
    message = r"preprocess.k_core = 3 leaves nothing: no user_id has more than 2"
    with pytest.raises(InputError, match=message):
        number_ids(table, 3)


def test_no_interactions_name_the_filters():
    table = interactions(("a", "x")).limit(0)
    message = "preprocess.filter leaves no interactions"
    with pytest.raises(InputError, match=message):
        number_ids(table, 1)
