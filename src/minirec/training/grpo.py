"""GRPO through TRL, on a curriculum, to its last prompt."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from minirec.columns import MEAN_REWARD, POSITION, PROMPT, SAMPLE_ID, STAGE
from minirec.errors import InputError
from minirec.policy.head import HeadPolicy
from minirec.policy.loading import get_adapter
from minirec.policy.rewards import Tasks, Written, reward_completions
from minirec.policy.rollouts import TRAINING, sample_completions
from minirec.policy.text import Policy, load_catalogue, load_policy
from minirec.ranking.rewards import weighted_sum
from minirec.training import checkpoints
from minirec.training.curves import show_curves, training_log
from minirec.training.order import draw, n_steps
from minirec.training.quiet import quiet_trainer, scratch_folder, show_progress

if TYPE_CHECKING:
    from trl import GRPOConfig, GRPOTrainer

    from minirec.policy.params import (
        GRPOParams,
        PaceParams,
        PolicyParams,
        RankingParams,
    )
    from minirec.ranking.rewards import Reward
    from minirec.training.packed_trainer import PackedGRPOTrainer
    from minirec.types import Adapter, Matrix, Model


logger = logging.getLogger(__name__)


class Training(NamedTuple):
    """What a training run leaves beside the adapter it changed."""

    log: pd.DataFrame  # table of one row a step
    consumed: pd.DataFrame  # table `consumed`


class Checkpoints(NamedTuple):
    """Where a training keeps its checkpoints, after how many steps, and its curves."""

    folder: Path
    steps: int
    tensorboard: str | None = None
    """Folder for TensorBoard's curves."""


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
    kept: Checkpoints | None,
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
    kept
        See `train_grpo`.
    """
    catalogue = load_catalogue(encoder_model, items, item_embeddings, ranking)
    learner = load_policy(policy_model, adapter, catalogue, policy)
    training = train_grpo(
        learner,
        curriculum,
        prompts,
        Tasks(prompts, items),
        weighted_sum(ranking.rewards, items),
        grpo,
        prompts_per_step,
        pace,
        seed,
        label,
        kept,
    )
    return get_adapter(learner.lm), training


def train_grpo(
    policy: Policy,
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    tasks: Tasks,
    reward: Reward,
    grpo: GRPOParams,
    prompts_per_step: int,
    pace: PaceParams | None,
    seed: int,
    label: str,
    kept: Checkpoints | None = None,
) -> Training:
    """Train the policy's adapter, in place, on a curriculum.

    Completions come from `sample_completions` and log-probabilities from
    `packed_log_probs`, which both read a prompt once for its whole group; loss,
    optimiser, logs and distribution are TRL's. In each of several processes that
    ``accelerate launch`` has started, a step's prompts are shared out among them.

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
        Of the draws. What a step draws depends on it, on the step and on the samples
        alone.
    label
        What the progress bar says.
    kept
        Checkpoints; where there is one, training goes on behind it, and ends with the
        adapter that it would have had without the interruption. None: none are kept.

    Raises
    ------
    InputError
        If the last checkpoint is damaged, TRL refuses a setting, the reward fails, or
        training diverges.
    RuntimeError
        If TRL consumed the prompts in another order than they were drawn in.
    """
    # rollout_func warns at every start that its interface may change; the pin in
    # pyproject.toml is what guards against that
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset

    ids = curriculum[SAMPLE_ID].tolist()
    n = n_steps(len(ids), grpo.num_train_epochs, prompts_per_step) * prompts_per_step
    last = checkpoints.last_of(kept.folder) if kept else None
    # the position of each prompt trained on, and its mean reward
    earned = checkpoints.read_earned(last) if last else []
    drawn: list[int] = []  # samples, as they were drawn; ahead of training by a step

    text = prompts.set_index(SAMPLE_ID)[PROMPT]
    data = Dataset.from_dict({"prompt": [text[s] for s in ids], SAMPLE_ID: ids})
    order = _drawing(curriculum, grpo, prompts_per_step, pace, earned, drawn)
    with scratch_folder() as folder:
        trainer = _trainer_of(policy, tasks)(
            model=policy.lm,
            reward_funcs=_judge(policy, tasks, reward, ids, grpo, earned),
            args=_config(policy, grpo, prompts_per_step, seed, kept, folder),
            train_dataset=data,
            processing_class=policy.tokenizer,
            rollout_func=_rollouts(policy, drawn, grpo, prompts_per_step, seed),
            order=order,
            n=n,
            checkpoints=kept.folder if kept else None,
            earned=earned,
        )
        show_progress(trainer, label)
        if kept and kept.tensorboard:
            show_curves(trainer, kept.tensorboard, label)
        if last:
            logger.info("%s goes on behind %s", label, last)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    policy.lm.eval()
    _check_finite(policy, label)
    for _ in order:  # of a training that was over, nothing has been drawn yet
        pass
    seen = [ids[position] for position, _ in earned]
    _check_order(seen, drawn, n)
    return Training(
        training_log(trainer.state.log_history),
        consumed_table(seen, curriculum, grpo, prompts_per_step, pace, label),
    )


def _drawing(
    curriculum: pd.DataFrame,
    grpo: GRPOParams,
    prompts_per_step: int,
    pace: PaceParams | None,
    earned: list[tuple[int, float]],
    drawn: list[int],
) -> Iterator[int]:
    """Draw positions in the curriculum; add the sample of each to ``drawn``."""
    ids = curriculum[SAMPLE_ID].tolist()
    for position in draw(
        curriculum[STAGE],
        curriculum[MEAN_REWARD],
        grpo.num_train_epochs,
        prompts_per_step,
        pace,
        earned,
    ):
        drawn.append(ids[position])
        yield position


def _check_finite(policy: Policy, label: str) -> None:
    import torch

    tensors = get_adapter(policy.lm)["tensors"].values()
    if not all(torch.isfinite(own).all() for own in tensors):
        raise InputError(
            f"{label}: the adapter holds numbers that are not finite after training, "
            "which has diverged: lower grpo.learning_rate"
        )


def _check_order(seen: list[int], drawn: list[int], n: int) -> None:
    if seen != drawn or len(drawn) != n:
        raise RuntimeError(
            f"TRL consumed the prompts {seen}, of {n} that were to be drawn, and these "
            f"were: {drawn}"
        )


def _trainer_of(policy: Policy, tasks: Tasks) -> Callable[..., PackedGRPOTrainer]:
    if isinstance(policy, HeadPolicy):
        from minirec.training.head_trainer import HeadGRPOTrainer

        return partial(HeadGRPOTrainer, policy=policy, tasks=tasks)
    from minirec.training.packed_trainer import PackedGRPOTrainer

    return PackedGRPOTrainer


def _judge(
    policy: Policy,
    tasks: Tasks,
    reward: Reward,
    ids: list[int],
    grpo: GRPOParams,
    earned: list[tuple[int, float]],
) -> Callable[..., list[float]]:
    """Return the reward as TRL calls it, which adds to ``earned``, of all processes.

    ``ids`` are the curriculum's samples, whose positions ``earned`` holds.
    """
    from accelerate.utils import gather_object

    group = grpo.num_generations
    place = {sample_id: i for i, sample_id in enumerate(ids)}

    def judge(
        prompts: list[str],
        completions: list[str],
        completion_ids: list[list[int]],
        sample_id: list[int],
        finite: list[bool] | None = None,  # of `_rollouts`; vLLM does not say
        **_: Any,
    ) -> list[float]:
        written = Written(completions, completion_ids, prompts)
        outcome = reward_completions(policy, tasks, reward, sample_id, written, finite)
        means = outcome.reward.reshape(-1, group).mean(axis=1).tolist()
        positions = [place[s] for s in sample_id[::group]]
        earned.extend(gather_object(list(zip(positions, means, strict=True))))
        return outcome.reward.tolist()

    return judge


def _config(
    policy: Policy,
    grpo: GRPOParams,
    prompts_per_step: int,
    seed: int,
    kept: Checkpoints | None,
    folder: str,
) -> GRPOConfig:
    """Return TRL's configuration; ``folder`` is for what it must write somewhere."""
    from trl import GRPOConfig

    given = {
        **quiet_trainer(),
        "output_dir": folder,
        "num_train_epochs": 1,  # `draw` repeats what is to be repeated
        "steps_per_generation": grpo.gradient_accumulation_steps,
        "shuffle_dataset": False,
        "max_completion_length": policy.params.sampling.max_new_tokens,
        "temperature": policy.params.sampling.temperature,
        "lr_scheduler_type": "constant",
        "seed": seed,
        **grpo.config(),
        **_batches(grpo, prompts_per_step),
        **_saving(kept, grpo),
        **_stopping(policy, grpo),
    }
    try:
        return GRPOConfig(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"TRL refuses the settings of grpo: {error}") from error


