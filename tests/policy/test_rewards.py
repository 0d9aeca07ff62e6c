from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from minirec.errors import InputError
from minirec.policy.prompts import failure
from minirec.policy.rewards import (
    Grounded,
    Tasks,
    Written,
    answered_scores,
    reward_completions,
    try_reward,
)

ITEMS = pd.DataFrame({"item_id": ["a", "b", "c", "d"]})
PROMPTS = pd.DataFrame(
    {
        "sample_id": [7, 3],
        "target_item_id": ["a", "d"],
        "seen_item_id": [["b"], ["a", "c"]],
    }
)


def policy(answer_mark=""):
    """A policy whose completions begin with the number of the item that they mean."""

    def ground(written):
        digits = ["".join(filter(str.isdigit, text)) for text in written.texts]
        return Grounded(
            np.array([[float(str(item) in d) for item in range(4)] for d in digits]),
            [failure(text, '"', answer_mark) for text in written.texts],
        )

    return SimpleNamespace(ground=ground)


def reciprocal(ranks, scores, targets):
    return 1 / (ranks + 1)


def rewarded(completions, *args, mark="", reward=reciprocal, ids=None):
    ids = [7] * len(completions) if ids is None else ids
    tasks = Tasks(PROMPTS, ITEMS)
    written = Written(completions)
    return reward_completions(policy(mark), tasks, reward, ids, written, *args)


def test_the_rank_of_the_target_is_rewarded_and_seen_items_do_not_count():
    found = rewarded(['0"', '2"', '1"', '3"'], ids=[7, 7, 3, 3])
    # the last but one means an item that is not seen by 3, but ties count against it
    assert found.rank.tolist() == [0, 2, 1, 0]
    assert found.reward.tolist() == [1, 1 / 3, 1 / 2, 1]
    assert found.failure == [None] * 4


@pytest.mark.parametrize(
    ("completion", "mark", "failure"),
    [
        ("", "", "empty"),
        (' " 0', "", "empty"),
        ("<answer>", "<answer>", "empty"),
        ("0, I think", "<answer>", "unparsable"),
    ],
)
def test_a_completion_without_an_answer_earns_nothing_and_a_reason(
    completion, mark, failure
):
    found = rewarded([completion, f'{mark}0"'], mark=mark)
    assert found.failure == [failure, None]
    assert found.reward.tolist() == [0, 1]
    assert found.rank.tolist() == [len(ITEMS), 0]


def test_a_completion_from_logits_that_are_not_finite_earns_nothing():
    found = rewarded(['0"', '0"', ""], [True, False, False])
    assert found.failure == [None, "not_finite", "not_finite"]
    assert found.reward.tolist() == [1, 0, 0]


def test_without_an_answer_nothing_is_recommended():
    written = Written(['0"', "", '2"'])
    scores = answered_scores(policy().ground(written), [True, True, False])
    assert scores.tolist() == [[1, 0, 0, 0], [-np.inf] * 4, [-np.inf] * 4]


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (lambda ranks, scores, targets: ranks / 0.0, "is not finite for sample 7"),
        (lambda ranks, scores, targets: 1.0, r"shape \(\) for 1 completions"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_a_reward_that_cannot_be_used_is_named(reward, sentence):
    with pytest.raises(InputError, match=sentence):
        rewarded(['2"'], reward=reward)


def test_items_that_the_catalogue_does_not_have_are_refused():
    with pytest.raises(InputError, match="made from different data"):
        Tasks(PROMPTS, ITEMS.iloc[:3])


def test_a_reward_that_fails_names_the_sample():
    def of_the_first_alone(ranks, scores, targets):
        if (targets == 3).any():
            raise KeyError("d")
        return 1.0 * (ranks == 0)

    with pytest.raises(
        InputError, match=r"of_the_first_alone\), called .* failed for sample 3: K"
    ):
        rewarded(['0"', '3"'], ids=[7, 3], reward=of_the_first_alone)


def of_all_scores(ranks, scores, targets):
    return scores.mean(axis=1)


def half_of_them(ranks, scores, targets):
    return ranks[:1]


@pytest.mark.parametrize("n_items", [1, 2, 3, 4])
def test_a_reward_is_tried_on_what_it_will_be_given(n_items):
    given = []

    def keep(*args):
        given.extend(args)
        return reciprocal(*args)

    try_reward(keep, n_items)
    ranks, scores, targets = given
    masked = int(n_items > 2)  # the second item, as if it had been seen
    assert ranks.tolist() == [0, n_items - 1 - masked]
    assert targets.tolist() == [0, n_items - 1]
    assert np.isneginf(scores).sum(axis=1).tolist() == [masked, masked]


def test_a_reward_is_tried_before_long_work():
    with pytest.raises(InputError, match=r"of_all_scores\) returned .* not finite"):
        try_reward(of_all_scores, 4)
    with pytest.raises(
        InputError, match=r"made up: .*half_of_them\) returned an array"
    ):
        try_reward(half_of_them, 4)
