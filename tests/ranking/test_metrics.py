import math

import numpy as np
import pytest

from minirec.errors import InputError
from minirec.ranking.metrics import hit_ratio, ndcg

METRICS = [hit_ratio, ndcg]


def test_hits_end_at_the_cut_off():
    assert hit_ratio(np.array([0, 1, 2, 9]), k=2).tolist() == [1, 1, 0, 0]


def test_ndcg_worked_out_by_hand():
    # 1 / log2(2), 1 / log2(3), 1 / log2(4), and past the cut-off
    expected = [1, 1 / math.log2(3), 0.5, 0]
    assert ndcg([0, 1, 2, 3], k=3).tolist() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_a_number_gives_a_number(metric):
    assert metric(0, k=1) == 1.0
    assert isinstance(metric(0, k=1), float)


@pytest.mark.parametrize("metric", METRICS)
def test_no_ranks_no_values(metric):
    assert metric(np.array([], dtype=int), k=10).shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("rank", "k", "message"), [([0, -1], 10, "rank holds -1"), ([0], 0, "k is 0")]
)
def test_bad_input_is_named(metric, rank, k, message):
    with pytest.raises(InputError, match=message):
        metric(rank, k)
