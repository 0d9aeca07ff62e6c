"""GRPO on a policy of item tokens: a prompt is read once for its whole group."""

from __future__ import annotations

import logging
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from minirec.columns import MEAN_REWARD, PROMPT, SAMPLE_ID, STAGE
from minirec.policy.gradients import group_advantages
from minirec.policy.item_tokens import (
    AT_ONCE,
    ItemPolicy,
    get_weights,
    last_hidden,
    load_policy,
    reward_slates,
    sample_slates,
    seen_mask,
    set_weights,
    slate_log_probs,
)
from minirec.policy.rewards import Tasks
from minirec.policy.rollouts import TRAINING
from minirec.progress import Progress
from minirec.ranking.rewards import weighted_sum
from minirec.training import checkpoints
from minirec.training.grpo import Checkpoints, Training, consumed_table
from minirec.training.item_settings import Settings, item_settings
from minirec.training.order import draw, n_steps

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from minirec.policy.params import (
        GRPOParams,
        PaceParams,
        PolicyParams,
        RankingParams,
    )
    from minirec.ranking.rewards import Reward
    from minirec.types import Adapter


logger = logging.getLogger(__name__)


def train_item_tokens(
    adapter: Adapter,
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    policy: PolicyParams,
    ranking: RankingParams,
    grpo: GRPOParams,
    prompts_per_step: int,
    pace: PaceParams | None,
    seed: int,
    label: str,
    kept: Checkpoints | None,
    **_: Any,
) -> tuple[Adapter, Training]:
    """Load the policy, train all its weights, and return them.

    Takes what `minirec.training.grpo.train_adapter` does; models of others are not
    used. ``adapter`` holds whole policies, before and after.
    """
    settings = item_settings(grpo)
    learner = load_policy(adapter, policy, items)
    tasks = Tasks(prompts, items)
    log, seen = train_items(
        learner,
        curriculum,
        prompts,
        tasks,
        weighted_sum(ranking.rewards, items),
        settings,
        prompts_per_step,
        pace,
        seed,
        label,
        kept,
    )
    table = consumed_table(seen, curriculum, grpo, prompts_per_step, pace, label)
    return get_weights(learner.lm, learner.tokenizer), Training(log, table)


def train_items(
    policy: ItemPolicy,
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    tasks: Tasks,
    reward: Reward,
    settings: Settings,
    prompts_per_step: int,
    pace: PaceParams | None,
    seed: int,
    label: str,
    kept: Checkpoints | None = None,
) -> tuple[pd.DataFrame, list[int]]:
    """Train the policy's weights, in place, on a curriculum.

    A step reads each of its prompts once, draws G slates of each from the
    distribution of the next item, and descends `step_loss` by AdamW at a constant
    learning rate.

    Parameters
    ----------
    policy
        Whose weights are trained.
    curriculum
        Samples in the order of training, with their stages and mean rewards.
    prompts
        Table ``prompts``, which holds every sample of ``curriculum``.
    tasks
        Their targets and seen items.
    reward
        ``f(ranks, scores, targets)``, see `minirec.ranking.rewards`.
    settings
        Of GRPO.
    prompts_per_step
        Prompts an optimiser step.
    pace
        Whether stages give way as reward rises, see `minirec.training.order.draw`.
    seed
        Of the draws.
    label
        What the progress bar says.
    kept
        As `minirec.training.grpo.train_grpo` takes it.

    Returns
    -------
    log
        A row a step, by TRL's names.
    consumed
        The samples in the order in which they were trained on.

    Raises
    ------
    InputError
        If the last checkpoint is damaged, or the reward fails.
    """
    ids = curriculum[SAMPLE_ID].to_numpy()
    text = prompts.set_index(SAMPLE_ID)[PROMPT]
    tokens = policy.read([text[s] for s in ids])
    before = _Reference(policy, tokens) if settings.beta else None
    optimizer = _adam_w(policy, settings)
    log, earned = _resume(policy, optimizer, kept, label)
    order = draw(
        curriculum[STAGE],
        curriculum[MEAN_REWARD],
        settings.num_train_epochs,
        prompts_per_step,
        pace,
        earned,
    )
    total = n_steps(len(ids), settings.num_train_epochs, prompts_per_step)
    done = len(log)
    for _ in islice(order, done * prompts_per_step):
        pass  # was trained on
    with Progress(total=total, initial=done, desc=label, unit=" steps") as bar:
        for step in range(done, total):
            rows = list(islice(order, prompts_per_step))
            rewards, figures = _step(
                policy,
                optimizer,
                before,
                rows,
                [tokens[row] for row in rows],
                ids[rows],
                tasks,
                reward,
                settings,
                (seed, TRAINING, step),
            )
            # what the order of further samples may depend on
            earned.extend(zip(rows, rewards.mean(1).tolist(), strict=True))
            figures["num_tokens"] += log[-1]["num_tokens"] if log else 0
            epoch = (step + 1) * prompts_per_step / len(ids)
            log.append({"step": step + 1, "epoch": epoch, **figures})
            bar.set_postfix(
                {name: figures[name] for name in ("reward", "loss")}, refresh=False
            )
            if kept and ((step + 1) % kept.steps == 0 or step + 1 == total):
                _keep(kept.folder, policy, optimizer, log, earned)
            bar.update(1)
    # names in order, since a checkpoint does not keep another
    table = pd.DataFrame([dict(sorted(row.items())) for row in log])
    return table, [int(ids[row]) for row, _ in earned]


