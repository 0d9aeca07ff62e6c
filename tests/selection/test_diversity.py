import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.selection import diversity
from minirec.selection.diversity import distance_to_earlier, select_diverse


def plain_picks(embeddings, values, k, start=None):
    """Choose as `select_diverse` promises, from every cosine in float64."""
    length = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    unit = embeddings / np.where(length > 0, length, 1)
    picks = [int(np.argmax(values)) if start is None else start]
    distance = np.full(len(values), np.inf)
    while len(picks) < k:
        distance = np.minimum(distance, 1 - unit @ unit[picks[-1]])
        # far above the rounding of a cosine, far below a difference of two here
        low, high = values * (distance - 1e-12), values * (distance + 1e-12)
        tie = high >= np.delete(low, picks).max(initial=0)
        tie[picks] = False
        picks.append(int(np.argmax(tie)))
    return picks


@st.composite
def candidates(draw):
    """Few directions and few values: duplicates, zero rows and ties are common."""
    n, d = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    cells = st.integers(-2, 2)
    rows = draw(
        st.lists(st.lists(cells, min_size=d, max_size=d), min_size=n, max_size=n)
    )
    values = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    k = draw(st.integers(1, n))
    start = draw(st.none() | st.integers(0, n - 1))
    # the smallest numbers there are, and such that a product of two goes beyond them
    size = draw(st.sampled_from([1, 2**-149, 1e-30, 1e30]))
    worth = draw(st.sampled_from([0.25, 5e-324, 1e-310, 1e-302, 1e300]))
    return (
        np.float32(size) * np.array(rows, np.float32),
        worth * np.array(values),
        k,
        start,
    )


def test_picks_worked_out_by_hand():
    # Row 1 is worth more than row 2, but lies beside row 0: 1 - cos is 1 - 0.8 for
    # row 1, 1 for row 2 and 2 for row 3. Keys: 0.9 x 0.2, 0.5 x 1, 0.2 x 2.
    embeddings = np.array([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]])
    values = [1, 0.9, 0.5, 0.2]
    # then row 1 lies at 1 - 0.6 of row 2 and keeps 0.9 x 0.2, row 3 falls to 0.2 x 1
    assert select_diverse(embeddings, values, k=4).tolist() == [0, 2, 3, 1]


def test_distances_to_earlier_rows_worked_out_by_hand():
    rows = np.array([[2.0, 0], [0.8, 0.6], [0, 0], [0, 1], [-1, 0]])
    # cosines with the rows before: 0.8; 0, 0; 0, 0.6, 0; -1, -0.8, 0, 0
    found = distance_to_earlier(rows)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], [0.2, 1, 0.4, 1], rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_the_next_pick_has_the_largest_value_times_distance(monkeypatch, rows):
    monkeypatch.setattr(diversity, "_ROWS", rows)
    rng = np.random.default_rng(0)
    embeddings, values = rng.normal(size=(7, 3)), rng.random(7)
    picks = select_diverse(embeddings, values, 7)
    keys = values[picks] * distance_to_earlier(embeddings[picks])
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for place in range(1, 7):
        nearest = 1 - (units @ units[picks[:place]].T).max(axis=1)
        # a few roundings of float64 apart
        assert keys[place] == pytest.approx((values * nearest).max(), rel=1e-12)


def test_start_replaces_the_largest_value():
    embeddings = np.array([[1.0, 0], [0.8, 0.6], [0, 1]])
    assert select_diverse(embeddings, [1, 0.9, 0.5], 3, start=2).tolist() == [2, 0, 1]


def test_ties_go_to_the_lowest_row():
    embeddings = np.array([[0.0, 2], [1, 0], [3, 0], [0, 1], [-1, 0]])
    values = [0.5, 0.5, 1, 0.5, 0.25]
    # of rows 0, 3 (distance 1) and 4 (0.25 x 2) all have key 0.5
    assert select_diverse(embeddings, values, 3).tolist() == [2, 0, 4]


def test_what_is_left_without_a_key_comes_in_order_of_rows():
    # row 3 is the only one unlike row 2; the rest are copies of one or worth nothing
    embeddings = np.array([[1.0, 1], [0, 1], [1, 1], [1, 0], [2, 2]])
    values = [0.3, 0, 1, 0.1, 0.9]
    assert select_diverse(embeddings, values, 5).tolist() == [2, 3, 0, 1, 4]


def test_a_tiny_value_is_not_a_tie():
    embeddings = np.eye(4)
    assert select_diverse(embeddings, [1, 1e-300, 3e-300, 2e-300], 4).tolist() == (
        [0, 2, 3, 1]
    )


