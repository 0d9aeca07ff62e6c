import numpy as np
import pandas as pd
import pytest
import torch
from trl import GRPOConfig

from datasets import Dataset
from minirec.errors import InputError
from minirec.policy.head import HeadPolicy
from minirec.policy.loading import (
    get_adapter,
    load_model,
    load_tokenizer,
    new_adapter,
)
from minirec.policy.params import GRPOParams, PolicyParams
from minirec.policy.rewards import Tasks
from minirec.training.grpo import Checkpoints, train_grpo
from minirec.training.head_trainer import HeadGRPOTrainer
from minirec.training.quiet import quiet_trainer

ITEMS = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["Amber", "Paper", "Owl"]})
# two of them are to find the same item
PROMPTS = pd.DataFrame(
    {
        "sample_id": [4, 7, 9],
        "prompt": ["The Golden Machine", "A Machine", "Paper Machine"],
        "target_item_id": ["c", "a", "c"],
        "seen_item_id": [["b"], [], []],
    }
)
# of each prompt two completions, one of which ends by itself
COMPLETIONS = [
    [["Garden", "<end>"], ["Orchard of Winter"]],
    [["Garden Paper"], ["", "<end>"]],
    [["The"], ["Silent", "<end>"]],
]
REWARDS = [0.1, 0.7, 0.4, 0.2, 0.0, 0.3]
BEST = [1, 0, 1]
WEIGHT = 0.3


@pytest.fixture
def policy(made):
    return made()


@pytest.fixture(scope="module")
def made(policy_model, parameters):
    """Return a function that makes the same untrained policy again."""
    prompt = {"template": "conf/prompts/head.txt", "max_tokens": None}
    head = {**parameters["policy"]["head"], "item_loss_weight": WEIGHT, "refresh": 2}
    params = PolicyParams.model_validate(
        {**parameters["policy"], "kind": "policy_head", "prompt": prompt, "head": head}
    )

    def make():
        tokenizer = load_tokenizer(policy_model)
        base = load_model(policy_model, "float64", tokenizer, params.prompt)
        lm = new_adapter(base, params.lora, seed=0).double()
        torch.manual_seed(0)
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return HeadPolicy(ITEMS, params, lm, tokenizer)

    return make


@pytest.fixture
def completions(policy):
    """Their token ids, as they were written."""
    end = policy.tokenizer.eos_token
    return [
        [ids_of(policy, "".join(own).replace("<end>", end)) for own in group]
        for group in COMPLETIONS
    ]


def ids_of(policy, text):
    return policy.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture
def trainer(policy, completions, tmp_path, monkeypatch):
    """One that has the completions written, rather than the policy."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def written(prompts, trainer):
        return {
            "prompt_ids": [ids_of(policy, prompt) for prompt in prompts],
            "completion_ids": [own for group in completions for own in group],
            "logprobs": None,
        }

    config = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=6,
        num_generations=2,
        **quiet_trainer(),
    )
    made = HeadGRPOTrainer(
        model=policy.lm,
        reward_funcs=lambda completions, **_: REWARDS,
        args=config,
        train_dataset=Dataset.from_pandas(PROMPTS[["prompt", "sample_id"]]),
        processing_class=policy.tokenizer,
        rollout_func=written,
        policy=policy,
        tasks=Tasks(PROMPTS, ITEMS),
    )
    made.current_gradient_accumulation_steps = 1  # which `train` sets
    made.model.train()
    return made


def gradient(policy, loss):
    parameters = [p for p in policy.lm.parameters() if p.requires_grad]
    parts = torch.autograd.grad(loss, parameters)
    return torch.cat([part.flatten() for part in parts])


def log_probs(policy, prompt, completion):
    """Of each token of a completion, behind its prompt in a row of its own."""
    logits = policy.lm(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 :]
    return [own.log_softmax(-1)[t] for own, t in zip(logits, completion, strict=False)]


def advantages():
    """By TRL's formula, (3, 2)."""
    rewards = torch.tensor(REWARDS, dtype=torch.float64).view(-1, 2)
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
    return (rewards - mean) / (std + 1e-4)


def token_loss(policy, completions):
    """Minus the mean over all tokens of advantage x log-probability."""
    terms = [
        advantage * log_prob
        for prompt, group, own in zip(
            PROMPTS["prompt"], completions, advantages(), strict=True
        )
        for completion, advantage in zip(group, own, strict=True)
        for log_prob in log_probs(policy, ids_of(policy, prompt), completion)
    ]
    return -sum(terms) / len(terms)


def item_loss(policy, completions):
    """Cross-entropy of the best completions with the two targets, row by row."""

    def vector(ids):
        read = policy.lm(torch.tensor([ids]), output_hidden_states=True)
        state = read.hidden_states[-1][0, -1]
        return state / state.norm()

    items = torch.stack([vector(policy.item_ids[row] + policy.mark) for row in (2, 0)])
    losses = []
    for prompt, group, best, target in zip(
        PROMPTS["prompt"], completions, BEST, [0, 1, 0], strict=True
    ):
        reasoning = [t for t in group[best] if t != policy.tokenizer.eos_token_id]
        mark = ids_of(policy, "<answer>")
        cosines = items @ vector(ids_of(policy, prompt) + reasoning + mark)
        losses.append(-(cosines / 0.02).log_softmax(0)[target])
    return sum(losses) / len(losses)


