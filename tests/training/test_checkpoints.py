import json

import pandas as pd
import pytest
import torch

from minirec.errors import InputError
from minirec.policy.loading import get_adapter
from minirec.policy.params import GRPOParams, PaceParams
from minirec.policy.rewards import Tasks
from minirec.training import checkpoints
from minirec.training.grpo import Checkpoints, train_grpo

# a momentum, a schedule and a drop-out that a wrong state would show in
GRPO = GRPOParams(
    learning_rate=0.01,
    num_generations=2,
    beta=0.1,
    num_train_epochs=2,
    gradient_accumulation_steps=2,
    lr_scheduler_type="linear",
)
CURRICULUM = pd.DataFrame(
    {
        "sample_id": [12, 4, 9, 15, 7],
        "stage": [0, 0, 1, 1, 1],
        "mean_reward": [0.5, 0.4, 0.3, 0.2, 0.1],
    }
)
PACE = PaceParams(rise=0.0, window=2, max_passes=2)


class Cut(Exception):
    """Stands for a kill."""


def train(policy, prompts, items, reward, kept, grpo=GRPO):
    training = train_grpo(
        policy,
        CURRICULUM,
        prompts,
        Tasks(prompts, items),
        reward,
        grpo,
        prompts_per_step=2,
        pace=PACE,
        seed=3,
        label="test",
        kept=kept,
    )
    return get_adapter(policy.lm)["tensors"], training


def reciprocal(ranks, scores, targets):
    return 1 / (1 + ranks)


def failing_at(call):
    calls = []

    def reward(ranks, scores, targets):
        calls.append(1)
        if len(calls) >= call:
            raise Cut("the lights went out")
        return reciprocal(ranks, scores, targets)

    return reward


@pytest.fixture
def dropping(learner):
    """The same untrained policy each time, with drop-out in its adapter."""

    def make():
        policy = learner()
        for module in policy.lm.modules():
            if isinstance(module, torch.nn.Identity):
                continue
            if hasattr(module, "lora_dropout"):
                module.lora_dropout["default"] = torch.nn.Dropout(0.3)
        return policy

    return make


@pytest.mark.parametrize("iterations", [1, 2])
def test_what_was_cut_short_ends_as_if_it_had_not_been(
    dropping, prompts, items, tmp_path, iterations
):
    grpo = GRPO.model_copy(update={"num_iterations": iterations})
    whole, expected = train(dropping(), prompts, items, reciprocal, None, grpo)
    kept = Checkpoints(tmp_path / "key", steps=2)
    with pytest.raises(InputError, match=r"failing_at.* failed for sample \d+: Cut"):
        train(dropping(), prompts, items, failing_at(4), kept, grpo)
    (last,) = kept.folder.iterdir()
    assert last.name == f"step-0000000{2 * iterations}"
    resumed, training = train(dropping(), prompts, items, reciprocal, kept, grpo)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    pd.testing.assert_frame_equal(training.consumed, expected.consumed)
    timed = ["step_time", "tokens_per_second"]
    pd.testing.assert_frame_equal(
        training.log.drop(columns=timed), expected.log.drop(columns=timed)
    )
    assert training.log["step"].tolist() == list(range(1, 5 * iterations + 1))


def test_what_is_finished_is_not_trained_again(learner, prompts, items, tmp_path):
    kept = Checkpoints(tmp_path / "key", steps=2)
    first, _ = train(learner(), prompts, items, reciprocal, kept)
    again, training = train(learner(), prompts, items, failing_at(1), kept)
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert len(training.consumed) == 10


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of one parameter, after three steps of AdamW."""
    from transformers import TrainerState

    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    for _ in range(3):
        parameter.grad = torch.tensor([1.0, -2.0])
        optimizer.step()
        scheduler.step()
    state = TrainerState(global_step=3)
    earned = [(4, 0.25)]
    beside = {"b": torch.zeros(1)}
    checkpoints.write(
        tmp_path, state, {"a": parameter}, optimizer, scheduler, earned, beside
    )
    return optimizer, scheduler, tmp_path


def test_a_checkpoint_gives_back_what_it_was_given(checkpoint):
    optimizer, scheduler, folder = checkpoint
    last = checkpoints.last_of(folder)
    fresh = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=9.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(fresh)
    checkpoints.restore(last, fresh, schedule)
    found, expected = fresh.state_dict(), optimizer.state_dict()
    plain = json.loads(json.dumps(expected["param_groups"]))  # tuples become lists
    assert found["param_groups"] == plain
    assert found["state"].keys() == expected["state"].keys() == {0}
    for name, value in expected["state"][0].items():
        assert torch.equal(found["state"][0][name], value)
    assert schedule.state_dict() == scheduler.state_dict()
    assert checkpoints.read_earned(last) == [(4, 0.25)]
    assert checkpoints.read_others(last) == {"b": torch.zeros(1)}
    assert checkpoints.read_state(last).global_step == 3


@pytest.mark.parametrize("name", ["adapter.safetensors", "sha256.json"])
def test_a_damaged_checkpoint_is_refused(checkpoint, name):
    *_, folder = checkpoint
    file = checkpoints.last_of(folder) / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="step-00000003 is not as it was written"):
        checkpoints.last_of(folder)


def test_nothing_is_pickled(checkpoint):
    *_, folder = checkpoint
    for file in checkpoints.last_of(folder).iterdir():
        assert file.suffix in {".safetensors", ".json"}
        if file.suffix == ".json":
            json.loads(file.read_text())


def test_of_other_trainings_nothing_stays(tmp_path):
    for name in ("mine", "other"):
        (tmp_path / name / "step-00000001").mkdir(parents=True)
    (tmp_path / ".DS_Store").touch()  # a file is no training's
    checkpoints.keep_only(tmp_path / "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"mine", ".DS_Store"}
