import doctest

import numpy as np
import pandas as pd
import pytest
import torch

from minirec.errors import InputError
from minirec.policy.loading import get_adapter, load_model, load_tokenizer, new_adapter
from minirec.policy.params import GRPOParams
from minirec.policy.rewards import Tasks
from minirec.policy.text import Catalogue, TextPolicy
from minirec.ranking.encoder import encode, load_encoder
from minirec.training import grpo
from minirec.training.grpo import pad_to_steps, train_grpo

PARAMS = GRPOParams(learning_rate=0.01, num_generations=3, beta=0.0)


@pytest.fixture(scope="module")
def items():
    return pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["The Amber Garden", "Paper", "The Velvet Orchard", "Winter"],
        }
    )


@pytest.fixture(scope="module")
def prompts():
    return pd.DataFrame(
        {
            "sample_id": [4, 7, 9, 12, 15],
            "prompt": [
                f"{word} Machine" for word in ["The", "A", "Paper", "Golden", "My"]
            ],
            "target_item_id": ["a", "b", "c", "d", "a"],
            "seen_item_id": [["b"], ["a"], ["a", "b"], [], ["d"]],
        }
    )


@pytest.fixture
def learner(policy_model, encoder_model, policy_params, items):
    """Return a function that makes the same untrained policy again."""

    def make():
        tokenizer = load_tokenizer(policy_model)
        lm = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
        encoder = load_encoder(encoder_model)
        embeddings = encode(encoder, items["title"].tolist())
        catalogue = Catalogue(encoder, embeddings, np.zeros(len(items)), 0.0)
        policy = new_adapter(lm, policy_params.lora, seed=0)
        return TextPolicy(policy, tokenizer, catalogue, policy_params)

    return make


def reciprocal(ranks, scores, targets):
    return 1 / (1 + ranks)


def train(learner, prompts, items, reward=reciprocal, order=(12, 4, 9, 15, 7, 9), n=5):
    tasks = Tasks(prompts, items)
    return train_grpo(
        learner, order, n, prompts, tasks, reward, PARAMS, 2, seed=3, label="test"
    )


def test_the_order_consumed_is_the_order_given(learner, prompts, items):
    training = train(learner(), prompts, items)
    assert training.consumed.to_dict("list") == {
        "position": [0, 1, 2, 3, 4, 5],
        "step": [0, 0, 1, 1, 2, 2],
        "sample_id": [12, 4, 9, 15, 7, 9],
        "padding": [False] * 5 + [True],
    }
    assert training.log["step"].tolist() == [1, 2, 3]


def test_an_incomplete_step_is_noticed(learner, prompts, items):
    with pytest.raises(RuntimeError, match=r"\[12, 4\] instead of \[12, 4, 9\]"):
        train(learner(), prompts, items, order=(12, 4, 9), n=3)


def test_equal_seeds_give_equal_adapters(learner, prompts, items):
    one, same = learner(), learner()
    before = get_adapter(one.lm)["tensors"]
    train(one, prompts, items)
    train(same, prompts, items)
    after, again = get_adapter(one.lm)["tensors"], get_adapter(same.lm)["tensors"]
    assert all(torch.equal(after[name], again[name]) for name in after)
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_training_raises_the_reward(learner, prompts, items):
    """Reward alone what lies near item c, whoever asks: it is written more often."""
    policy = learner()

    def nearness(ranks, scores, targets):
        return scores[:, 2]

    unmasked = prompts.assign(seen_item_id=[[]] * len(prompts))
    training = train_grpo(
        policy,
        order=(4, 7, 9, 12) * 40,
        n_samples=160,
        prompts=unmasked,
        tasks=Tasks(unmasked, items),
        reward=nearness,
        grpo=GRPOParams(learning_rate=0.02, num_generations=8, beta=0.0),
        prompts_per_step=4,
        seed=3,
        label="test",
    )
    first, last = training.log.head(10), training.log.tail(10)
    # means over 10 x 32 completions each; their standard errors add up
    error = np.hypot(*(part["reward_std"].mean() / 320**0.5 for part in (first, last)))
    assert last["reward"].mean() - first["reward"].mean() > 3 * error


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda ranks, *_: ranks[:-1], r"shape \(5,\) for 6 completions"),
        (lambda ranks, *_: np.full(len(ranks), np.nan), "not finite for sample 12"),
    ],
)
def test_a_reward_that_returns_rubbish_stops_training(
    learner, prompts, items, value, message
):
    with pytest.raises(InputError, match=message):
        train(learner(), prompts, items, reward=value)


def test_a_full_last_step_needs_no_padding():
    assert pad_to_steps([5, 6], stages=[0, 1], prompts_per_step=2) == [5, 6]


def test_padding_repeats_a_short_last_stage():
    assert pad_to_steps([5, 6, 7], [0, 0, 1], prompts_per_step=5) == [5, 6, 7, 7, 7]


def test_examples():
    assert doctest.testmod(grpo).failed == 0
