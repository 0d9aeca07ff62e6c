"""TRL's GRPO trainer on packed rows: each prompt is read once for its whole group.

Imported by the function that trains, since TRL takes seconds to import.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from trl import GRPOTrainer
from trl.trainer import grpo_trainer
from trl.trainer.utils import RepeatSampler

from minirec import costs
from minirec.policy.fast_lora import fast_lora, replaced
from minirec.policy.loading import get_adapter, set_adapter
from minirec.policy.packed_rows import TokenLogProbs, packed_log_probs
from minirec.training import checkpoints


class PackedGRPOTrainer(GRPOTrainer):
    """``GRPOTrainer`` whose log-probabilities come from `packed_log_probs`.

    Loss, rewards, optimiser and logs are TRL's own. Its checkpoints are those of
    `minirec.training.checkpoints`; what is random in a step must be seeded by the step,
    since no state of a generator is kept.

    Parameters
    ----------
    order
        Rows of the dataset to train on, one after the other; asked for a step's rows
        while the step before is trained on. None: as the dataset has them.
    n
        How many those are.
    checkpoints
        Folder for this training's checkpoints.
    earned
        What the prompts trained on so far have earned; kept with a checkpoint.
    """

    def __init__(
        self,
        *args: Any,
        order: Iterator[int] | None = None,
        n: int = 0,
        checkpoints: Path | None = None,
        earned: list[tuple[int, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.order, self.n = order, n
        self.checkpoints, self.earned = checkpoints, earned
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        theirs: Any = super()._get_train_sampler(dataset)
        if self.order is None:
            return theirs
        return _Drawn(
            self.order,
            range(self.n),
            theirs.mini_repeat_count,
            theirs.batch_size,
            theirs.repeat_count,
            shuffle=False,
        )

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Let TRL take its step, forward and backward, with `fast_lora`."""
        with fast_lora(self.accelerator.unwrap_model(model)):
            return super().training_step(model, *args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        # of a group that is scattered over the parts of a step, each part would read
        # the prompt again
        with _in_order():
            return super()._prepare_inputs(generation_batch)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.checkpoints is not None, "save_strategy is no, unless it is given"
        if self.args.should_save:  # of several processes one writes
            adapter = get_adapter(self.accelerator.unwrap_model(model))
            optimizer: Any = self.optimizer
            checkpoints.write(
                self.checkpoints,
                self.state,
                adapter["tensors"],
                optimizer,
                self.lr_scheduler,
                self.earned or [],
                self._beside(),
            )

    def _beside(self) -> dict[str, torch.Tensor]:
        """Return what else a checkpoint keeps."""
        return {}

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        tensors = checkpoints.read_adapter(Path(checkpoint))
        policy: Any = self.model
        set_adapter(policy, {"config": {}, "tensors": tensors})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            optimizer: Any = self.optimizer
            checkpoints.restore(Path(checkpoint), optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load none: see the class."""

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        compute_aux_loss: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return log-probabilities and entropies (N, ``logits_to_keep``), 0 at padding.

        ``input_ids`` (N, P + C) holds prompts, padded on the left, and completions,
        padded on the right.
        """
        if compute_aux_loss:  # the router's loss of a mixture of experts is a row's own
            costs.add(tokens_trained=int(attention_mask.sum()), flops=float("nan"))
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                *args,
                compute_aux_loss=True,
                **kwargs,
            )
        start = input_ids.shape[1] - logits_to_keep
        groups: dict[tuple[int, ...], list[int]] = {}
        completions = []
        for row, (ids, mask) in enumerate(
            zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
        ):
            used = [token for token, kept in zip(ids, mask, strict=True) if kept]
            prompt = used[: sum(mask[:start])]
            completions.append(used[len(prompt) :])
            groups.setdefault(tuple(prompt), []).append(row)
        policy = self.accelerator.unwrap_model(model)

        def read() -> TokenLogProbs:
            return packed_log_probs(
                policy,
                list(groups),
                [[completions[row] for row in rows] for rows in groups.values()],
                self._tokenizer.pad_token_id,
                self.temperature,
            )

        packed = read() if policy is model else _through(model, policy, read)
        order = [row for rows in groups.values() for row in rows]
        at = torch.tensor(
            [(r, c) for r in order for c in range(len(completions[r]))],
            dtype=torch.long,
        ).reshape(-1, 2)  # also where TRL has masked every completion of a part
        shape = (len(input_ids), logits_to_keep)
        place = tuple(at.T.to(packed.log_prob.device))
        log_probs = packed.log_prob.new_zeros(shape).index_put(place, packed.log_prob)
        entropies = packed.log_prob.new_zeros(shape).index_put(place, packed.entropy)
        return log_probs, entropies, None


@contextmanager
def _in_order() -> Iterator[None]:
    """Let TRL cut a step's completions into parts as they come, without a shuffle."""
    theirs = grpo_trainer.shuffle_sequence_dict
    grpo_trainer.shuffle_sequence_dict = lambda seq_dict: seq_dict
    try:
        yield
    finally:
        grpo_trainer.shuffle_sequence_dict = theirs


def _through(
    wrapped: torch.nn.Module, policy: torch.nn.Module, read: Callable[[], Any]
) -> Any:
    """Return what ``read`` does with the policy, within the forward pass of its wrapper.

    It is there that torch's wrapper of a distributed model learns which gradients it
    will have to average.
    """
    own = vars(policy).get("forward", policy.forward)

    def forward(*_: Any) -> Any:
        with replaced({policy: own}):
            return read()

    with replaced({policy: forward}):
        return wrapped()


class _Drawn(RepeatSampler):
    """TRL's sampler on rows that are drawn while it runs, each step's when it comes."""

    def __init__(self, order: Iterator[int], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.order = order

    def __iter__(self) -> Iterator[int]:
        while chunk := list(islice(self.order, self.batch_size)):
            for _ in range(self.repeat_count):
                for row in chunk:
                    yield from [row] * self.mini_repeat_count
