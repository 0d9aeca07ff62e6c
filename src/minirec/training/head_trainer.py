"""GRPO on the reasoning of the ``policy_head`` policy, with the item loss beside it.

Imported by the function that trains, since TRL takes seconds to import.
"""

from pathlib import Path
from typing import Any

import torch

from minirec.columns import SAMPLE_ID
from minirec.policy.head import HeadPolicy, vectors_at_end
from minirec.policy.loading import get_adapter
from minirec.policy.rewards import Tasks
from minirec.training import checkpoints
from minirec.training.packed_trainer import PackedGRPOTrainer


class HeadGRPOTrainer(PackedGRPOTrainer):
    """`PackedGRPOTrainer` whose loss has a second term, that of R2ec (arXiv 2505.16994).

    The reasoning is trained as any completion is: by its own log-probabilities times
    its advantage. The head is trained on the best rollout of each prompt, by the item
    loss: the cross-entropy of the user's vector there with the vectors of the targets
    of all prompts of the step, the others being the negatives. Every part of a step
    and every process reads all of these, so that the loss means the same however a
    step is shared out. Its mean is weighted by ``policy.head.item_loss_weight`` and
    logged as ``item_loss``.

    For rewards the items' vectors are read anew every ``policy.head.refresh`` steps. In
    between, users are ranked by the present adapter against items by one of up to so
    many steps ago: rewards are off by what the adapter moved since, alike for all
    rollouts of a prompt. A checkpoint keeps the adapter that read the items, too. The
    item loss always reads its items by the present adapter.

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
        self.reader: dict[str, torch.Tensor] = {}  # the adapter that read the items
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
        group = self.config.num_generations
        step = self.state.global_step // self.config.num_iterations
        if step % self.policy.params.head.refresh == 0:
            self.policy.refresh()
            self.reader = get_adapter(self.policy.lm)["tensors"]
        output = super()._generate_and_score_completions(inputs)
        advantages = output["advantages"]
        # within a group advantages are in the order of rewards
        groups = advantages.view(-1, group)
        best = torch.zeros_like(groups, dtype=torch.bool)
        best.scatter_(1, groups.argmax(1, keepdim=True), True)
        targets = torch.as_tensor(
            self.tasks.targets(row[SAMPLE_ID] for row in inputs),
            device=advantages.device,
        )
        of_step = self.accelerator.gather(targets[::group].contiguous()).unique()
        output["best"] = best.flatten()
        output["n_best"] = best.sum()
        output["target"] = targets
        # in each row, since TRL cuts rows into parts
        output["targets_of_step"] = of_step.expand(len(targets), -1)
        return output

    def _beside(self) -> dict[str, torch.Tensor]:
        return self.reader

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        self.reader = checkpoints.read_others(Path(checkpoint))
        self.policy.set_adapter({"config": {}, "tensors": self.reader})
        _ = self.policy.item_vectors  # are read now, by this adapter
        super()._load_from_checkpoint(checkpoint, model)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        weight = self.policy.params.head.item_loss_weight
        if not weight:
            return loss
        each = self._item_losses(self.accelerator.unwrap_model(model), inputs)
        # of all best rollouts of a generation, which is trained on in several parts
        parts = self.current_gradient_accumulation_steps
        steps = parts / self.config.steps_per_generation
        item_loss = each.sum() / (inputs["n_best"] * steps)
        # TRL logs the mean over parts of what is noted in each
        noted = self.accelerator.gather(parts * item_loss.detach().float()).mean()
        self._metrics["train"]["item_loss"].append(noted.item())
        return loss + weight * item_loss

    def _item_losses(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the cross-entropy of each best rollout in the part.

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
        items = inputs["targets_of_step"][0]  # ascending
        target = torch.searchsorted(items, inputs["target"][best])
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
