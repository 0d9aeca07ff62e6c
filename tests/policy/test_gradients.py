import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from minirec.errors import InputError
from minirec.policy import gradients, packed_rows
from minirec.policy.gradients import (
    CountSketch,
    adapter_movement,
    group_advantages,
    hessian_products,
    hidden_gradients,
    sample_gradients,
    trainable_parameters,
)
from minirec.policy.loading import get_adapter, set_adapter


def test_advantages_by_hand():
    # mean 0.5, sample standard deviation sqrt(0.5)
    advantages = group_advantages(np.array([[0.0, 1.0], [0.3, 0.3]]))
    expected = 0.5 / (np.sqrt(0.5) + 1e-4)
    np.testing.assert_allclose(advantages, [[-expected, expected], [0, 0]])


# Norms and softmax round to float32, and angles are computed in it, whatever the model's
# dtype: 2^-24 each, a handful in each of three blocks, of the largest value.
ROUNDING = 1e-5


@pytest.fixture
def ragged(groups):
    """Prompts with a common beginning, 3, 2 and 3 completions, and their advantages."""
    prompts, completions = groups
    prompts = [[3, 8, *prompt] for prompt in prompts]
    completions = [completions[0], completions[1][:2], completions[2]]
    completions[2] = [completions[2][0], completions[2][0][:3], [45]]  # a shared start
    random = np.random.default_rng(0)
    return prompts, completions, [random.normal(size=len(c)) for c in completions]


def assert_equal_up_to_rounding(found, expected):
    assert found.shape == expected.shape
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()


@pytest.mark.parametrize("last_blocks", [None, 2])
def test_gradients_equal_those_of_single_samples(
    any_policy, ragged, apart, last_blocks
):
    prompts, completions, advantages = ragged
    parameters = trainable_parameters(any_policy, last_blocks)
    batch = sample_gradients(
        any_policy, prompts, completions, advantages, 0, 0.7, parameters
    )
    for row in range(3):
        loss = -sum(
            advantage * sum(apart(any_policy, prompts[row], completion, 0.7))
            for advantage, completion in zip(
                advantages[row], completions[row], strict=True
            )
        )
        alone = torch.autograd.grad(loss, [p for _, p in parameters])
        for (name, _), expected in zip(parameters, alone, strict=True):
            assert_equal_up_to_rounding(batch[name][row], expected)


def at_the_head(policy, prompt, completion, differentiate):
    """Differentiate by what the head reads of one completion in a row of its own."""
    kept = []

    def keep(_, given):
        kept.append(given[0].detach().requires_grad_())
        return (kept[-1],)

    handle = policy.get_output_embeddings().register_forward_pre_hook(keep)
    logits = policy(torch.tensor([prompt + completion])).logits[0] / 0.7
    handle.remove()
    log_prob = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    chosen = log_prob[range(len(completion)), completion]
    return differentiate(chosen.sum(), kept[0])[0].sum(0)


def test_hidden_gradients_equal_autograd(any_policy, ragged):
    prompts, completions, advantages = ragged
    found = hidden_gradients(any_policy, prompts, completions, advantages, 0, 0.7)

    def gradient(log_prob, hidden):
        return torch.autograd.grad(log_prob, hidden)[0]

    for row in range(3):
        expected = sum(
            -advantage * at_the_head(any_policy, prompts[row], completion, gradient)
            for advantage, completion in zip(
                advantages[row], completions[row], strict=True
            )
        )
        assert_equal_up_to_rounding(torch.from_numpy(found[row]), expected)


def test_hessian_products_equal_double_backward(any_policy, ragged):
    prompts, completions, _ = ragged
    direction = np.random.default_rng(1).normal(size=32)
    found = hessian_products(any_policy, prompts, completions, direction, 0, 0.7)

    def product(log_prob, hidden):
        (slope,) = torch.autograd.grad(-log_prob, hidden, create_graph=True)
        towards = torch.from_numpy(direction).expand_as(slope)
        return torch.autograd.grad(slope, hidden, towards)[0]

    for row in range(3):
        expected = sum(
            at_the_head(any_policy, prompts[row], completion, product)
            for completion in completions[row]
        )
        assert_equal_up_to_rounding(torch.from_numpy(found[row]), expected)