def test_gradients_are_those_of_the_formulas(trainer, policy, completions):
    rows = [row for row in PROMPTS.to_dict("records") for _ in range(2)]
    inputs = trainer._generate_and_score_completions(rows)
    # TRL's are in float32
    torch.testing.assert_close(inputs["advantages"], advantages().flatten().float())
    inputs["advantages"] = advantages().flatten()
    both = gradient(policy, trainer._compute_loss(trainer.model, inputs))
    of_tokens = gradient(policy, token_loss(policy, completions))
    of_items = gradient(policy, item_loss(policy, completions))
    # Llama's norms are in float32, also of a model in float64: 2^-24 of several sums
    tolerance = {"rtol": 0, "atol": 1e-6 * float(both.abs().max())}
    assert of_tokens.abs().max() > 1e-3
    assert of_items.abs().max() > 1e-3
    torch.testing.assert_close(both, of_tokens + WEIGHT * of_items, **tolerance)
    (logged,) = trainer._metrics["train"]["item_loss"]
    assert logged == pytest.approx(item_loss(policy, completions).item())


def test_a_part_without_a_best_rollout_has_no_item_loss(trainer):
    rows = [row for row in PROMPTS.to_dict("records") for _ in range(2)]
    inputs = trainer._generate_and_score_completions(rows)
    first = {name: value[:1] for name, value in inputs.items() if value.ndim}
    assert not first["best"].any()
    assert trainer._item_losses(trainer.model, first).tolist() == []


def of_target(ranks, scores, targets):
    return scores[np.arange(len(ranks)), targets]


def train(policy, reward, kept=None, prompts_per_step=1, **grpo):
    given = {"learning_rate": 0.05, "num_generations": 2, "beta": 0.0, **grpo}
    return train_grpo(
        policy,
        PROMPTS[["sample_id"]].assign(stage=0, mean_reward=0.0),
        PROMPTS,
        Tasks(PROMPTS, ITEMS),
        reward,
        GRPOParams.model_validate(given),
        prompts_per_step=prompts_per_step,
        pace=None,
        seed=3,
        label="test",
        kept=kept,
    )


def test_a_step_in_parts_is_the_same_step(made):
    """Two rows a part: most best rollouts have none but their own target beside them.

    Steps are those of plain descent, in which rounding stays what it is.
    """
    found, logged = [], []
    for parts in (1, 3):
        policy = made()
        before = get_adapter(policy.lm)["tensors"]
        log = train(
            policy,
            of_target,
            prompts_per_step=3,
            optim="sgd",
            gradient_accumulation_steps=parts,
        ).log
        after = get_adapter(policy.lm)["tensors"]
        found.append(torch.cat([(after[n] - before[n]).flatten() for n in before]))
        logged.append(log["item_loss"].item())
    whole, in_parts = found
    # Llama's norms are in float32: 2^-24 of several sums
    torch.testing.assert_close(
        in_parts, whole, rtol=0, atol=1e-6 * float(whole.abs().max())
    )
    assert whole.abs().max() > 1e-4
    assert logged[0] == pytest.approx(logged[1], rel=1e-6)
    assert logged[0] > 0.01  # there are negatives


def test_no_vector_is_stale_after_training(policy, monkeypatch):
    steps = []
    read = HeadPolicy._read

    def spy(self, prompts, answers, label=None):
        if label:
            steps.append(len(prompts))
        return read(self, prompts, answers, label)

    monkeypatch.setattr(HeadPolicy, "_read", spy)
    before = policy.item_vectors.copy()
    training = train(policy, of_target)
    assert len(steps) == 3  # at first, and before steps 0 and 2
    assert (training.log["item_loss"] >= 0).all()
    used = policy.item_vectors
    fresh = HeadPolicy(ITEMS, policy.params, policy.lm, policy.tokenizer).item_vectors
    np.testing.assert_array_equal(used, fresh)
    assert np.abs(used - before).max() > 1e-3


def test_checkpoints_change_nothing_and_keep_who_read_the_items(made, tmp_path):
    """Cut in the fourth step, whose items were read by the adapter of the third."""

    def failing(ranks, scores, targets):
        calls.append(1)
        if len(calls) == 4:
            raise InterruptedError
        return of_target(ranks, scores, targets)

    calls = []
    whole, cut, resumed, without = made(), made(), made(), made()
    train(without, of_target, num_train_epochs=2)
    own = Checkpoints(tmp_path / "whole", steps=1)
    log = train(whole, of_target, own, num_train_epochs=2).log
    kept = Checkpoints(tmp_path / "cut", steps=1)
    with pytest.raises(InputError, match="InterruptedError"):
        train(cut, failing, kept, num_train_epochs=2)
    assert [path.name for path in kept.folder.iterdir()] == ["step-00000003"]
    again = train(resumed, of_target, kept, num_train_epochs=2).log
    assert again["reward"].tolist() == log["reward"].tolist()
    assert (whole.item_vectors == without.item_vectors).all()
    assert (resumed.item_vectors == without.item_vectors).all()
