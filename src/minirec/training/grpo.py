"""GRPO through TRL, on prompts in a given order, to the last one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from minirec.columns import POSITION, PROMPT, SAMPLE_ID
from minirec.functions import function_at
from minirec.policy.loading import get_adapter
from minirec.policy.rewards import Tasks, reward_completions
from minirec.policy.rollouts import TRAINING, sample_completions
from minirec.policy.text import TextPolicy, load_catalogue, load_policy
from minirec.training.quiet import quiet_trainer, scratch_folder, show_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from trl import GRPOTrainer

    from minirec.policy.params import GRPOParams, PolicyParams, RankingParams
    from minirec.types import Adapter, Matrix, Model


class Training(NamedTuple):
    """What a training run leaves beside the adapter it changed."""

    log: pd.DataFrame  # table of one row a step
    consumed: pd.DataFrame  # table `consumed`


def pad_to_steps(
    sample_ids: Sequence[int], stages: Sequence[int], prompts_per_step: int
) -> list[int]:
    """Fill the last step with samples of the last stage, repeated in their order.

    TRL drops a last step that is not full; in a curriculum those would always be the
    hardest samples.

    Examples
    --------
    >>> pad_to_steps([7, 3, 9], stages=[0, 1, 1], prompts_per_step=2)
    [7, 3, 9, 3]
    """
    missing = -len(sample_ids) % prompts_per_step
    last = [
        s for s, stage in zip(sample_ids, stages, strict=True) if stage == stages[-1]
    ]
    return [*sample_ids, *(last[i % len(last)] for i in range(missing))]


def train_adapter(
    adapter: Adapter,
    sample_ids: Sequence[int],
    stages: Sequence[int],
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    item_embeddings: Matrix,
    policy_model: Model,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
    grpo: GRPOParams,
    prompts_per_step: int,
    seed: int,
    label: str,
) -> tuple[Adapter, Training]:
    """Load the policy, train it from an adapter on, and return the adapter it has then.

    Parameters
    ----------
    adapter
        Where training starts.
    sample_ids, stages
        The samples in the order of training, and the stage of each; a last step that
        is not full is filled by `pad_to_steps`.
    prompts, items, item_embeddings
        The tables of these names; ``prompts`` holds all of ``sample_ids``.
    policy_model, encoder_model
        As the catalog gives them.
    policy, ranking, grpo, prompts_per_step, seed
        Parameters.
    label
        What the progress bar says.
    """
    reward = function_at(ranking.reward, "ranking.reward")
    catalogue = load_catalogue(encoder_model, items, item_embeddings, ranking)
    learner = load_policy(policy_model, adapter, catalogue, policy)
    training = train_grpo(
        learner,
        pad_to_steps(sample_ids, stages, prompts_per_step),
        len(sample_ids),
        prompts,
        Tasks(prompts, items),
        reward,
        grpo,
        prompts_per_step,
        seed,
        label,
    )
    return get_adapter(learner.lm), training


def train_grpo(
    policy: TextPolicy,
    order: Sequence[int],
    n_samples: int,
    prompts: pd.DataFrame,
    tasks: Tasks,
    reward: Callable[..., np.ndarray],
    grpo: GRPOParams,
    prompts_per_step: int,
    seed: int,
    label: str,
) -> Training:
    """Train the policy's adapter, in place, by one pass over prompts in their order.

    Completions come from `sample_completions` and log-probabilities from
    `packed_log_probs`, which both read a prompt once for its whole group; loss,
    optimiser and logs are TRL's.

    Parameters
    ----------
    policy
        Whose adapter is trained.
    order
        Sample ids in the order of training, a multiple of ``prompts_per_step``
        (`pad_to_steps`).
    n_samples
        How many of ``order`` are not padding.
    prompts
        Table ``prompts``, which holds every id of ``order``.
    tasks
        Their targets and seen items.
    reward
        ``f(ranks, scores, targets)``, see `minirec.ranking.rewards`.
    grpo
        TRL's settings.
    prompts_per_step
        Prompts an optimiser step; each has ``grpo.num_generations`` completions.
    seed
        Of the draws.
    label
        What the progress bar says.

    Raises
    ------
    RuntimeError
        If TRL consumed the prompts in another order.
    """
    # rollout_func warns at every start that its interface may change; the pin in
    # pyproject.toml is what guards against that
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl import GRPOConfig

    from datasets import Dataset
    from minirec.training.packed_trainer import PackedGRPOTrainer

    seen: list[list[int]] = []  # the prompts of each generation, as TRL asked for them

    def earned(
        completions: list[str], sample_id: list[int], **_: Any
    ) -> list[float | None]:
        seen.append(sample_id[:: grpo.num_generations])
        outcome = reward_completions(policy, tasks, reward, sample_id, completions)
        return outcome.reward.tolist()

    text = prompts.set_index(SAMPLE_ID)[PROMPT]
    data = Dataset.from_dict(
        {"prompt": [text[s] for s in order], SAMPLE_ID: list(order)}
    )
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
            reward_funcs=earned,
            args=config,
            train_dataset=data,
            processing_class=policy.tokenizer,
            rollout_func=_rollouts(policy, order, grpo.num_generations, seed),
        )
        show_progress(trainer, label)
        trainer.train()
    policy.lm.eval()
    consumed = _consumed(seen, n_samples)
    if consumed[SAMPLE_ID].tolist() != list(order):
        raise RuntimeError(
            "TRL consumed the prompts in another order than the curriculum's: "
            f"{consumed[SAMPLE_ID].tolist()} instead of {list(order)}"
        )
    return Training(_log(trainer.state.log_history), consumed)


def _rollouts(
    policy: TextPolicy, order: Sequence[int], group: int, seed: int
) -> Callable[..., dict]:
    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        step = trainer.state.global_step
        unique = prompts[::group]  # TRL repeats a prompt for each of its completions
        ids_of_step = order[step * len(unique) : (step + 1) * len(unique)]
        policy.lm.eval()
        completions = sample_completions(
            policy.lm,
            policy.tokenizer,
            unique,
            seeds=[(seed, TRAINING, step, sample_id) for sample_id in ids_of_step],
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


def _consumed(steps: list[list[int]], n_samples: int) -> pd.DataFrame:
    table = pd.DataFrame(
        [(step, s) for step, ids in enumerate(steps) for s in ids],
        columns=["step", SAMPLE_ID],
    )
    table.insert(0, POSITION, np.arange(len(table)))
    return table.assign(padding=table[POSITION] >= n_samples)


def _log(history: list[dict[str, float]]) -> pd.DataFrame:
    """Return the steps of a trainer's log; its last entry is of the whole run."""
    return pd.DataFrame([row for row in history if "loss" in row])