def test_a_row_of_zeros_is_unlike_every_other():
    embeddings = np.array([[1.0, 0], [0, 0], [1, 0.1], [0, 0]])
    assert select_diverse(embeddings, [1, 0.5, 0.9, 0.4], 4).tolist() == [0, 1, 3, 2]


def test_samples_worth_nothing_come_last():
    values = [0, 0, 0.25, 0.25, 0.25]
    assert select_diverse(np.zeros((5, 2)), values, 4).tolist() == [2, 3, 4, 0]


@given(candidates())
def test_picks_are_those_of_the_plain_algorithm(candidate):
    embeddings, values, k, start = candidate
    expected = plain_picks(embeddings, values, k, start)
    assert select_diverse(embeddings, values, k, start).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(candidates(), st.lists(st.integers(1, 8), min_size=5, max_size=5))
def test_sizes_of_parts_change_no_pick(candidate, sizes):
    embeddings, values, k, start = candidate
    expected = plain_picks(embeddings, values, k, start)
    names = ("_BLOCK", "_ROWS", "_PICKS", "_POOL", "_SLICE")
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(names, sizes, strict=True):
            patch.setattr(diversity, name, size)
        assert select_diverse(embeddings, values, k, start).tolist() == expected


def test_float32_decides_nothing_that_it_cannot_tell():
    # Rows lie at about 0.44 from one another, and at less than 0.25 from row 0, where
    # they differ by 1e-9: float32 takes them for equal or in the wrong order.
    cosine = 0.75 + 1e-9 * np.random.default_rng(0).permutation(300)
    embeddings = np.eye(301)
    embeddings[1:] *= np.sqrt(1 - cosine**2)[:, None]
    embeddings[1:, 0] = cosine
    picks = select_diverse(embeddings, np.r_[2, np.ones(300)], 100)
    assert picks.tolist() == [0, *1 + np.argsort(cosine)[:99]]


def test_a_tie_of_more_rows_than_are_looked_at_together(monkeypatch):
    monkeypatch.setattr(diversity, "_POOL", 64)
    embeddings = np.zeros((500, 8), np.float32)
    embeddings[400:] = np.eye(8)[np.arange(100) % 8]
    values = np.r_[np.full(499, 0.5), 1]
    # All are orthogonal, until copies alone are left: rows 407 on, of row 499 (which
    # is of the kind of row 403) and of rows 400 to 406.
    expected = [499, *range(403), *range(404, 408), 403, *range(408, 499)]
    assert select_diverse(embeddings, values, 500).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_picks_among_a_thousand(dtype):
    rng = np.random.default_rng(0)
    # clusters, so that distances differ widely
    centres = rng.normal(size=(20, 16))
    embeddings = centres[rng.integers(20, size=1000)] + 0.3 * rng.normal(
        size=(1000, 16)
    )
    embeddings, values = embeddings.astype(dtype), rng.random(1000)
    picks = select_diverse(embeddings, values, 300)
    assert picks.tolist() == plain_picks(embeddings, values, 300)
    assert select_diverse(embeddings, values, 50).tolist() == picks[:50].tolist()


def test_all_rows_are_chosen_once():
    embeddings = np.random.default_rng(1).normal(size=(40, 3))
    picks = select_diverse(embeddings, np.ones(40), 40)
    assert sorted(picks) == list(range(40))


def test_a_read_only_memory_map_is_never_copied_whole(tmp_path, monkeypatch):
    path = tmp_path / "embeddings.npy"
    rng = np.random.default_rng(0)
    np.save(path, rng.standard_normal((20_000, 256), dtype=np.float32))
    embeddings, values = np.load(path, mmap_mode="r"), rng.random(20_000)
    monkeypatch.setattr(diversity, "_BLOCK", 100 * 256)
    tracemalloc.start()
    select_diverse(embeddings, values, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < embeddings.nbytes / 2


@pytest.mark.parametrize(
    ("values", "k", "start", "message"),
    [
        ([1, 1], 0, None, "select.size is 0"),
        ([1, 1], 3, None, "select.size is 3, more than there are candidates"),
        ([1, -0.5], 1, None, "values holds -0.5 at row 1"),
        ([1, np.nan], 1, None, "values holds nan at row 1"),
        ([1, 1, 1], 1, None, r"embeddings has shape \(2, 2\) and values \(3,\)"),
        ([1, 1], 1, 2, "start is 2 for 2 candidates"),
        ([1, 1], 1, -1, "start is -1 for 2 candidates"),
    ],
)
def test_bad_input_is_named(values, k, start, message):
    with pytest.raises(InputError, match=message):
        select_diverse(np.eye(2), values, k, start)


def test_an_embedding_that_is_not_finite_is_named():
    with pytest.raises(InputError, match="embeddings is not finite at row 1"):
        select_diverse(np.array([[1.0, 0], [np.nan, 1]]), [1, 1], 1)
