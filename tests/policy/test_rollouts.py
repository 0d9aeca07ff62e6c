import numpy as np
import pytest
import torch

from minirec.policy.loading import load_model, load_tokenizer
from minirec.policy.rollouts import (
    _first_to_arrive,
    _shared_prefix,
    greedy_completions,
    sample_completions,
)

PROMPTS = ["The Silent Harbour", "Paper", "The Golden Machine and The Broken Orchard"]
ALIKE = [f"The Velvet Garden and {rest}" for rest in PROMPTS]


@pytest.fixture(scope="module")
def tokenizer(policy_model):
    return load_tokenizer(policy_model)


@pytest.fixture(scope="module")
def lm(policy_model, policy_params, tokenizer):
    return load_model(policy_model, "float32", tokenizer, policy_params.prompt)


@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE, ALIKE[:1] * 2])
def test_greedy_equals_generate(lm, tokenizer, prompts):
    ours = greedy_completions(lm, tokenizer, prompts, max_new_tokens=12)
    for prompt, tokens in zip(prompts, ours, strict=True):
        alone = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        ids = alone["input_ids"]
        theirs = lm.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        assert tokens == theirs[0, ids.shape[1] :].tolist()


def sample(lm, tokenizer, prompts, seeds, rollouts=4):
    return sample_completions(lm, tokenizer, prompts, seeds, rollouts, 8, 1.0)


def test_completions_do_not_depend_on_the_batch(lm, tokenizer):
    seeds = [(7, 0), (7, 1), (7, 2)]
    together = sample(lm, tokenizer, PROMPTS, seeds)
    alone = [
        sample(lm, tokenizer, [prompt], [seed])[0]
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
    ]
    assert together == alone


def test_the_shared_prefix_leaves_a_token_to_read():
    assert _shared_prefix([[1, 2, 3], [1, 2, 4]]) == 2
    assert _shared_prefix([[1, 2], [1, 2, 4]]) == 1
    assert _shared_prefix([[1, 2, 3]]) == 2
    assert _shared_prefix([[1], [2]]) == 0


def test_seeds_decide(lm, tokenizer):
    one, same, other = (
        sample(lm, tokenizer, PROMPTS[:1], [(seed, 0)]) for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_a_completion_ends_once_or_is_cut(lm, tokenizer):
    ends = set(lm.generation_config.eos_token_id)
    for group in sample(lm, tokenizer, PROMPTS, [(0, i) for i in range(3)], 16):
        for tokens in group:
            assert not ends & set(tokens[:-1])
            assert tokens[-1] in ends or len(tokens) == 8


def test_the_first_to_arrive_by_hand():
    # waiting times over rates 0.5, 0.25 and 0.25: 2, 4 and 1.2
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    assert _first_to_arrive(logits, torch.tensor([[1.0, 1.0, 0.3]])).tolist() == [2]


def test_tokens_are_drawn_by_their_probability():
    probability = torch.tensor([0.6, 0.3, 0.1, 0.0])
    draws = torch.from_numpy(
        np.random.default_rng(0).standard_exponential((20_000, 4), np.float32)
    )
    tokens = _first_to_arrive(probability.log().expand(20_000, -1), draws)
    share = torch.bincount(tokens, minlength=4) / 20_000
    # four standard errors of a share
    error = 4 * (probability * (1 - probability) / 20_000).sqrt()
    assert (share - probability).abs().le(error).all()


def test_a_waiting_time_of_zero_draws_nothing_impossible():
    logits = torch.tensor([[-torch.inf, 0.0]])
    assert _first_to_arrive(logits, torch.tensor([[0.0, 1.0]])).tolist() == [1]
