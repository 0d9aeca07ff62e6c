import numpy as np
import pytest
from torch.profiler import ProfilerActivity, profile

from minirec.policy.gradients import (
    CountSketch,
    hessian_products,
    hidden_gradients,
    sample_gradients,
    trainable_parameters,
)
from minirec.policy.loading import (
    attach_adapter,
    get_adapter,
    load_model,
    load_tokenizer,
    new_adapter,
    outline,
)
from minirec.policy.memory import prompts_at_once, rows_at_once
from minirec.policy.rollouts import sample_completions

LINES = " ".join(["The Silent Harbour and The Broken Orchard"] * 4)


def peak(work):
    """Return the most bytes that tensors made by ``work`` held at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = recorded.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return most


def assert_bound(at_once, n, measured):
    """Within what n took, no more than n are said to fit, and n within 5 times that.

    Not all of what is counted is held in the same moment.
    """
    assert at_once(measured / 1e9) <= n <= at_once(5 * measured / 1e9)


@pytest.mark.parametrize(
    ("dtype", "attention"), [("float32", "eager"), ("bfloat16", "sdpa")]
)
@pytest.mark.parametrize(("rollouts", "new"), [(1, 1), (4, 12), (16, 4)])
def test_rollouts_take_no_more_than_estimated(
    policy_model, policy_params, dtype, attention, rollouts, new
):
    tokenizer = load_tokenizer(policy_model)
    lm = load_model(policy_model, dtype, tokenizer, policy_params.prompt)
    lm.set_attn_implementation(attention)
    lm.generation_config.eos_token_id = []  # as many tokens as there may be
    prompts = [f"{word} {LINES}" for word in ["Paper", "The", "My", "Winter"] * 4]
    longest = max(map(len, tokenizer(prompts)["input_ids"]))
    seeds = [(0, row) for row in range(len(prompts))]

    def work():
        sample_completions(lm, tokenizer, prompts, seeds, rollouts, new, 1.0)

    work()  # what is made once, such as buffers of matrix products
    measured = peak(work)
    assert_bound(
        lambda gb: prompts_at_once(lm, longest, rollouts, new, 100, gb),
        len(prompts),
        measured,
    )


@pytest.mark.parametrize("space", ["lora", "hidden", "hessian"])
@pytest.mark.parametrize(
    ("dtype", "attention"), [("float32", "eager"), ("bfloat16", "sdpa")]
)
@pytest.mark.parametrize(("rollouts", "new"), [(2, 1), (4, 12), (16, 4)])
def test_gradients_take_no_more_than_estimated(
    policy_model, policy_params, space, dtype, attention, rollouts, new
):
    params = policy_params.model_copy(update={"dtype": dtype})
    tokenizer = load_tokenizer(policy_model)
    base = load_model(policy_model, dtype, tokenizer, params.prompt)
    lm = new_adapter(base, params.lora, seed=0)
    lm.set_attn_implementation(attention)
    parameters = trainable_parameters(lm, 1)
    rng = np.random.default_rng(0)
    prompts = [f"{word} {LINES}" for word in ["Paper", "The", "My", "Winter"] * 4]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    written = [rng.integers(3, 300, (rollouts, new)).tolist() for _ in prompts]
    advantages = [rng.normal(size=rollouts) for _ in prompts]
    sketch = CountSketch([p.numel() for _, p in parameters], 64, seed=0)

    def work():
        last = (tokenizer.pad_token_id, 1.0)
        if space == "lora":
            each = sample_gradients(lm, ids, written, advantages, *last, parameters)
            sketch([each[name] for name, _ in parameters])
        elif space == "hidden":
            hidden_gradients(lm, ids, written, advantages, *last)
        else:
            hessian_products(lm, ids, written, np.ones(32), *last)

    work()
    measured = peak(work)
    longest = max(map(len, ids)) + rollouts * new

    def at_once(memory_gb):
        return rows_at_once(
            lm, longest, rollouts * new, space, parameters, 64, memory_gb
        )

    assert_bound(at_once, len(prompts), measured)


def test_an_outline_says_the_same(policy_model, policy_params):
    tokenizer = load_tokenizer(policy_model)
    base = load_model(policy_model, "bfloat16", tokenizer, policy_params.prompt)
    loaded = new_adapter(base, policy_params.lora, seed=0)
    drawn = attach_adapter(outline(policy_model, "bfloat16"), get_adapter(loaded))
    assert {p.device.type for p in drawn.parameters()} == {"meta"}
    found = [
        (
            prompts_at_once(lm, 100, 4, 16, 100, 0.01),
            rows_at_once(lm, 100, 64, "lora", trainable_parameters(lm, None), 64, 0.01),
        )
        for lm in (loaded, drawn)
    ]
    assert found[0] == found[1]


def test_more_memory_takes_more_prompts_and_none_takes_one(policy_model, policy_params):
    tokenizer = load_tokenizer(policy_model)
    lm = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    few, many, none = (
        prompts_at_once(lm, 100, 4, 16, 100, memory_gb) for memory_gb in (1, 2, 1e-9)
    )
    # apart from the scores that a cache holds, 16 MiB however many rows there are
    assert many == pytest.approx(2 * few, rel=2**24 / 1e9)
    assert none == 1
    assert prompts_at_once(lm, 100, 8, 16, 100, 1) < few
    assert prompts_at_once(lm, 100, 4, 16, 10**6, 1) < few  # to rank so many items
