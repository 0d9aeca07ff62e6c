import gc
import weakref

import numpy as np
import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM

from minirec.errors import InputError
from minirec.policy import rollouts
from minirec.policy.loading import load_model, load_tokenizer
from minirec.policy.rollouts import (
    _BLOCK,
    Completion,
    _draw,
    _first_to_arrive,
    _shared_prefix,
    greedy_completions,
    prefill,
    sample,
    sample_completions,
)

PROMPTS = ["The Silent Harbour", "Paper", "The Golden Machine and The Broken Orchard"]
ALIKE = [f"The Velvet Garden and {rest}" for rest in PROMPTS]
SEEDS = [(7, 0), (7, 1), (7, 2)]


@pytest.fixture(scope="module")
def tokenizer(policy_model):
    return load_tokenizer(policy_model)


@pytest.fixture(scope="module")
def lm(policy_model, policy_params, tokenizer):
    """In float64, where rounding turns no choice."""
    return load_model(policy_model, "float64", tokenizer, policy_params.prompt)


def probe(lm, tokenizer, prompts=PROMPTS, seeds=SEEDS, n=4, temperature=1.0):
    return sample_completions(lm, tokenizer, prompts, seeds, n, 8, temperature)


@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE, ALIKE[:1] * 3])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_completions_equal_a_plain_loop(
    lm, tokenizer, prompts, temperature, by_a_plain_loop
):
    ours = probe(lm, tokenizer, prompts, temperature=temperature)
    for prompt, seed, group in zip(prompts, SEEDS, ours, strict=True):
        for rollout, completion in enumerate(group):
            assert completion == by_a_plain_loop(
                lm, tokenizer, prompt, seed, rollout, 8, temperature
            )


@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE, ALIKE[:1] * 2])
def test_greedy_equals_generate(lm, tokenizer, prompts):
    ours = greedy_completions(lm, tokenizer, prompts, max_new_tokens=12)
    for prompt, completion in zip(prompts, ours, strict=True):
        alone = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        ids = alone["input_ids"]
        theirs = lm.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        assert completion == Completion(theirs[0, ids.shape[1] :].tolist(), True)


def test_completions_do_not_depend_on_the_batch(lm, tokenizer):
    together = probe(lm, tokenizer)
    for row in (2, 0, 1):
        assert together[row : row + 1] == probe(
            lm, tokenizer, PROMPTS[row : row + 1], SEEDS[row : row + 1]
        )


def test_probing_goes_on_where_it_stopped(lm, tokenizer):
    at_once = probe(lm, tokenizer, n=6)
    read = prefill(lm, tokenizer, PROMPTS)
    first = sample(read, SEEDS, range(2), 8, 1.0)
    undecided = [2, 0]
    rest = sample(
        read.select(undecided), [SEEDS[row] for row in undecided], range(2, 6), 8, 1.0
    )
    assert first == [group[:2] for group in at_once]
    assert rest == [at_once[row][2:] for row in undecided]


def test_the_shared_prefix_leaves_a_token_to_read():
    assert _shared_prefix([[1, 2, 3], [1, 2, 4]]) == 2
    assert _shared_prefix([[1, 2], [1, 2, 4]]) == 1
    assert _shared_prefix([[1, 2, 3]]) == 2
    assert _shared_prefix([[1], [2]]) == 0


def test_prompts_are_held_once(lm, tokenizer):
    read = prefill(lm, tokenizer, ALIKE)
    longest = max(len(tokenizer(text)["input_ids"]) for text in ALIKE)
    assert [tuple(layer.shape) for layer in read.keys] == [(3, 2, longest, 8)] * 2
    assert read.padding.sum(1).tolist() == (longest - read.position).tolist()