def _adam_w(policy: ItemPolicy, settings: Settings) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(
        policy.lm.parameters(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )


def _step(
    policy: ItemPolicy,
    optimizer: torch.optim.Optimizer,
    before: _Reference | None,
    rows: list[int],
    tokens: list[list[int]],
    samples: np.ndarray,
    tasks: Tasks,
    reward: Reward,
    settings: Settings,
    key: tuple[int, ...],
) -> tuple[np.ndarray, dict[str, float]]:
    """Draw, reward, descend; return the rewards (N, G) and the step's figures.

    ``rows`` are the samples' places in the curriculum, and ``key`` begins the key of
    each sample's draws; one that stands twice in a step is drawn for anew.
    """
    import torch

    began = perf_counter()
    lm = policy.lm
    log_probs = policy.log_probs(
        last_hidden(lm, tokens),
        seen_mask(tasks, samples, policy.n_items).to(lm.device),
    )
    slates = sample_slates(
        log_probs,
        policy.slate_size,
        [
            (*key, int(sample), rows[:i].count(row))
            for i, (sample, row) in enumerate(zip(samples, rows, strict=True))
        ],
        range(settings.num_generations),
    )
    _, rewards = reward_slates(policy, tasks, reward, samples, slates.numpy())
    divided = settings.scale_rewards == "group"
    advantages = torch.from_numpy(np.stack(group_advantages(rewards, divided)))
    loss, kl = step_loss(
        log_probs,
        slates.to(lm.device),
        advantages.to(log_probs),
        before.log_probs(rows, log_probs) if before else None,
        settings.beta,
    )
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(lm.parameters(), settings.max_grad_norm)
    optimizer.step()
    with torch.no_grad():
        p = log_probs.exp()
        entropy = -(p * log_probs.masked_fill(p == 0, 0.0)).sum(-1).mean()
    n_tokens = sum(map(len, tokens)) + rewards.size * policy.slate_size
    seconds = perf_counter() - began
    return rewards, {
        "loss": loss.item(),
        "reward": rewards.mean(),
        "reward_std": rewards.std(1, ddof=1).mean(),
        "frac_reward_zero_std": float((np.ptp(rewards, 1) == 0).mean()),
        "entropy": entropy.item(),
        "kl": kl.item(),
        "grad_norm": norm.item(),
        "learning_rate": settings.learning_rate,
        "completions/mean_length": float(policy.slate_size),
        "num_tokens": float(n_tokens),
        "step_time": seconds,
        "tokens_per_second": n_tokens / seconds,
    }


def _resume(
    policy: ItemPolicy,
    optimizer: torch.optim.Optimizer,
    kept: Checkpoints | None,
    label: str,
) -> tuple[list[dict[str, float]], list[tuple[int, float]]]:
    """Go back to the last checkpoint; return its log and what each row earned."""
    last = checkpoints.last_of(kept.folder) if kept else None
    if last is None:
        return [], []
    tensors = checkpoints.read_adapter(last)
    set_weights(policy, {"config": {}, "tensors": tensors})
    checkpoints.restore(last, optimizer, None)
    logger.info("%s goes on behind %s", label, last)
    return checkpoints.read_state(last).log_history, checkpoints.read_earned(last)


def _keep(
    folder: Path,
    policy: ItemPolicy,
    optimizer: torch.optim.Optimizer,
    log: list[dict[str, float]],
    earned: list[tuple[int, float]],
) -> None:
    """Write the checkpoint that `_resume` goes on from."""
    from transformers import TrainerState

    checkpoints.write(
        folder,
        TrainerState(global_step=len(log), log_history=log),
        get_weights(policy.lm, policy.tokenizer)["tensors"],
        optimizer,
        None,
        earned,
        {},
    )


def step_loss(
    log_probs: torch.Tensor,
    slates: torch.Tensor,
    advantages: torch.Tensor,
    reference: torch.Tensor | None,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the GRPO loss of slates drawn from this very policy, and the KL term.

    Minus the mean over all slates of advantage x ratio, where the ratio of the slate's
    probability to the one it was drawn with is 1: its gradient is that of minus
    advantage x log-probability. Added is ``beta`` times the mean divergence
    KL(policy || reference) of the next item's distribution, which decides that of the
    slate; it is summed over all items, where TRL estimates it from what was drawn.

    Parameters
    ----------
    log_probs
        (N, M) of the next item, -inf where masked.
    slates
        (N, G, K).
    advantages
        (N, G).
    reference
        (N, M) of the policy before training, masked alike; None: without it.
    beta
        At least 0.

    Returns
    -------
    loss, kl
        Scalars; ``kl`` is 0 without a reference.
    """
    own = slate_log_probs(log_probs, slates)
    loss = -(advantages * (own - own.detach()).exp()).mean()
    if reference is None:
        return loss, loss.new_zeros(())
    masked = log_probs.isneginf()
    apart = (log_probs - reference).masked_fill(masked, 0.0)
    kl = (log_probs.exp() * apart).sum(-1).mean()
    return loss + beta * kl, kl.detach()


class _Reference:
    """The policy before training: its last hidden states and its output layer."""

    def __init__(self, policy: ItemPolicy, tokens: list[list[int]]) -> None:
        import torch

        self.policy = policy
        with torch.no_grad():
            self.weight = policy.lm.get_output_embeddings().weight.clone()
            parts = [
                last_hidden(policy.lm, tokens[start : start + AT_ONCE])
                for start in range(0, len(tokens), AT_ONCE)
            ]
        self.hidden = torch.cat(parts)

    def log_probs(self, rows: list[int], like: torch.Tensor) -> torch.Tensor:
        """Return those of the next item (N, M), masked as ``like`` is."""
        import torch

        with torch.no_grad():
            logits = self.hidden[rows] @ self.weight[: like.shape[1]].T
            logits = logits.masked_fill(like.isneginf(), float("-inf"))
            return (logits / self.policy.temperature).log_softmax(-1)
