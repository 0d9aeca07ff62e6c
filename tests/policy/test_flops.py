from functools import partial

import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from minirec.costs import counting
from minirec.policy import gradients, rollouts
from minirec.policy.item_tokens import last_hidden
from minirec.policy.loading import load_model, load_tokenizer, new_adapter
from minirec.policy.packed_rows import packed_log_probs
from minirec.training.warm_start import teach_answers

ATEN = torch.ops.aten
# torch leaves out the one that writes in place, and attention on a processor
PRODUCTS = flop_registry | {
    ATEN.addmm_: flop_registry[ATEN.addmm],
    ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        ATEN._scaled_dot_product_flash_attention
    ],
}
PROMPTS = [
    "The Ark (1988), Heat",
    "The Ark (1988), Heat and a much longer tail",
    "The Ark (1988), Up",
]
# of `groups`: prompts, and tokens that others are behind
COLUMNS = (7 + 4) + (3 + 4) + (5 + 6)


class Multiplied(TorchDispatchMode):
    """Count products as torch's own ``FlopCounterMode``, also in ``autograd.grad``."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # `linear` arrives whole where nothing is differentiated
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = func(*args, **kwargs)
        count = PRODUCTS.get(func._overloadpacket)
        self.total += count(*args, **kwargs, out_val=out) if count else 0
        return out


@pytest.fixture(scope="module")
def policy(policy_model, policy_params):
    tokenizer = load_tokenizer(policy_model)
    lm = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    return new_adapter(lm, policy_params.lora, seed=0), tokenizer


def measured(function):
    with Multiplied() as torchs, counting() as costs:
        function()
    return torchs.total, costs


def spared(lm):
    """Weights that no gradient passes: nothing before the first block asks for one."""
    first = lm.get_submodule("base_model.model.model.layers.0.self_attn")
    return sum(
        module.base_layer.weight.numel() + module.lora_A["default"].weight.numel()
        for module in (first.q_proj, first.k_proj, first.v_proj)
    )


def test_rollouts_are_counted_as_torch_counts_them(policy):
    written = []
    torchs, costs = measured(
        lambda: written.extend(
            rollouts.sample_completions(*policy, PROMPTS, [(1,), (2,), (3,)], 2, 6, 1.0)
        )
    )
    assert costs.flops == torchs
    assert costs.tokens_generated == sum(len(c.tokens) for own in written for c in own)
    ids = policy[1](PROMPTS, add_special_tokens=False)["input_ids"]
    shared = rollouts._shared_prefix(ids)
    assert shared > 0
    assert costs.tokens_read == sum(map(len, ids)) - 2 * shared
    assert costs.tokens_trained == 0


def test_gradients_are_counted_as_torch_counts_them(policy, groups):
    lm, _ = policy
    advantages = [[1.0, -1.0, 0.5]] * 3

    for last_blocks in (1, 2):
        parameters = gradients.trainable_parameters(lm, last_blocks)
        torchs, costs = measured(
            partial(
                gradients.sample_gradients, lm, *groups, advantages, 0, 1.0, parameters
            )
        )
        assert costs.flops == torchs
        assert (costs.tokens_read, costs.tokens_trained) == (COLUMNS, 0)
    for function, weights in (
        (gradients.hidden_gradients, advantages),
        (gradients.hessian_products, torch.ones(32)),
    ):
        torchs, costs = measured(partial(function, lm, *groups, weights, 0, 1.0))
        assert costs.flops == torchs
        assert costs.tokens_read == COLUMNS


def test_training_is_counted_as_torch_counts_it(policy, groups):
    lm, _ = policy
    parameters = [p for p in lm.parameters() if p.requires_grad]

    def train():
        loss = packed_log_probs(lm, *groups, 0).log_prob.sum()
        torch.autograd.grad(loss, parameters)

    torchs, costs = measured(train)
    padded = 3 * 11
    assert costs.flops - torchs == 2 * padded * spared(lm)
    assert costs.tokens_trained == COLUMNS
    with torch.no_grad():
        torchs, costs = measured(lambda: packed_log_probs(lm, *groups, 0))
    assert costs.flops == torchs
    assert (costs.tokens_read, costs.tokens_trained) == (COLUMNS, 0)


def test_a_supervised_start_is_counted_as_torch_counts_it(policy, policy_params):
    lm, tokenizer = policy
    prompts = pd.DataFrame({"prompt": ["The Ark", "Up"], "target_item_id": ["a", "b"]})
    items = pd.DataFrame(
        {"item_id": ["a", "b"], "title": ["Heat", "The Silent Garden"]}
    )
    torchs, costs = measured(
        lambda: teach_answers(
            lm, tokenizer, prompts, items, policy_params.prompt, 1, 0.0, 2, 0
        )
    )
    # prompt, title, quotation mark and end token; padded to the longer one
    texts = ['The ArkHeat"', 'UpThe Silent Garden"']
    n = [len(ids) + 1 for ids in tokenizer(texts)["input_ids"]]
    assert costs.tokens_trained == sum(n)
    padded = 2 * max(n)
    # torch leaves out the backward pass of attention on a processor
    attention = 2 * lm.config.num_hidden_layers * 4 * 32 * padded * max(n)
    assert costs.flops - torchs == 2 * padded * spared(lm) + attention


def test_item_tokens_are_counted_as_torch_counts_them(tiny, policy_params):
    policy = tiny.make(tiny.params(policy_params))
    lm, ids = policy.lm, [[8, 0, 1, 2], [8, 3]]
    torchs, costs = measured(
        torch.no_grad()(lambda: policy.logits(last_hidden(lm, ids)))
    )
    assert costs.flops == torchs
    assert (costs.tokens_read, costs.tokens_trained) == (6, 0)

    torchs, costs = measured(
        lambda: policy.logits(last_hidden(lm, ids)).sum().backward()
    )
    # torch leaves out the backward pass of attention on a processor: two blocks of
    # 2 x 4 tokens, of which the last asks for a row's last token
    attention = 2 * 4 * lm.config.hidden_size * (2 * 4 * 4 + 2 * 4)
    assert costs.flops == torchs + attention
    assert (costs.tokens_read, costs.tokens_trained) == (0, 6)
