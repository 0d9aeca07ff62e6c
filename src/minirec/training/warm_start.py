"""A short supervised start, for models that cannot yet answer in the asked form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from minirec.columns import PROMPT, TARGET_ITEM_ID
from minirec.policy.flops import counted_steps
from minirec.policy.prompts import marks, titles
from minirec.training.quiet import quiet_trainer, scratch_folder, show_progress

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from minirec.policy.params import PromptParams


def teach_answers(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    prompt: PromptParams,
    steps: int,
    learning_rate: float,
    prompts_per_step: int,
    seed: int,
) -> None:
    """Teach the adapter, in place, to answer with the title of the target.

    The loss is on the answer alone (TRL's ``completion_only_loss``).
    """
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()  # of its preparation, a moment's work
    title = titles(items, *marks(prompt, tokenizer))
    answers = [
        f"{prompt.answer_mark}{title[item]}{prompt.answer_end}{tokenizer.eos_token}"
        for item in prompts[TARGET_ITEM_ID]
    ]
    # As when it answers: the rendered prompt has its special tokens already, and what
    # is written begins with a token of its own.
    read, written = (
        tokenizer(texts, add_special_tokens=False)["input_ids"]
        for texts in (prompts[PROMPT].tolist(), answers)
    )
    data = Dataset.from_dict(
        {
            "input_ids": [p + a for p, a in zip(read, written, strict=True)],
            "completion_mask": [
                [0] * len(p) + [1] * len(a) for p, a in zip(read, written, strict=True)
            ],
        }
    )
    with scratch_folder() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_steps=steps,
            learning_rate=learning_rate,
            per_device_train_batch_size=prompts_per_step,
            completion_only_loss=True,
            max_length=None,
            seed=seed,
            **quiet_trainer(),
        )
        trainer = SFTTrainer(
            model=policy, args=config, train_dataset=data, processing_class=tokenizer
        )
        show_progress(trainer, "warm_start_policy")
        with counted_steps(policy):
            trainer.train()
    policy.eval()
