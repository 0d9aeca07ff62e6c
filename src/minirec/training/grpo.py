"""GRPO through TRL, on a curriculum, to its last prompt."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from minirec.columns import MEAN_REWARD, POSITION, PROMPT, SAMPLE_ID, STAGE
from minirec.functions import function_at
from minirec.policy.loading import get_adapter
from minirec.policy.rewards import Tasks, reward_completions
from minirec.policy.rollouts import TRAINING, sample_completions
from minirec.policy.text import TextPolicy, load_catalogue, load_policy
from minirec.training.order import check_pace, draw
from minirec.training.quiet import quiet_trainer, scratch_folder, show_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from trl import GRPOTrainer

    from minirec.policy.params import (
        GRPOParams,
        PaceParams,
        PolicyParams,
        RankingParams,
    )
    from minirec.types import Adapter, Matrix, Model


logger = logging.getLogger(__name__)


class Training(NamedTuple):
    """What a training run leaves beside the adapter it changed."""

    log: pd.DataFrame  # table of one row a step
    consumed: pd.DataFrame  # table `consumed`


def train_adapter(
    adapter: Adapter,
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    grpo: GRPOParams,
    prompts_per_step: int,
    pace: PaceParams | None,
    seed: int,
    label: str,
) -> tuple[Adapter, Training]:
    """Load the policy, train it from an adapter on, and return the adapter it has then.

    Parameters
    ----------
    adapter
        Where training starts.
    curriculum, prompts, items, item_embeddings
        The tables of these names; ``prompts`` holds all samples of ``curriculum``.
    policy_model, encoder_model
        As the catalog gives them.
    policy, ranking, grpo, prompts_per_step, pace, seed
        Parameters.
    label
        What the progress bar says.

    Raises
    ------
    InputError
        If no stage can fill the pace's window, before anything is loaded.
    """
    check_pace(curriculum[STAGE], pace)
    reward = function_at(ranking.reward, "ranking.reward")
    catalogue = load_catalogue(encoder_model, items, item_embeddings, ranking)
    learner = load_policy(policy_model, adapter, catalogue, policy)
    training = train_grpo(
        learner,
        curriculum,
        prompts,
        Tasks(prompts, items),
        reward,
        grpo,
        prompts_per_step,
        pace,
        seed,
        label,
    )
    return get_adapter(learner.lm), training


def train_grpo(
    policy: TextPolicy,
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    tasks: Tasks,
    reward: Callable[..., np.ndarray],
    grpo: GRPOParams,
    prompts_per_step: int,
    pace: PaceParams | None,
    seed: int,
    label: str,
) -> Training:
    """Train the policy's adapter, in place, on a curriculum.

    Completions come from `sample_completions` and log-probabilities from
    `packed_log_probs`, which both read a prompt once for its whole group; loss,
    optimiser and logs are TRL's.

    Parameters
    ----------
    policy
        Whose adapter is trained.
    curriculum
        Samples in the order of training, with their stages and mean rewards. The
        steps are as many as its samples fill, the last one with samples of the last
        stage again.
    prompts
        Table ``prompts``, which holds every sample of ``curriculum``.
    tasks
        Their targets and seen items.
    reward
        ``f(ranks, scores, targets)``, see `minirec.ranking.rewards`.
    grpo
        TRL's settings.
    prompts_per_step
        Prompts an optimiser step; each has ``grpo.num_generations`` completions.
    pace
        Whether stages give way as reward rises, see `minirec.training.order.draw`.
    seed
        Of the draws.
    label
        What the progress bar says.

    Raises
    ------
    RuntimeError
        If TRL consumed the prompts in another order than they were drawn in.
    """
    # rollout_func warns at every start that its interface may change; the pin in
    # pyproject.toml is what guards against that
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl import GRPOConfig

    from datasets import Dataset
    from minirec.training.packed_trainer import PackedGRPOTrainer

    ids = curriculum[SAMPLE_ID].tolist()
    place = {sample_id: i for i, sample_id in enumerate(ids)}
    n = -(-len(ids) // prompts_per_step) * prompts_per_step
    drawn: list[int] = []  # samples, as they were drawn; ahead of training by a step
    seen: list[list[int]] = []  # those of each generation, as TRL asked for them
    earned: list[tuple[int, float]] = []  # and the mean reward of each

    def drawing() -> Iterator[int]:
        stages, expected = curriculum[STAGE], curriculum[MEAN_REWARD]
        for position in draw(stages, expected, n, pace, earned):
            drawn.append(ids[position])
            yield position

    def judge(
        completions: list[str], sample_id: list[int], **_: Any
    ) -> list[float | None]:
        group = grpo.num_generations
        seen.append(sample_id[::group])
        outcome = reward_completions(policy, tasks, reward, sample_id, completions)
        means = outcome.reward.reshape(-1, group).mean(axis=1)
        earned.extend(zip(map(place.__getitem__, seen[-1]), means, strict=True))
        return outcome.reward.tolist()

    text = prompts.set_index(SAMPLE_ID)[PROMPT]
    data = Dataset.from_dict({"prompt": [text[s] for s in ids], SAMPLE_ID: ids})
    with scratch_folder() as folder:
        config = GRPOConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=prompts_per_step * grpo.num_generations,
            steps_per_generation=1,
            shuffle_dataset=False,
            max_completion_length=policy.params.sampling.max_new_tokens,
            temperature=policy.params.sampling.temperature,
            lr_scheduler_type="constant",
            seed=seed,
            **grpo.config(),
            **quiet_trainer(),
        )
        trainer = PackedGRPOTrainer(
            model=policy.lm,
            reward_funcs=judge,
            args=config,
            train_dataset=data,
            processing_class=policy.tokenizer,
            rollout_func=_rollouts(policy, drawn, grpo.num_generations, seed),
            order=drawing(),
            n=n,
        )
        show_progress(trainer, label)
        trainer.train()
    policy.lm.eval()
    consumed = _consumed(seen, curriculum, pace)
    if consumed[SAMPLE_ID].tolist() != drawn or len(drawn) != n:
        raise RuntimeError(
            f"TRL consumed the prompts {consumed[SAMPLE_ID].tolist()}, of {n} that were "
            f"to be drawn, and these were: {drawn}"
        )
    if unseen := len(ids) - consumed[SAMPLE_ID].nunique():
        logger.warning(
            "%s: %d of %d samples were not reached at this pace: see table consumed",
            label,
            unseen,
            len(ids),
        )
    return Training(_log(trainer.state.log_history), consumed)


def _rollouts(
    policy: TextPolicy, drawn: Sequence[int], group: int, seed: int
) -> Callable[..., dict]:
    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        step = trainer.state.global_step
        unique = prompts[::group]  # TRL repeats a prompt for each of its completions
        ids_of_step = drawn[step * len(unique) : (step + 1) * len(unique)]
        # a sample that a short stage repeats within the step answers anew
        turns = [(s, ids_of_step[:i].count(s)) for i, s in enumerate(ids_of_step)]
        policy.lm.eval()
        completions = sample_completions(
            policy.lm,
            policy.tokenizer,
            unique,
            seeds=[
                (seed, TRAINING, step, s, *[turn] * (turn > 0)) for s, turn in turns
            ],
            rollouts=group,
            max_new_tokens=policy.params.sampling.max_new_tokens,
            temperature=policy.params.sampling.temperature,
        )
        policy.lm.train()
        ids = policy.tokenizer(unique, add_special_tokens=False)["input_ids"]
        return {
            "prompt_ids": [
                ids[row] for row in range(len(unique)) for _ in range(group)
            ],
            "completion_ids": [
                # TRL wants a token of each, also where no logit was finite
                written.tokens or [policy.tokenizer.eos_token_id]
                for group_ in completions
                for written in group_
            ],
            "logprobs": None,
        }

    return rollout


def _consumed(
    steps: list[list[int]], curriculum: pd.DataFrame, pace: PaceParams | None
) -> pd.DataFrame:
    table = pd.DataFrame(
        [(step, s) for step, ids in enumerate(steps) for s in ids],
        columns=["step", SAMPLE_ID],
    )
    table.insert(0, POSITION, np.arange(len(table)))
    stage = curriculum.set_index(SAMPLE_ID)[STAGE]
    beyond = table[POSITION] >= len(curriculum)
    return table.assign(
        # a pace draws all that it draws, and has nothing to fill
        stage=table[SAMPLE_ID].map(stage),
        padding=beyond & (pace is None),
    )


def _log(history: list[dict[str, float]]) -> pd.DataFrame:
    """Return the steps of a trainer's log; its last entry is of the whole run."""
    return pd.DataFrame([row for row in history if "loss" in row])
