import pytest
import torch
from peft import LoraConfig, get_peft_model

from minirec.errors import InputError
from minirec.policy.fast_lora import fast_lora

TOKENS = torch.tensor([[5, 9, 2, 7], [4, 4, 6, 1]])


def loss_and_gradients(policy):
    adapter = [p for name, p in policy.named_parameters() if "lora_" in name]
    loss = policy(TOKENS).logits.logsumexp(-1).sum()
    return loss, torch.autograd.grad(loss, adapter)


def test_equals_peft_forward_and_backward(any_policy):
    expected, peft = loss_and_gradients(any_policy)
    with fast_lora(any_policy):
        loss, fast = loss_and_gradients(any_policy)
    # Norms and softmax round to float32, 2^-24: a different last digit of float64
    # before them can turn one such rounding, and each block has a handful
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for own, its in zip(fast, peft, strict=True):
        assert (own - its).abs().max() <= 1e-5 * its.abs().max()


def test_one_layer_equals_peft_to_the_last_digits(float64_policy):
    layer = float64_policy.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    x = torch.randn(2, 3, 32, dtype=torch.float64)
    expected = layer(x)
    with fast_lora(float64_policy):
        torch.testing.assert_close(layer(x), expected, rtol=1e-13, atol=1e-13)
        with torch.no_grad():  # in place, more than once
            for _ in range(2):
                torch.testing.assert_close(layer(x), expected, rtol=1e-13, atol=1e-13)


def test_bfloat16_differs_by_less_than_its_own_rounding():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 48)).bfloat16()
    policy = get_peft_model(net, LoraConfig(r=8, target_modules=["0"]))
    layer = policy.base_model.model[0]
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    x = torch.randn(100, 64).bfloat16()
    assert layer.lora_A["default"].weight.dtype == torch.float32
    exact = x.double() @ layer.get_delta_weight("default").double().T
    exact = exact + layer.base_layer(x).double()
    with fast_lora(policy):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    # the adapter's two matrices, what is between them and the sum are rounded to
    # 2^-9 each; the first three touch the low-rank term alone
    size = (
        x.double().abs()
        @ (layer.lora_B["default"].weight.abs() @ layer.lora_A["default"].weight.abs())
        .double()
        .T
    )
    bound = 2.0**-9 * (exact.abs() + 3 * size)
    assert ((out.double() - exact).abs() <= 1.01 * bound).all()


def test_peft_is_back_afterwards_and_can_be_disabled_within(float64_policy):
    plain = float64_policy(TOKENS).logits
    with float64_policy.disable_adapter():
        without = float64_policy(TOKENS).logits
    with fast_lora(float64_policy), float64_policy.disable_adapter():
        assert torch.equal(float64_policy(TOKENS).logits, without)
    assert torch.equal(float64_policy(TOKENS).logits, plain)
    assert not any("forward" in vars(module) for module in float64_policy.modules())


def test_nested_contexts_end_one_by_one(float64_policy):
    layer = float64_policy.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    with fast_lora(float64_policy):
        outer = layer.forward
        with fast_lora(float64_policy):
            pass
        assert layer.forward is outer
    assert "forward" not in vars(layer)


def test_dropout_of_training_stays():
    net = torch.nn.Sequential(torch.nn.Linear(8, 8))
    lora = LoraConfig(r=2, target_modules=["0"], lora_dropout=0.5)
    policy = get_peft_model(net, lora)
    torch.nn.init.ones_(policy.base_model.model[0].lora_B["default"].weight)
    policy.train()
    torch.manual_seed(1)
    expected = policy(torch.ones(3, 8))
    torch.manual_seed(1)
    with fast_lora(policy):
        torch.testing.assert_close(policy(torch.ones(3, 8)), expected)


def test_other_adapters_than_plain_lora_are_refused():
    net = torch.nn.Sequential(torch.nn.Linear(8, 8))
    policy = get_peft_model(net, LoraConfig(target_modules=["0"], use_dora=True))
    with pytest.raises(InputError, match="not plain LoRA"), fast_lora(policy):
        pass
