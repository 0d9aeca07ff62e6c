import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from datasets import Dataset
from minirec.policy.loading import load_model, load_tokenizer, new_adapter
from minirec.training.packed_trainer import PackedGRPOTrainer
from minirec.training.quiet import quiet_trainer

# three prompts with two completions each, shuffled as TRL does; 0 pads
PROMPTS = [[0, 5, 9], [7, 3, 8], [0, 5, 9], [0, 0, 4], [7, 3, 8], [0, 0, 4]]
COMPLETIONS = [[20, 21, 2], [22, 0, 0], [23, 2, 0], [24, 25, 0], [2, 0, 0], [26, 0, 0]]


@pytest.fixture(scope="module")
def trainer(policy_model, policy_params, tmp_path_factory):
    tokenizer = load_tokenizer(policy_model)
    lm = load_model(policy_model, "float64", tokenizer, policy_params.prompt)
    policy = new_adapter(lm, policy_params.lora, seed=0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    config = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trainer")),
        per_device_train_batch_size=6,
        num_generations=2,
        temperature=0.7,
        **quiet_trainer(),
    )
    return PackedGRPOTrainer(
        model=policy.double(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 6}),
        processing_class=tokenizer,
    )


@pytest.fixture(scope="module")
def batch():
    prompts, completions = torch.tensor(PROMPTS), torch.tensor(COMPLETIONS)
    ids = torch.cat([prompts, completions], dim=1)
    return ids, (ids != 0).long(), completions.shape[1]


def gradients(trainer, values):
    weight = torch.linspace(-1, 1, values.numel(), dtype=values.dtype)
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    return torch.autograd.grad((values.flatten() * weight).sum(), parameters)


def test_packed_rows_give_what_trl_computes(trainer, batch):
    ids, mask, kept = batch
    used = mask[:, -kept:].double()
    ours, our_entropy, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, kept, compute_entropy=True
    )
    theirs, their_entropy, _ = GRPOTrainer._get_per_token_logps_and_entropies(
        trainer, trainer.model, ids, mask, kept, compute_entropy=True
    )
    # TRL's fused head computes in float32: 2^-24 of logits of order 10
    tolerance = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(
        ours.double() * used, theirs.double() * used, **tolerance
    )
    torch.testing.assert_close(
        our_entropy.double() * used, their_entropy.double() * used, **tolerance
    )
    for our, their in zip(
        gradients(trainer, ours * used), gradients(trainer, theirs * used), strict=True
    ):
        scale = float(their.abs().max())
        torch.testing.assert_close(our, their, atol=1e-4 * scale, rtol=0)


def test_a_part_without_a_completion_has_no_gradient(trainer, batch):
    ids, mask, kept = batch
    masked = mask.clone()
    masked[:, -kept:] = 0  # as by mask_truncated_completions, if all were cut
    log_probs, entropy, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, masked, kept
    )
    assert not log_probs.any()
    assert not entropy.any()
    assert not any(gradient.any() for gradient in gradients(trainer, log_probs))


def test_padding_is_zero(trainer, batch):
    ids, mask, kept = batch
    ours, entropy, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, kept
    )
    unused = mask[:, -kept:] == 0
    assert not ours[unused].any()
    assert not entropy[unused].any()
