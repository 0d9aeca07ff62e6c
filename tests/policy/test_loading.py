import shutil
import subprocess
import sys

import pytest
import torch
from transformers import GenerationConfig

from minirec.errors import InputError
from minirec.policy.loading import (
    attach_adapter,
    end_tokens,
    get_adapter,
    load_model,
    load_tokenizer,
    new_adapter,
    outline,
)


@pytest.fixture(scope="module")
def tokenizer(policy_model):
    return load_tokenizer(policy_model)


@pytest.fixture
def lm(policy_model, policy_params, tokenizer):
    return load_model(policy_model, "float32", tokenizer, policy_params.prompt)


def logits(lm):
    with torch.inference_mode():
        return lm(torch.tensor([[40, 41, 42]])).logits


def test_answers_end_with_the_end_token_a_quote_or_a_line(
    policy_model, tokenizer, policy_params
):
    ends = end_tokens(policy_model, tokenizer, policy_params.prompt)
    assert tokenizer.eos_token_id in ends
    texts = {tokenizer.decode([token]) for token in ends}
    assert texts == {tokenizer.eos_token, '"', "\n"}


def test_reasoning_ends_with_the_end_token(policy_model, tokenizer, policy_params):
    prompt = policy_params.prompt.model_copy(update={"answer": '{reasoning} "{title}"'})
    assert end_tokens(policy_model, tokenizer, prompt) == [tokenizer.eos_token_id]


def test_a_model_s_own_end_tokens_stay(
    policy_model, policy_params, tokenizer, tmp_path
):
    model = {"pretrained_model_name_or_path": str(tmp_path / "model")}
    shutil.copytree(policy_model["pretrained_model_name_or_path"], tmp_path / "model")
    config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, 41])
    config.save_pretrained(tmp_path / "model")
    without = end_tokens(policy_model, tokenizer, policy_params.prompt)
    assert 41 not in without
    lm = load_model(model, "float32", tokenizer, policy_params.prompt)
    assert lm.generation_config.eos_token_id == sorted([*without, 41])


def test_a_fresh_adapter_changes_no_answer(lm, policy_params):
    before = logits(lm)
    assert torch.equal(logits(new_adapter(lm, policy_params.lora, seed=0)), before)


def test_an_adapter_survives_the_way_out_and_in(
    lm, policy_model, policy_params, tokenizer
):
    policy = new_adapter(lm, policy_params.lora, seed=0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    again = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    copy = attach_adapter(again, get_adapter(policy))
    assert torch.equal(logits(copy), logits(policy))


def test_equal_seeds_give_equal_adapters(policy_model, policy_params, tokenizer):
    def tensors(seed):
        base = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
        return get_adapter(new_adapter(base, policy_params.lora, seed))["tensors"]

    one, same, other = tensors(1), tensors(1), tensors(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_of_another_shape_is_refused(lm, policy_model, policy_params):
    adapter = get_adapter(new_adapter(lm, policy_params.lora, seed=0))
    name = next(iter(adapter["tensors"]))
    adapter["tensors"][name] = torch.zeros(1, 1)
    tokenizer = load_tokenizer(policy_model)
    again = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    with pytest.raises(InputError, match="does not fit policy_model"):
        attach_adapter(again, adapter)


def change_rank(adapter):
    name = next(iter(adapter["tensors"]))
    adapter["tensors"][name] = adapter["tensors"][name][:1]


def change_layers(adapter):
    adapter["config"]["target_modules"] = ["c_attn", "c_proj"]


@pytest.mark.parametrize("change", [change_rank, change_layers])
def test_an_adapter_that_does_not_fit_shows_without_weights(
    lm, policy_model, policy_params, change
):
    adapter = get_adapter(new_adapter(lm, policy_params.lora, seed=0))
    attach_adapter(outline(policy_model, "float32"), adapter)
    change(adapter)
    with pytest.raises(InputError, match="adapter does not fit policy_model"):
        attach_adapter(outline(policy_model, "float32"), adapter)


def test_lora_on_layers_that_the_model_lacks(lm, policy_params):
    lora = policy_params.lora.model_copy(update={"target_modules": ["no_such_layer"]})
    with pytest.raises(InputError, match=r"policy\.lora does not fit the model"):
        new_adapter(lm, lora, seed=0)


def test_a_model_that_cannot_be_had(tmp_path):
    with pytest.raises(InputError, match=r"policy_model .* cannot be loaded \("):
        load_tokenizer({"pretrained_model_name_or_path": str(tmp_path)})


def test_a_model_without_a_chat_template(tmp_path, policy_model, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        load_tokenizer({"pretrained_model_name_or_path": str(tmp_path)})


FAULTS = """
import resource, torch
from minirec.policy.loading import _keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

_keep_freed_memory()
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
