import math

import numpy as np
import pytest

from minirec.errors import InputError
from minirec.ranking.baselines import (
    item_knn_scores,
    item_similarity,
    nearest_to_history_scores,
    popularity_scores,
)
from minirec.ranking.grounding import top_items

ITEMS = np.array([[1.0, 0], [0, 1], [-1, 0]], dtype=np.float32)
PRIOR = np.array([0, 0.5, 1])


def test_popularity_scores_every_user_alike():
    assert popularity_scores(PRIOR, n=3).tolist() == [[0, 0.5, 1]] * 3


def test_nearness_is_to_the_mean_of_the_history_at_unit_length():
    histories = [np.array([0, 1]), np.array([0, 0, 1]), np.array([2])]
    scores = nearest_to_history_scores(histories, ITEMS, PRIOR, prior_weight=0.5)
    half, fifth = 1 / math.sqrt(2), 1 / math.sqrt(5)
    expected = [
        [half, half + 0.25, -half + 0.5],
        [2 * fifth, fifth + 0.25, -2 * fifth + 0.5],
        [-1, 0.25, 1.5],
    ]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2**-22)


def test_a_history_without_direction_leaves_the_prior():
    histories = [np.array([], dtype=int), np.array([0, 2])]
    scores = nearest_to_history_scores(histories, ITEMS, PRIOR, prior_weight=0.5)
    assert scores.tolist() == [[0, 0.25, 0.5]] * 2


# Users 0 to 3 by items 0 to 3: item 0 has users 0, 1, 2 and 3, item 1 has 0 and 1, item
# 2 has 1, item 3 nobody. User 1 chose item 1 twice.
USERS = np.array([1, 0, 0, 1, 1, 1, 2, 3])
CHOSEN = np.array([1, 0, 1, 0, 1, 2, 0, 0])
COSINES = [
    [0, 2 / math.sqrt(8), 1 / 2, 0],
    [2 / math.sqrt(8), 0, 1 / math.sqrt(2), 0],
    [1 / 2, 1 / math.sqrt(2), 0, 0],
    [0, 0, 0, 0],
]


def test_similarity_is_the_cosine_of_the_users():
    similarity = item_similarity(USERS, CHOSEN, n_items=4, neighbours=3)
    assert similarity.dtype == np.float32
    assert similarity.nnz == 6
    np.testing.assert_allclose(similarity.toarray(), COSINES, rtol=1e-6)


def test_each_item_keeps_its_nearest_and_of_equal_ones_the_first():
    similarity = item_similarity(USERS, CHOSEN, n_items=4, neighbours=1)
    # item 1 is as near to item 0 as to item 2
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = expected[2, 1] = 1 / math.sqrt(2)
    np.testing.assert_allclose(similarity.toarray(), expected, rtol=1e-6)


def test_a_history_scores_the_neighbours_of_its_items_once_each():
    similarity = item_similarity(USERS, CHOSEN, n_items=4, neighbours=3)
    histories = [np.array([0, 2, 0]), np.array([1]), np.array([], int), np.array([3])]
    scores = item_knn_scores(histories, similarity, np.zeros(4))
    half = 1 / math.sqrt(2)
    expected = [[0.5, 2 * half, 0.5, 0], [half, 0, half, 0], [0] * 4, [0] * 4]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_items_that_are_no_neighbours_follow_by_popularity():
    similarity = item_similarity(USERS, CHOSEN, n_items=4, neighbours=3)
    prior = np.array([0.25, 0.5, 0.75, 1.0])
    # the smallest similarity is a half
    scores = item_knn_scores([np.array([0]), np.array([], int)], similarity, prior)
    neighbours = [1 / math.sqrt(2), 0.5]
    expected = [[0.25 / 4, *neighbours, 1 / 4], prior / 4]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    nobody = item_similarity([], [], n_items=4, neighbours=3)
    scores = item_knn_scores([np.array([0])], nobody, prior)
    assert top_items(scores, 4).tolist() == [[3, 2, 1, 0]]


def test_item_knn_is_the_dense_computation():
    rng = np.random.default_rng(0)
    chosen = rng.random((60, 600)) < 0.05  # more items than a block of rows has
    users, items = np.nonzero(chosen)
    similarity = item_similarity(users, items, n_items=600, neighbours=7)

    length = np.sqrt(chosen.sum(axis=0))
    products = chosen.T.astype(float) @ chosen
    cosine = products / np.where(length > 0, length, 1) / np.maximum(length, 1)[:, None]
    np.fill_diagonal(cosine, 0)
    order = np.argsort(-cosine.astype(np.float32), axis=1, kind="stable")[:, :7]
    dense = np.zeros_like(cosine)
    np.put_along_axis(dense, order, np.take_along_axis(cosine, order, 1), 1)

    found = similarity.toarray()
    np.testing.assert_allclose(found, dense, rtol=1e-6)
    histories = [rng.integers(600, size=9) for _ in range(5)]
    held = np.zeros((5, 600))
    for row, columns in enumerate(histories):
        held[row, columns] = 1
    np.testing.assert_allclose(
        item_knn_scores(histories, similarity, np.zeros(600)),
        held @ dense,
        rtol=1e-5,
    )


def test_no_interactions_and_no_histories_give_no_scores():
    similarity = item_similarity([], [], n_items=3, neighbours=2)
    assert similarity.shape == (3, 3)
    assert similarity.nnz == 0
    assert item_knn_scores([], similarity, np.zeros(3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("users", "items", "neighbours", "message"),
    [
        ([0, 1], [0], 1, r"users have shape \(2,\) and items \(1,\)"),
        ([0, 1], [0, 3], 1, "items reach from 0 to 3: number both from 0"),
        ([-1, 1], [0, 2], 1, "users begin with -1"),
        ([0, 1], [0, -1], 1, "items reach from -1 to 0"),
        ([0, 1], [0, 1], 0, "neighbours is 0: keep at least 1"),
    ],
)
def test_interactions_that_cannot_be_are_refused(users, items, neighbours, message):
    with pytest.raises(InputError, match=message):
        item_similarity(users, items, n_items=3, neighbours=neighbours)
