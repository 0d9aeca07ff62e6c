import subprocess
import sys

import pytest
from torch.profiler import ProfilerActivity, profile

from minirec.policy.loading import load_model, load_tokenizer
from minirec.policy.memory import prompts_at_once
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


def bytes_a_prompt(lm, *given):
    """Return what the estimate counts for a prompt, to a millionth."""
    return 1e9 / prompts_at_once(lm, *given, 1e6) * 1e6


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
    estimate = len(prompts) * bytes_a_prompt(lm, longest, rollouts, new)
    # not all of what is counted is held in the same moment
    assert estimate / 5 < peak(work) <= estimate


def test_more_memory_takes_more_prompts_and_none_takes_one(policy_model, policy_params):
    tokenizer = load_tokenizer(policy_model)
    lm = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    few, many, none = (
        prompts_at_once(lm, 100, 4, 16, memory_gb) for memory_gb in (0.1, 0.2, 1e-9)
    )
    assert many == pytest.approx(2 * few, abs=1)
    assert none == 1
    assert prompts_at_once(lm, 100, 8, 16, 0.1) < few


FAULTS = """
import resource, torch
from minirec.policy.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_freed_memory()
for _ in range(10):
    before = faults()
    torch.ones(2**24)  # 64 MiB, or 16,384 pages
print(faults() - before)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="another C library frees otherwise"
)
def test_freed_memory_is_used_again():
    out = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 2**14 / 10
