from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from minirec.errors import InputError
from minirec.policy.loading import get_adapter
from minirec.policy.packed_rows import packed_log_probs
from minirec.policy.params import GRPOParams, PaceParams
from minirec.policy.rewards import Tasks
from minirec.policy.rollouts import sample_completions
from minirec.schemas import TrainingLog
from minirec.selection.curriculum import (
    order_in_groups,
    order_in_stages,
    order_shuffled,
    order_sorted,
    stage_of,
)
from minirec.training import grpo, packed_trainer
from minirec.training.grpo import Checkpoints, train_grpo

PARAMS = GRPOParams(learning_rate=0.01, num_generations=3, beta=0.0)


def reciprocal(ranks, scores, targets):
    return 1 / (1 + ranks)


@pytest.fixture(scope="module")
def curriculum():
    return pd.DataFrame(
        {
            "sample_id": [12, 4, 9, 15, 7],
            "stage": [0, 0, 1, 1, 1],
            "mean_reward": [0.5, 0.4, 0.3, 0.2, 0.1],
        }
    )


def train(
    learner,
    curriculum,
    prompts,
    items,
    reward=reciprocal,
    pace=None,
    kept=None,
    params=PARAMS,
):
    return train_grpo(
        learner,
        curriculum,
        prompts,
        Tasks(prompts, items),
        reward,
        params,
        prompts_per_step=2,
        pace=pace,
        seed=3,
        label="test",
        kept=kept,
    )


@pytest.mark.parametrize(
    "order", [order_in_groups, order_in_stages, order_sorted, order_shuffled]
)
def test_every_order_is_consumed_as_it_is(learner, curriculum, prompts, items, order):
    ids = order(curriculum["sample_id"], curriculum["mean_reward"], 2, seed=1)
    ordered = pd.DataFrame({"sample_id": ids, "stage": stage_of(5, 2)})
    training = train(learner(), ordered.assign(mean_reward=0.1), prompts, items)
    padded = [*ids, ids[2]]  # the first of the last stage
    assert training.consumed["sample_id"].tolist() == padded


def test_the_order_consumed_is_the_curriculum_s(learner, curriculum, prompts, items):
    training = train(learner(), curriculum, prompts, items)
    assert training.consumed.to_dict("list") == {
        "position": [0, 1, 2, 3, 4, 5],
        "step": [0, 0, 1, 1, 2, 2],
        "sample_id": [12, 4, 9, 15, 7, 9],
        "stage": [0, 0, 1, 1, 1, 1],
        "padding": [False] * 5 + [True],
    }
    assert training.log["step"].tolist() == [1, 2, 3]
    log = TrainingLog.validate(training.log)
    tokens = log["tokens_per_second"] * log["step_time"]
    np.testing.assert_allclose(tokens.cumsum(), log["num_tokens"])


def test_curves_go_to_tensorboard(learner, curriculum, prompts, items, tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason='pip install "tensorboard~=2.21"',
    )
    kept = Checkpoints(tmp_path / "key", 99, tensorboard=str(tmp_path / "curves"))
    training = train(learner(), curriculum, prompts, items, kept=kept)
    read = events.EventAccumulator(str(tmp_path / "curves" / "test")).Reload()
    rewards = [each.value for each in read.Scalars("train/reward")]
    np.testing.assert_allclose(rewards, training.log["reward"], rtol=2**-23)  # float32


@pytest.mark.parametrize(
    ("earned", "consumed"),
    [
        # 0.2 more than the 0.45 expected: but a step is drawn before the last one's
        # reward is known, so that stage 0 is drawn from twice
        (0.65, [12, 4, 12, 4, 9, 15]),
        # never: stage 0 gives way after its three passes
        (0.64, [12, 4, 12, 4, 12, 4]),
    ],
)
def test_a_harder_stage_opens_as_the_reward_rises(
    learner, curriculum, prompts, items, earned, consumed, caplog
):
    pace = PaceParams(rise=0.2 - 1e-9, window=2, max_passes=3)

    def constant(ranks, scores, targets):
        return np.full(len(ranks), earned)

    training = train(learner(), curriculum, prompts, items, constant, pace)
    assert training.consumed["sample_id"].tolist() == consumed
    assert not training.consumed["padding"].any()
    unseen = 5 - len(set(consumed))
    assert f"{unseen} of 5 samples were not reached at this pace" in caplog.text


def test_a_prompt_that_comes_twice_in_a_step_is_answered_anew(
    learner, prompts, items, monkeypatch
):
    seeds = []

    def spy(*args, **kwargs):
        seeds.append(kwargs["seeds"])
        return sample_completions(*args, **kwargs)

    monkeypatch.setattr(grpo, "sample_completions", spy)
    alone = pd.DataFrame({"sample_id": [12], "stage": [0], "mean_reward": [0.5]})
    train(learner(), alone, prompts, items)
    ((first, second),) = seeds
    assert first != second


