import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minirec.errors import InputError
from minirec.ranking.grounding import (
    ground,
    mask_seen,
    popularity_prior,
    target_rank,
    top_items,
)

# Few different scores: ties are common, also among masked items.
score_matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 8)),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5]),
)


def test_scores_are_cosines_plus_the_prior():
    texts = np.array([[0.6, 0.8], [1, 0]])
    items = np.array([[1.0, 0], [0, 1], [-1, 0]])
    scores = ground(texts, items, prior=np.array([0, 0.5, 1]), prior_weight=0.5)
    assert scores.dtype == np.float32
    expected = [[0.6, 0.8 + 0.25, -0.6 + 0.5], [1, 0.25, -0.5]]
    # float32, and scores of about 1
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2**-22)


def test_the_prior_is_the_share_of_the_most_popular():
    # log2 of 1, 2, 4 and 8: 0, 1, 2 and 3 of 3
    np.testing.assert_allclose(
        popularity_prior([0, 1, 3, 4]), [0, 0.25, 0.75, 1], rtol=1e-15
    )
    assert popularity_prior([0, 0]).tolist() == [0, 0]


def test_seen_items_are_masked_but_never_the_target():
    scores = np.arange(8.0).reshape(2, 4)
    seen = [np.array([0, 2]), np.array([], dtype=int)]
    masked = mask_seen(scores, seen, targets=np.array([2, 0]))
    assert masked.tolist() == [[-np.inf, 1, 2, 3], [4, 5, 6, 7]]
    served = mask_seen(scores, seen)  # where no target is known
    assert served.tolist() == [[-np.inf, 1, -np.inf, 3], [4, 5, 6, 7]]
    assert scores[0, 0] == 0


def test_no_rows_no_masks():
    assert mask_seen(np.empty((0, 3)), [], np.array([], dtype=int)).shape == (0, 3)


def test_ties_count_against_the_target():
    scores = np.array([[0.1, 0.9, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    assert target_rank(scores, np.array([2, 0])).tolist() == [2, 3]
    assert target_rank(scores, np.array([1, 3])).tolist() == [0, 3]


def test_top_items_worked_out_by_hand():
    scores = np.array([[0.1, 0.9, 0.5, 0.9], [-np.inf, 0, -np.inf, -np.inf]])
    assert top_items(scores, 3).tolist() == [[1, 3, 2], [1, 0, 2]]
    assert top_items(scores, 9).shape == (2, 4)


@given(score_matrices, st.integers(1, 10))
def test_top_items_are_the_start_of_a_stable_order(scores, k):
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert top_items(scores, k).tolist() == expected.tolist()


@given(score_matrices, st.data())
def test_a_target_ranks_after_all_that_are_not_lower(scores, data):
    columns = st.integers(0, scores.shape[1] - 1)
    n = len(scores)
    targets = data.draw(st.lists(columns, min_size=n, max_size=n))
    expected = [
        sum(other >= row[target] for other in row) - (row[target] > -np.inf)
        for row, target in zip(scores, targets, strict=True)
    ]
    assert target_rank(scores, np.array(targets)).tolist() == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ground(np.ones((1, 2)), np.ones((4, 3)), np.ones(4), 1.0),
            r"shape \(1, 2\) .* \(4, 3\): both must come from the same encoder_model",
        ),
        (
            lambda: ground(np.ones((1, 2)), np.ones((4, 2)), np.ones(3), 1.0),
            r"the prior has shape \(3,\) for 4 items",
        ),
        (lambda: popularity_prior([1, -1]), "popularity in items"),
        (lambda: popularity_prior([1, np.nan]), "popularity in items"),
        (
            lambda: target_rank(np.array([[0, 1], [np.nan, 0]]), np.array([0, 1])),
            "score of item 0 in row 1 is NaN",
        ),
        (lambda: top_items(np.array([[np.nan, 0]]), 1), "score of item 0 in row 0"),
        (lambda: top_items(np.array([[1.0, 0]]), 0), "k is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