def test_hessian_products_in_closed_form(float64_policy):
    direction = np.linspace(-1, 1, 32)
    found = hessian_products(float64_policy, [[5, 9]], [[[20]]], direction, 0, 2.0)
    head = float64_policy.get_output_embeddings().weight.detach().numpy()
    logits = float64_policy(torch.tensor([[5, 9]])).logits[0, -1].detach() / 2.0
    p = logits.softmax(-1).numpy()
    fisher = np.diag(p) - np.outer(p, p)
    expected = head.T @ fisher @ head @ direction / 2.0**2
    np.testing.assert_allclose(found[0], expected, rtol=ROUNDING)


def test_gradients_do_not_depend_on_the_batch(float64_policy, ragged):
    parameters = trainable_parameters(float64_policy, last_blocks=1)
    together = sample_gradients(float64_policy, *ragged, 0, 1.0, parameters)
    hidden = hidden_gradients(float64_policy, *ragged, 0, 1.0)
    for row in range(3):
        one = [part[row : row + 1] for part in ragged]
        alone = sample_gradients(float64_policy, *one, 0, 1.0, parameters)
        for name, gradient in alone.items():
            assert_equal_up_to_rounding(together[name][row], gradient[0])
        own = hidden_gradients(float64_policy, *one, 0, 1.0)[0]
        assert_equal_up_to_rounding(torch.from_numpy(hidden[row]), torch.tensor(own))


def test_layers_that_mix_prompts_are_refused():
    config = Qwen2MoeConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=2,
        num_experts_per_tok=1,
    )
    lora = LoraConfig(target_modules=["up_proj"], task_type="CAUSAL_LM")
    policy = get_peft_model(Qwen2MoeForCausalLM(config), lora).eval()
    parameters = trainable_parameters(policy, last_blocks=None)
    prompts, completions, advantages = [[3, 4], [5]], [[[6], [7]]] * 2, [[1, -1]] * 2
    with pytest.raises(InputError, match=r"shared_expert.* prompts of a batch mix"):
        sample_gradients(policy, prompts, completions, advantages, 0, 1.0, parameters)
    # nothing but the head is differentiated here
    assert hidden_gradients(policy, prompts, completions, advantages, 0, 1.0).all()


def test_what_earned_alike_asks_for_nothing_and_is_not_read(float64_policy, groups):
    parameters = trainable_parameters(float64_policy, last_blocks=1)
    prompts, completions = groups
    # -1 is no token: to read it would fail
    prompts[1] = [-1]
    advantages = [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.5, -0.5, 0.0]]
    lora = sample_gradients(
        float64_policy, prompts, completions, advantages, 0, 1.0, parameters
    )
    assert all(not g[1].any() and g[0].any() for g in lora.values())
    hidden = hidden_gradients(float64_policy, prompts, completions, advantages, 0, 1.0)
    assert hidden[[0, 2]].any(axis=1).all()
    np.testing.assert_array_equal(hidden[1], 0)
    nothing = hidden_gradients(float64_policy, [[-1]], [[[3]]], [[0.0]], 0, 1.0)
    np.testing.assert_array_equal(nothing, np.zeros((1, 32)))


def test_blocks_of_logits_change_nothing(float64_policy, ragged, monkeypatch):
    direction = np.ones(32)
    whole = (
        hidden_gradients(float64_policy, *ragged, 0, 1.0),
        hessian_products(float64_policy, *ragged[:2], direction, 0, 1.0),
    )
    monkeypatch.setattr(packed_rows, "LOGITS_AT_ONCE", 3 * 50)  # three readings at once
    # one after the other within these, and for a Hessian four at once
    monkeypatch.setattr(gradients, "LOGITS_IN_CACHE", 50)
    cut = (
        hidden_gradients(float64_policy, *ragged, 0, 1.0),
        hessian_products(float64_policy, *ragged[:2], direction, 0, 1.0),
    )
    for found, expected in zip(cut, whole, strict=True):
        # sums of at most 50 numbers in float64
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_a_prompt_on_which_nothing_was_written_has_no_curvature(float64_policy):
    for completions in ([[]], [[], [[7]]]):
        prompts = [[5, 6], [5, 9]][: len(completions)]
        found = hessian_products(
            float64_policy, prompts, completions, np.ones(32), 0, 1
        )
        np.testing.assert_array_equal(found[0], 0)
        assert (np.abs(found[1:]).max(axis=1, initial=0) > 0).all()