def test_settings_reach_trl_by_its_own_names(
    learner, curriculum, prompts, items, monkeypatch
):
    given = {
        "loss_type": "dr_grpo",
        "epsilon_high": 0.28,
        "scale_rewards": "none",
        "lr_scheduler_type": "linear",
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
    }
    trainers = []

    class Spy(packed_trainer.PackedGRPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            trainers.append(self)

    monkeypatch.setattr(packed_trainer, "PackedGRPOTrainer", Spy)
    own = GRPOParams.model_validate({**PARAMS.model_dump(), **given})
    training = train(learner(), curriculum, prompts, items, params=own)
    found = {name: getattr(trainers[0].args, name) for name in given}
    assert found == given
    rates = training.log["learning_rate"]
    assert rates.iloc[0] == PARAMS.learning_rate
    assert rates.is_monotonic_decreasing


def test_a_setting_that_trl_refuses_is_told(learner, curriculum, prompts, items):
    own = GRPOParams.model_validate({**PARAMS.model_dump(), "optim": "sdg"})
    with pytest.raises(
        InputError, match="TRL refuses the settings of grpo: sdg is not"
    ):
        train(learner(), curriculum, prompts, items, params=own)


def test_equal_seeds_give_equal_adapters(learner, curriculum, prompts, items):
    one, same = learner(), learner()
    before = get_adapter(one.lm)["tensors"]
    train(one, curriculum, prompts, items)
    train(same, curriculum, prompts, items)
    after, again = get_adapter(one.lm)["tensors"], get_adapter(same.lm)["tensors"]
    assert all(torch.equal(after[name], again[name]) for name in after)
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_a_prompt_is_read_once_in_a_step_of_several_parts(
    learner, curriculum, prompts, items, monkeypatch
):
    read = []

    def spy(lm, prompts, *args):
        read.append(len(prompts))
        return packed_log_probs(lm, prompts, *args)

    monkeypatch.setattr(packed_trainer, "packed_log_probs", spy)
    parts = PARAMS.model_copy(update={"gradient_accumulation_steps": 2})
    train(learner(), curriculum, prompts, items, params=parts)
    assert read == [1] * 6  # two parts in each of three steps, of one group each


def test_completions_broken_off_earn_nothing(
    learner, curriculum, prompts, items, monkeypatch
):
    def broken(*args, **kwargs):
        groups = sample_completions(*args, **kwargs)
        return [[c._replace(finite=False) for c in group] for group in groups]

    monkeypatch.setattr(grpo, "sample_completions", broken)
    training = train(learner(), curriculum, prompts, items)
    assert training.log["reward"].tolist() == [0, 0, 0]


def test_training_that_diverges_is_told(learner, curriculum, prompts, items):
    wild = PARAMS.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(InputError, match=r"test: the adapter holds .* lower grpo"):
        train(learner(), curriculum, prompts, items, params=wild)


def test_training_raises_the_reward(learner, prompts, items):
    """Reward alone what lies near item c, whoever asks: it is written more often."""
    policy = learner()

    def nearness(ranks, scores, targets):
        return scores[:, 2]

    many = pd.concat([prompts.head(4)] * 40, ignore_index=True)
    unmasked = many.assign(sample_id=many.index, seen_item_id=[[]] * len(many))
    training = train_grpo(
        policy,
        curriculum=unmasked[["sample_id"]].assign(stage=0, mean_reward=0.0),
        prompts=unmasked,
        tasks=Tasks(unmasked, items),
        reward=nearness,
        grpo=GRPOParams(learning_rate=0.02, num_generations=8, beta=0.0),
        prompts_per_step=4,
        pace=None,
        seed=3,
        label="test",
    )
    first, last = training.log.head(10), training.log.tail(10)
    # means over 10 x 32 completions each; their standard errors add up
    error = np.hypot(*(part["reward_std"].mean() / 320**0.5 for part in (first, last)))
    assert last["reward"].mean() - first["reward"].mean() > 3 * error


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda ranks, *_: ranks[:-1], r"shape \(5,\) for 6 completions"),
        (lambda ranks, *_: np.full(len(ranks), np.nan), "not finite for sample 12"),
    ],
)
def test_a_reward_that_returns_rubbish_stops_training(
    learner, curriculum, prompts, items, value, message
):
    with pytest.raises(InputError, match=message):
        train(learner(), curriculum, prompts, items, reward=value)


def test_vllm_writes_what_its_settings_say(learner):
    """By a stand-in for TRL's client: it needs a GPU and vLLM beside TRL."""
    policy = learner()
    params = PARAMS.model_copy(update={"__pydantic_extra__": {"use_vllm": True}})
    asked = []

    def generate(prompts, images, num_generations):
        asked.append((prompts, images, num_generations))
        return prompts, [[5, 6]] * 3, [[[-0.5], [-0.25]]] * 3, None

    trainer = SimpleNamespace(
        use_vllm=True,
        vllm_generation=SimpleNamespace(generate=generate),
        state=SimpleNamespace(global_step=0),
        accelerator=SimpleNamespace(process_index=0),
    )
    rollout = grpo._rollouts(policy, [12], params, 1, seed=3)
    found = rollout(["The Machine"] * 3, trainer)
    ids = policy.tokenizer("The Machine", add_special_tokens=False)["input_ids"]
    assert asked == [([ids] * 3, None, 3)]
    assert found == {
        "prompt_ids": [ids] * 3,
        "completion_ids": [[5, 6]] * 3,
        "logprobs": [[-0.5, -0.25]] * 3,
    }
