import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from minirec.policy.rollouts import _BLOCK, Completion, _draw

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES = {
    "llama": GROUPED,
    "qwen2": GROUPED,  # biases
    "gemma2": GROUPED  # logits capped, norms behind layers, every other block a window
    | {"sliding_window": 16, "final_logit_softcapping": 0.5},
    "cohere": GROUPED | {"logit_scale": 0.25},  # logits scaled, parallel layers
    "gpt2": {},  # learned positions, Conv1D
    "gptj": {"rotary_dim": 4},  # blocks return tuples
}


def small_policy(architecture):
    """Three blocks with an adapter that is not zero, in float64."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SMALL, **ARCHITECTURES[architecture])
    lm = AutoModelForCausalLM.from_config(config).double()
    lora = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=architecture == "gpt2",
    )
    policy = get_peft_model(lm, lora, autocast_adapter_dtype=False)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy.double().eval()


@pytest.fixture(scope="session")
def float64_policy():
    """A small Llama with an adapter that is not zero, in float64."""
    return small_policy("llama")


@pytest.fixture(scope="session", params=ARCHITECTURES)
def any_policy(request):
    """Small models of several architectures, as `float64_policy`."""
    return small_policy(request.param)


@pytest.fixture
def groups():
    """Three prompts of different length, three completions each."""
    prompts = [[5, 9, 2, 7, 7, 3, 8], [4, 4, 6], [11, 12, 13, 14, 15]]
    completions = [
        [[20, 21], [22], [23, 24, 25, 1]],
        [[30, 31, 1], [32, 33, 34], [1]],
        [[40, 41, 42, 43, 44], [45, 1], [46, 47]],
    ]
    return prompts, completions


@pytest.fixture(scope="session")
def apart():
    """Log-probabilities of one completion behind its prompt, in a row of its own."""

    def log_probs(policy, prompt, completion, temperature=1.0):
        logits = policy(torch.tensor([prompt + completion])).logits[0] / temperature
        log_prob = logits.log_softmax(-1)
        first = len(prompt) - 1
        return [log_prob[first + i, token] for i, token in enumerate(completion)]

    return log_probs


@pytest.fixture(scope="session")
def by_a_plain_loop():
    """Return a function that writes a rollout, reading everything anew each time."""

    def write(lm, tokenizer, prompt, seed, rollout, limit, temperature=1.0):
        noise = np.random.default_rng([*seed, rollout])
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        written = []
        while len(written) < limit:
            with torch.no_grad():
                logits = lm(torch.tensor([ids + written])).logits[:, -1]
            n_blocks = -(-logits.shape[1] // _BLOCK)
            waiting = noise.standard_exponential((1, n_blocks + _BLOCK), np.float32)
            token, _ = _draw(logits / temperature, torch.from_numpy(waiting))
            written.append(int(token))
            if written[-1] in lm.generation_config.eos_token_id:
                break
        return Completion(written, True)

    return write
