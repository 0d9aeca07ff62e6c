import ibis
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.histories.k_core import k_core

PAIRS = st.sets(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), min_size=1
)


def table(pairs):
    return ibis.memtable(pd.DataFrame(sorted(pairs), columns=["user_id", "item_id"]))


def pairs_of(core):
    return set(core.execute().itertuples(index=False, name=None))


def naive_k_core(pairs, k):
    """Drop one user or item with too few pairs at a time, until there is none."""
    while True:
        for place in (0, 1):
            for name in sorted({pair[place] for pair in pairs}):
                of_name = {pair for pair in pairs if pair[place] == name}
                if len(of_name) < k:
                    pairs = pairs - of_name
                    break
            else:
                continue
            break
        else:
            return pairs


def test_dropping_a_user_drops_an_item_and_then_another_user():
    # c has one item; without c, z has one user; without z, b has one item.
    square = {("a", "x"), ("a", "y"), ("d", "x"), ("d", "y")}
    chain = {("b", "x"), ("b", "z"), ("c", "z")}
    assert pairs_of(k_core(table(square | chain), 2)) == square


def test_one_core_keeps_everything():
    pairs = {("a", "x"), ("b", "y")}
    assert pairs_of(k_core(table(pairs), 1)) == pairs


def test_nothing_left_names_the_parameter_and_the_largest_counts():
    star = {("a", "x"), ("a", "y"), ("a", "z"), ("b", "x")}
    message = r"preprocess.k_core = 2 .* user has 3 interactions .* item 2"
    with pytest.raises(InputError, match=message):
        k_core(table(star), 2)


@settings(max_examples=20, deadline=None)
@given(PAIRS, st.integers(1, 3))
def test_the_core_is_the_largest_part_with_k_each(pairs, k):
    expected = naive_k_core(pairs, k)
    if not expected:
        with pytest.raises(InputError):
            k_core(table(pairs), k)
        return
    core = k_core(table(pairs), k)
    assert pairs_of(core) == expected
    found = core.execute()
    assert found.groupby("user_id").size().min() >= k
    assert found.groupby("item_id").size().min() >= k
    assert pairs_of(k_core(core, k)) == expected
