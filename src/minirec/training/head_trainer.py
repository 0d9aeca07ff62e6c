"""GRPO on the reasoning of the ``policy_head`` policy, with the item loss beside it.

Imported by the function that trains, since TRL takes seconds to import.
"""

from typing import Any

import torch

from minirec.columns import SAMPLE_ID
from minirec.policy.head import HeadPolicy, vectors_at_end
from minirec.policy.rewards import Tasks
from minirec.training.packed_trainer import PackedGRPOTrainer


class HeadGRPOTrainer(PackedGRPOTrainer):
    """`PackedGRPOTrainer` whose loss has a second term, that of R2ec (arXiv 2505.16994).

    The reasoning is trained as any completion is: by its own log-probabilities times
    its advantage. The head is trained on the best rollout of each prompt, by the item
    loss: the cross-entropy of the user's vector there with the vectors of the targets
    of all prompts that are trained on at once in a process, the others being the
    negatives. Its mean is weighted by ``policy.head.item_loss_weight`` and logged as
    ``item_loss``.

    For rewards the items' vectors are read anew every ``policy.head.refresh`` steps,
    and behind a checkpoint, so that a training that was interrupted does the same. In
    between, users are ranked by the present adapter against items by one of up to so
    many steps ago: rewards are off by what the adapter moved since, alike for all
    rollouts of a prompt. The item loss always reads its items by the present adapter.

    Parameters
    ----------
    policy
        Whose adapter is trained.
    tasks
        The samples' targets.
    *args, **kwargs
        Of `PackedGRPOTrainer`.
    """

    def __init__(
        self, *args: Any, policy: HeadPolicy, tasks: Tasks, **kwargs: Any
    ) -> None:
        self.policy, self.tasks = policy, tasks
        self.refreshed: int | None = None  # the step whose adapter read the items
        super().__init__(*args, **kwargs)
        self.config: Any = self.args  # TRL's, whose type the trainer's stub hides

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and let the items be read by the adapter that came of it."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.policy.refresh()

    def _generate_and_score_completions(
        self, inputs: list[dict[str, Any]]
    ) -> dict[str, Any]:
        step, every = self.state.global_step, self.policy.params.head.refresh
        if self.refreshed is None or step - self.refreshed >= every:
            self.policy.refresh()
            self.refreshed = step
        output = super()._generate_and_score_completions(inputs)
        advantages = output["advantages"]
        # within a group advantages are in the order of rewards
        groups = advantages.view(-1, self.config.num_generations)
        best = torch.zeros_like(groups, dtype=torch.bool)
        best.scatter_(1, groups.argmax(1, keepdim=True), True)
        targets = self.tasks.targets(row[SAMPLE_ID] for row in inputs)
        output["best"] = best.flatten()
        output["n_best"] = best.sum()
        output["target"] = torch.as_tensor(targets, device=advantages.device)
        return output

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.refreshed = None  # as of a training that goes on behind it

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        weight = self.policy.params.head.item_loss_weight
        if not weight:
            return loss
        each = self._item_losses(self.accelerator.unwrap_model(model), inputs)
        # best rollouts of a generation, which is trained on in several parts
        config = self.config
        steps = self.current_gradient_accumulation_steps / config.steps_per_generation
        item_loss = each.sum() / (inputs["n_best"] * steps)
        total = torch.tensor([each.sum().item(), len(each)], device=each.device)
        total = self.accelerator.gather(total).view(-1, 2).sum(0)
        if total[1]:
            self._metrics["train"]["item_loss"].append((total[0] / total[1]).item())
        return loss + weight * item_loss

    def _item_losses(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the cross-entropy of each best rollout in the batch.

        Equal targets are one item, and thus no negatives of each other.
        """
        best = inputs["best"]
        if not best.any():
            return inputs["advantages"].new_zeros(0)
        prompts, completions = (
            [
                row[kept.bool()].tolist()
                for row, kept in zip(
                    inputs[f"{name}_ids"][best],
                    inputs[f"{name}_mask"][best],
                    strict=True,
                )
            ]
            for name in ("prompt", "completion")
        )
        items, target = inputs["target"][best].unique(return_inverse=True)
        users = vectors_at_end(
            model, prompts, [[self.policy.answered(own)] for own in completions]
        )
        vectors = vectors_at_end(
            model,
            [self.policy.item_ids[item] for item in items.tolist()],
            [[self.policy.mark] for _ in items],
        )
        scores = users @ vectors.T / self.policy.params.head.temperature
        return torch.nn.functional.cross_entropy(scores, target, reduction="none")