def test_seeds_decide(lm, tokenizer):
    one, same, other = (
        probe(lm, tokenizer, PROMPTS[:1], [(seed, 0)]) for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_a_completion_ends_once_or_is_cut(lm, tokenizer):
    ends = set(lm.generation_config.eos_token_id)
    for group in probe(lm, tokenizer, n=16):
        for tokens, finite in group:
            assert finite
            assert not ends & set(tokens[:-1])
            assert tokens[-1] in ends or len(tokens) == 8


def test_keys_and_values_go_with_their_prompts(lm, tokenizer):
    read = prefill(lm, tokenizer, PROMPTS)
    sample(read, SEEDS, range(2), 8, 1.0)
    keys = weakref.ref(read.keys[0])
    del read
    gc.collect()
    assert keys() is None


def test_the_model_attends_as_before_afterwards(lm, tokenizer):
    before = lm.config._attn_implementation
    probe(lm, tokenizer)
    assert lm.config._attn_implementation == before


@pytest.fixture
def broken(lm):
    """Return a function after which reading a token makes what follows NaN."""
    hooks = []

    def break_at(token):
        def read(_, inputs, output):
            return output.masked_fill((inputs[0] == token)[..., None], torch.nan)

        hooks.append(lm.get_input_embeddings().register_forward_hook(read))

    yield break_at
    for hook in hooks:
        hook.remove()


def test_a_prompt_that_gives_nan_is_marked_and_harms_no_other(lm, tokenizer, broken):
    prompts = [PROMPTS[0], f"{PROMPTS[1]}<|start|>", PROMPTS[2]]
    sound = probe(lm, tokenizer, prompts)
    likely = greedy_completions(lm, tokenizer, prompts, 8)
    broken(tokenizer.convert_tokens_to_ids("<|start|>"))
    nothing = Completion([], False)
    assert probe(lm, tokenizer, prompts) == [sound[0], [nothing] * 4, sound[2]]
    after = greedy_completions(lm, tokenizer, prompts, 8)
    assert after == [likely[0], nothing, likely[2]]


def test_a_completion_that_comes_to_nan_is_cut_there(lm, tokenizer, broken):
    sound = probe(lm, tokenizer)
    read = {token for text in PROMPTS for token in tokenizer(text)["input_ids"]}
    token = next(
        token
        for group in sound
        for completion in group
        for token in completion.tokens[1:-1]
        if token not in read
    )
    broken(token)
    for before, after in zip(sound, probe(lm, tokenizer), strict=True):
        for whole, now in zip(before, after, strict=True):
            if token in whole.tokens[:-1]:
                stop = whole.tokens.index(token) + 1
                assert now == Completion(whole.tokens[:stop], False)
            else:
                assert now == whole


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_only_rows_that_are_not_finite_are_marked(value):
    logits = torch.zeros(3, 4)
    logits[1, 2] = value
    logits[2, :3] = -torch.inf  # impossible tokens are none the less logits
    waiting = torch.ones(3, 1 + _BLOCK)
    token, finite = _draw(logits, waiting)
    assert finite.tolist() == [True, False, True]
    assert token[2] == 3
    _, finite = rollouts._most_likely(logits, torch.arange(3))
    assert finite.tolist() == [True, False, True]


def test_attention_sinks_are_refused(tokenizer):
    config = GptOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        eos_token_id=[0],
        layer_types=["full_attention"],
    )
    with pytest.raises(InputError, match="attends to sinks beside tokens"):
        probe(GptOssForCausalLM(config).eval(), tokenizer)


def test_the_first_to_arrive_by_hand():
    # waiting times over rates: 2, 4 and 1.2
    rate = torch.tensor([[0.5, 0.25, 0.25]])
    assert _first_to_arrive(rate, torch.tensor([[1.0, 1.0, 0.3]])).tolist() == [2]


def test_tokens_are_drawn_by_their_probability():
    probability = torch.zeros(2 * _BLOCK + 3)
    likely = [0, 5, _BLOCK, 2 * _BLOCK - 1, 2 * _BLOCK + 2]
    probability[likely] = torch.tensor([0.5, 0.1, 0.1, 0.25, 0.05])
    draws = torch.from_numpy(
        np.random.default_rng(0).standard_exponential((20_000, 3 + _BLOCK), np.float32)
    )
    tokens, _ = _draw(probability.log().expand(20_000, -1), draws)
    share = torch.bincount(tokens, minlength=len(probability)) / 20_000
    # four standard errors of a share
    error = 4 * (probability * (1 - probability) / 20_000).sqrt()
    assert (share - probability).abs().le(error).all()


def test_a_waiting_time_of_zero_draws_nothing_impossible():
    assert _first_to_arrive(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    ).tolist() == [1]
