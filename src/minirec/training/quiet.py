"""What all trainers share: no checkpoints, no telemetry, and one progress bar."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from minirec.progress import Progress

if TYPE_CHECKING:
    from transformers import Trainer


def quiet_trainer() -> dict[str, Any]:
    """Return the settings of ``TrainingArguments`` that every trainer here has."""
    import torch

    return {
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,  # see `show_progress`
        "gradient_checkpointing": False,
        "ddp_find_unused_parameters": False,  # all of an adapter is used in every step
        "bf16": False,  # the model is loaded in its dtype; no autocast on top
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def show_progress(trainer: Trainer, label: str) -> None:
    """Replace the trainer's printing by one bar with its reward or loss."""
    from transformers import PrinterCallback, TrainerCallback

    class Bar(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
            self.bar = Progress(
                total=state.max_steps,
                initial=state.global_step,
                desc=label,
                unit=" steps",
                disable=not state.is_world_process_zero,
            )

        def on_log(self, args, state, control, logs, **_):  # type: ignore[no-untyped-def]
            # one of them: two would be cut off at 80 columns
            name = "reward" if "reward" in logs else "loss"
            if name in logs:
                self.bar.set_postfix({name: logs[name]}, refresh=False)

        def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
            self.bar.update(1)

        def on_train_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
            self.bar.close()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Bar)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for what a trainer insists on writing, gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="minirec-")
