import math

import numpy as np

from minirec.ranking.baselines import nearest_to_history_scores, popularity_scores

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