def test_movement_is_the_gradient_that_a_descent_step_followed(float64_policy, ragged):
    parameters = trainable_parameters(float64_policy, last_blocks=2)
    each = sample_gradients(float64_policy, *ragged, 0, 1.0, parameters)
    step = {name: gradient.sum(0) for name, gradient in each.items()}
    before = get_adapter(float64_policy)
    try:
        with torch.no_grad():
            for name, parameter in parameters:
                parameter -= 0.5 * step[name]
        after = get_adapter(float64_policy)
    finally:
        set_adapter(float64_policy, before)
    moved = adapter_movement(before, after, 2, dimensions=64, seed=7)
    sketch = CountSketch([p.numel() for _, p in parameters], 64, seed=7)
    expected = sketch([0.5 * step[name][None] for name, _ in parameters])[0]
    # weights below 2 round to 2^-24, and some 30 of 1,792 meet in a bucket
    np.testing.assert_allclose(moved, expected, rtol=0, atol=60 * 2.0**-24)
    assert np.abs(moved).max() > 0.1


def test_parameters_come_in_the_order_of_a_saved_adapter(any_policy):
    saved = sorted(get_adapter(any_policy)["tensors"])
    named = [name for name, _ in trainable_parameters(any_policy, None)]
    assert [name.replace(".default", "") for name in named] == saved


def test_movement_between_adapters_of_different_models(float64_policy):
    adapter = get_adapter(float64_policy)
    empty = {"config": adapter["config"], "tensors": {}}
    message = r"initial_adapter and proxy_adapter differ in shape \(first at base_model"
    with pytest.raises(InputError, match=message):
        adapter_movement(adapter, empty, None, 8, 0)


def test_adapters_outside_of_the_blocks_need_a_number_of_blocks():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    lora = LoraConfig(target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    policy = get_peft_model(LlamaForCausalLM(config), lora)
    assert len(trainable_parameters(policy, last_blocks=2)) == 4
    with pytest.raises(InputError, match=r"lm_head.* lies outside of all blocks"):
        trainable_parameters(policy, last_blocks=None)


def test_a_single_rollout_has_no_advantage():
    ragged = group_advantages([[0.0, 1.0], [0.7]])
    expected = 0.5 / (np.sqrt(0.5) + 1e-4)
    np.testing.assert_allclose(ragged[0], [-expected, expected])
    np.testing.assert_array_equal(ragged[1], [0.0])


def test_equal_rewards_have_advantage_zero_to_the_last_digit():
    rewards = [0.1, 0.1, 0.1]
    assert np.mean(rewards) != 0.1  # rounded
    np.testing.assert_array_equal(group_advantages([rewards])[0], np.zeros(3))


def test_only_the_last_blocks_are_differentiated(float64_policy):
    names = [name for name, _ in trainable_parameters(float64_policy, last_blocks=2)]
    # seven linear layers a block, A and B each
    assert len(names) == 2 * 7 * 2
    assert all(".layers.1." in name or ".layers.2." in name for name in names)


def test_more_blocks_than_the_model_has(float64_policy):
    with pytest.raises(InputError, match=r"score\.gradients\.last_blocks is 4"):
        trainable_parameters(float64_policy, last_blocks=4)


def test_sketch_by_hand():
    sketch = CountSketch([3], dimensions=2, seed=0)
    (bucket, sign), *_ = sketch._maps
    expected = np.zeros(2)
    for place, value in enumerate([1.0, 2.0, 4.0]):
        expected[bucket[place]] += sign[place] * value
    np.testing.assert_array_equal(
        sketch([torch.tensor([[1.0, 2.0, 4.0]])])[0], expected
    )


def test_sketch_is_linear_and_keeps_cosines():
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5_000, generator=random)
    b = 0.6 * a + 0.8 * b
    sketch = CountSketch([2_000, 3_000], dimensions=1_024, seed=1)
    rows = torch.stack([a, b, a + b])
    x, y, both = sketch([rows[:, :2_000], rows[:, 2_000:]])
    np.testing.assert_allclose(both, x + y, atol=1e-3)
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    exact = float(a @ b / a.norm() / b.norm())
    # its standard error is below sqrt(2 / dimensions); three of them
    assert abs(cosine - exact) < 3 * np.sqrt(2 / 1_024)


def test_equal_seeds_give_equal_sketches():
    gradient = [torch.arange(12.0).reshape(2, 6)]
    one, same, other = (CountSketch([6], 4, seed)(gradient) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
