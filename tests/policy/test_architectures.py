"""Models whose rows cannot be packed are refused, never run to a wrong result."""

import pytest
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from minirec.errors import InputError
from minirec.policy.loading import _check_architecture, check_window
from minirec.policy.packed_rows import packed_log_probs


def mistral(window):
    config = MistralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=window,
    )
    return MistralForCausalLM(config)


def test_a_recurrent_model():
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)
    with pytest.raises(InputError, match="MambaForCausalLM, which does not attend"):
        _check_architecture(MambaForCausalLM(config))


def test_transformers_pass():
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)
    _check_architecture(GPT2LMHeadModel(config))
    _check_architecture(mistral(window=8))


def test_a_completion_longer_than_the_window():
    # nothing reads a completion's last token: the longest has 3 + 2 tokens to read
    prompt, completions = [1, 2, 3], [[4, 5, 6], [7, 8]]
    packed_log_probs(mistral(window=5), [prompt], [completions], pad_token_id=0)
    with pytest.raises(InputError, match="a row of 5 tokens is longer than the 4"):
        packed_log_probs(mistral(window=4), [prompt], [completions], pad_token_id=0)


def test_a_model_without_windows_takes_any_row():
    check_window(mistral(window=None), length=10**6)
