import math
import sys
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest

from minirec.errors import InputError
from minirec.ranking.rewards import ndcg_and_probability, reads_items, weighted_sum


def test_rewards_worked_out_by_hand():
    # at temperature 0.02, scores 0.02 log(n) have odds n
    scores = 0.02 * np.log([[3.0, 1, 4], [1, 2, 1]])
    reward = ndcg_and_probability(np.array([0, 2]), scores, np.array([2, 0]))
    # probabilities 4/8 and 1/4; NDCG 1 and 1 / log2(4)
    expected = [0.95 + 0.05 * 4 / 8, 0.95 * 0.5 + 0.05 / 4]
    assert reward == pytest.approx(expected, rel=1e-14)


def test_masked_items_have_no_probability():
    scores = np.array([[0.0, -np.inf, 0.0]], dtype=np.float32)
    reward = ndcg_and_probability(np.array([1]), scores, np.array([0]))
    assert reward == pytest.approx([0.95 / math.log2(3) + 0.05 / 2], rel=1e-14)


def test_beyond_the_first_thousand_only_the_probability_is_left():
    scores = np.zeros((2, 2000))
    reward = ndcg_and_probability(np.array([999, 1000]), scores, np.array([0, 0]))
    chance = 0.05 / 2000
    expected = [0.95 / math.log2(1001) + chance, chance]
    assert reward == pytest.approx(expected, rel=1e-12)


def test_high_scores_do_not_overflow():
    scores = np.array([[1e4, 0.0]])
    assert ndcg_and_probability(np.array([0]), scores, np.array([0])).tolist() == [1.0]


@pytest.mark.parametrize(
    "row", [[0.1, np.nan], [-np.inf, -np.inf], [0.1, np.inf]], ids=str
)
def test_scores_without_a_highest_are_named(row):
    scores = np.array([[0.1, 0.2], row])
    with pytest.raises(InputError, match="the scores of row 1 have no highest"):
        ndcg_and_probability(np.array([0, 0]), scores, np.array([0, 0]))


def first(ranks, scores, targets):
    return 1.0 * (ranks == 0)


def too_few(ranks, scores, targets):
    return first(ranks, scores, targets)[:-1]


def test_several_rewards_add_up_by_their_weights():
    module = ModuleType("several_rewards")
    module.first, module.too_few = first, too_few
    module.second = lambda ranks, scores, targets: 1.0 * (ranks == 1)
    with patch.dict(sys.modules, {module.__name__: module}):
        weights = [("several_rewards.first", 1.0), ("several_rewards.second", 0.25)]
        together = weighted_sum(weights, None)
        found = together(np.array([0, 1, 2]), None, None)
        assert found.tolist() == [1.0, 0.25, 0.0]
        assert weighted_sum(weights[:1], None) is first
        wrong = weighted_sum([*weights, ("several_rewards.too_few", 1.0)], None)
        with pytest.raises(InputError, match=r"\(several_rewards.too_few\) returned"):
            wrong(np.array([0, 1]), None, None)


def test_a_reward_that_names_items_gets_the_table(monkeypatch):
    def same_letter(ranks, scores, targets, items):
        letter = items["title"].str[0].to_numpy()
        return 1.0 * (letter[scores.argmax(axis=1)] == letter[targets])

    module = ModuleType("letters")
    module.same_letter, module.first = same_letter, first
    monkeypatch.setitem(sys.modules, "letters", module)
    items = pd.DataFrame({"title": ["Alien", "Fargo", "Aliens"]})
    scores = np.array([[0.9, 0.1, 0.2], [0.1, 0.9, 0.2]])
    given = np.array([1, 1]), scores, np.array([2, 2])
    alone = weighted_sum([("letters.same_letter", 1.0)], items)
    assert alone(*given).tolist() == [1.0, 0.0]
    assert alone.__qualname__ == same_letter.__qualname__
    both = weighted_sum([("letters.same_letter", 0.5), ("letters.first", 1.0)], items)
    assert both(np.array([0, 1]), *given[1:]).tolist() == [1.5, 0.0]
    with pytest.raises(
        InputError, match=r"letters.same_letter\) reads items, and none"
    ):
        weighted_sum([("letters.same_letter", 1.0)], None)
    broken = weighted_sum([("letters.first", 1), ("letters.same_letter", 1)], items[:0])
    with pytest.raises(
        InputError,
        match=r"\(letters.same_letter\) failed: IndexError: .*test_rewards.py",
    ):
        broken(*given)


def third_of_items(ranks, scores, items):
    return first(ranks, scores, items)


@pytest.mark.parametrize(
    ("reward", "reads"),
    [
        (lambda ranks, scores, targets, items: ranks, True),
        (lambda ranks, scores, targets, *, items: ranks, True),
        (first, False),
        (third_of_items, False),
        (np.add, False),
    ],
)
def test_whether_a_reward_reads_items(reward, reads):
    assert reads_items(reward) is reads