def _batches(grpo: GRPOParams, prompts_per_step: int) -> dict[str, int]:
    """Return how many completions each process trains on at once."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # by ``accelerate launch``
    parts = processes * grpo.gradient_accumulation_steps
    return {
        "per_device_train_batch_size": prompts_per_step * grpo.num_generations // parts
    }


def _saving(kept: Checkpoints | None, grpo: GRPOParams) -> dict[str, Any]:
    if kept is None:
        return {"save_strategy": "no"}
    # between generations: what was generated is not kept
    return {"save_strategy": "steps", "save_steps": kept.steps * grpo.num_iterations}


def _stopping(policy: Policy, grpo: GRPOParams) -> dict[str, Any]:
    """Tell vLLM, if it writes, which tokens end an answer."""
    others = grpo.model_extra or {}
    if not others.get("use_vllm"):
        return {}
    ends = {"stop_token_ids": policy.lm.generation_config.eos_token_id}
    return {"generation_kwargs": {**ends, **(others.get("generation_kwargs") or {})}}


def _rollouts(
    policy: Policy,
    drawn: Sequence[int],
    grpo: GRPOParams,
    prompts_per_step: int,
    seed: int,
) -> Callable[..., dict]:
    import torch

    group = grpo.num_generations

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        step = trainer.state.global_step // grpo.num_iterations
        process = trainer.accelerator.process_index
        unique = prompts[::group]  # TRL repeats a prompt for each of its completions
        ids_of_step = drawn[step * prompts_per_step : (step + 1) * prompts_per_step]
        # a sample that a short stage repeats within the step answers anew
        turns = [(s, ids_of_step[:i].count(s)) for i, s in enumerate(ids_of_step)]
        own = turns[process * len(unique) : (process + 1) * len(unique)]
        # TRL shuffles a step's completions and drops out by torch's own generator
        torch.manual_seed(_seed_of(seed, step, process))
        ids = policy.tokenizer(unique, add_special_tokens=False)["input_ids"]
        repeated = [own_ids for own_ids in ids for _ in range(group)]
        if trainer.use_vllm:
            _, tokens, log_probs, _ = trainer.vllm_generation.generate(
                prompts=repeated, images=None, num_generations=group
            )
            # of each place the token that was drawn comes first
            drawn_ones = [[own[0] for own in sequence] for sequence in log_probs]
            return {
                "prompt_ids": repeated,
                "completion_ids": tokens,
                "logprobs": drawn_ones,
            }
        policy.lm.eval()
        groups = sample_completions(
            policy.lm,
            policy.tokenizer,
            unique,
            seeds=[(seed, TRAINING, step, s, *[turn] * (turn > 0)) for s, turn in own],
            rollouts=group,
            max_new_tokens=policy.params.sampling.max_new_tokens,
            temperature=policy.params.sampling.temperature,
        )
        policy.lm.train()
        completions = [written for own in groups for written in own]
        return {
            "prompt_ids": repeated,
            # TRL wants a token of each, also where no logit was finite
            "completion_ids": [
                written.tokens or [policy.tokenizer.eos_token_id]
                for written in completions
            ],
            "logprobs": None,
            "finite": [written.finite for written in completions],
        }

    return rollout


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def consumed_table(
    seen: list[int],
    curriculum: pd.DataFrame,
    grpo: GRPOParams,
    prompts_per_step: int,
    pace: PaceParams | None,
    label: str,
) -> pd.DataFrame:
    """Return table ``consumed``, and say what was repeated or not reached."""
    position = np.arange(len(seen))
    stage = curriculum.set_index(SAMPLE_ID)[STAGE]
    table = pd.DataFrame({POSITION: position, "step": position // prompts_per_step})
    table[SAMPLE_ID] = seen
    beyond = position >= len(curriculum) * grpo.num_train_epochs
    # a pace draws all that it draws, and has nothing to fill
    table = table.assign(stage=table[SAMPLE_ID].map(stage), padding=beyond & (not pace))
    if n := int(table["padding"].sum()):
        logger.info(
            "%s: the last step is filled by %d more of the last stage", label, n
        )
    if unseen := len(curriculum) - table[SAMPLE_ID].nunique():
        logger.warning(
            "%s: %d of %d samples were not reached at this pace: see table consumed",
            label,
            unseen,
            len(curriculum),
        )
    return table
