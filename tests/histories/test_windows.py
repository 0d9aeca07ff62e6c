import ibis
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.histories.splits import order_and_split
from minirec.histories.windows import draw_pool, seen_items, windows

EVENTS = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from("tuvwxyz")),
    st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.1 + 0.2, 1.0]),
    min_size=8,  # of three users, one then has three interactions or more
)


def interactions(*rows):
    columns = ["user_id", "item_id", "timestamp", "position", "split"]
    return ibis.memtable(pd.DataFrame(rows, columns=columns))


TWO_USERS = interactions(
    ("b", "y", 6, 1, "test"),
    ("b", "z", 5, 0, "valid"),
    ("a", "w", 1, 0, "train"),
    ("a", "x", 2, 1, "train"),
    ("a", "y", 3, 2, "valid"),
    ("a", "z", 4, 3, "test"),
)


def test_each_interaction_but_the_first_is_a_target():
    found = windows(TWO_USERS, 2).order_by("sample_id").execute()
    assert found.to_numpy().tolist() == [
        [0, "a", 1, 2, "x", ["w"], "train"],
        [1, "a", 2, 3, "y", ["w", "x"], "valid"],
        [2, "a", 3, 4, "z", ["x", "y"], "test"],
        [3, "b", 1, 6, "y", ["z"], "test"],
    ]
    assert found.columns.tolist() == [
        "sample_id",
        "user_id",
        "position",
        "timestamp",
        "target_item_id",
        "history_item_id",
        "split",
    ]


@settings(max_examples=20, deadline=None)
@given(EVENTS, st.integers(1, 3), st.sampled_from(["leave_last_out", "time"]))
def test_no_sample_knows_the_future(events, window, method):
    rows = [(user, item, time) for (user, item), time in events.items()]
    raw = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    table = order_and_split(ibis.memtable(raw), method, 0.2, 0.2)
    samples = windows(table, window).order_by("sample_id").execute()

    users = raw["user_id"].nunique()
    assert samples["sample_id"].tolist() == list(range(len(events) - users))

    split_of = {
        (row.user_id, row.item_id): row.split for row in table.execute().itertuples()
    }
    for sample in samples.itertuples():
        mine = [(time, item) for user, item, time in rows if user == sample.user_id]
        target = (sample.timestamp, sample.target_item_id)
        past = [item for time, item in sorted(mine) if (time, item) < target]
        # The last of what came before, whole and in order: nothing from the future.
        assert sample.history_item_id == past[-window:]
        assert sample.position == len(past)
        assert sample.split == split_of[sample.user_id, sample.target_item_id]
        # What is to be guessed in a later split is in no earlier split's sample.
        later = {"train": ("valid", "test"), "valid": ("test",), "test": ()}
        for item in (*sample.history_item_id, sample.target_item_id):
            assert split_of[sample.user_id, item] not in later[sample.split]


def samples(n, split="train"):
    return ibis.memtable(
        {"sample_id": list(range(n, 0, -1)), "split": [split] * n, "tag": ["t"] * n}
    )


def ids(pool):
    return set(pool.sample_id.execute())


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1), st.data())
def test_equal_seeds_draw_equal_samples(n_samples, seed, data):
    n = data.draw(st.integers(1, n_samples))
    drawn = draw_pool(samples(n_samples), "train", n, seed)
    assert drawn.count().execute() == n
    assert ids(drawn) <= set(range(1, n_samples + 1))
    in_another_order = samples(n_samples).order_by("sample_id")
    assert ids(draw_pool(in_another_order, "train", n, seed)) == ids(drawn)
    assert ids(drawn) <= ids(draw_pool(samples(n_samples), "train", n_samples, seed))


def test_other_seeds_draw_other_samples():
    drawn = [ids(draw_pool(samples(1000), "train", 5, seed)) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_only_the_split_is_drawn_and_null_draws_all_of_it():
    both = samples(3).union(samples(2, "test").mutate(sample_id=ibis._.sample_id + 10))
    assert ids(draw_pool(both, "test", None, 0)) == {11, 12}
    assert ids(draw_pool(both, "test", 2, 0)) == {11, 12}


def test_a_draw_of_too_many_names_the_parameter():
    message = r"preprocess.pool.train = 4, but there are only 3 train samples"
    with pytest.raises(InputError, match=message):
        draw_pool(samples(3), "train", 4, 0)


@pytest.mark.parametrize("n", [None, 1])
def test_a_split_without_samples_is_an_error(n):
    with pytest.raises(InputError, match="No sample has a target in the test split"):
        draw_pool(samples(3), "test", n, 0)


def test_seen_is_all_before_the_target():
    pool = windows(TWO_USERS, 1).filter(ibis._.split == "test")
    found = seen_items(pool, TWO_USERS).order_by("sample_id").execute()
    assert found["seen_item_id"].tolist() == [["w", "x", "y"], ["z"]]
    assert found["history_item_id"].tolist() == [["y"], ["z"]]
    assert found["target_item_id"].tolist() == ["z", "y"]
