"""From the curriculum to files for other trainers: tables in, tables out.

Columns are those that TRL 1.16.0, verl 0.9.1 and OpenRLHF 0.11.2 read; docs/export.md
says where.
"""

from __future__ import annotations

import json
import logging

import pandas as pd

from minirec.columns import (
    HISTORY_ITEM_ID,
    MEAN_REWARD,
    N_TOKENS,
    POSITION,
    PROMPT,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    STAGE,
    TARGET_ITEM_ID,
    TRAIN,
)
from minirec.errors import InputError
from minirec.policy.params import PromptParams
from minirec.types import Model

# columns beside those of other tables
CHAT = "chat"
TARGET_TITLE = "target_title"

# what all samples are said to come from, by which trainers tell rewards apart
SOURCE = "minirec"

# what a reward may ask of a sample, and where it stands
OF_ORDER = [POSITION, SAMPLE_ID, STAGE, MEAN_REWARD]
OF_TASK = [TARGET_ITEM_ID, TARGET_TITLE, HISTORY_ITEM_ID, SEEN_ITEM_ID]

logger = logging.getLogger(__name__)


def export_curriculum(
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    policy_model: Model,
    prompt: PromptParams,
    kind: str,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Write the samples in their order for TRL, verl and OpenRLHF.

    Raises
    ------
    InputError
        If ``prompts`` lacks a sample, or `read_messages` cannot find its messages, or
        prompts are no texts.
    """
    _need_texts(kind)
    from minirec.policy.loading import load_tokenizer
    from minirec.policy.prompts import marks, read_messages, titles

    if not curriculum[SAMPLE_ID].isin(prompts[SAMPLE_ID]).all():
        raise InputError(
            "curriculum holds samples that prompts does not: they were made from "
            "different pools; run `kedro run --pipelines score` and then `select`"
        )
    tokenizer = load_tokenizer(policy_model)
    title = titles(items, *marks(prompt, tokenizer))
    samples = curriculum.sort_values(POSITION).merge(prompts, on=SAMPLE_ID)
    chats = read_messages(samples[PROMPT].tolist(), tokenizer, prompt)
    samples[CHAT] = pd.Series(chats, dtype=object)
    samples[TARGET_TITLE] = samples[TARGET_ITEM_ID].map(title)
    for name in (HISTORY_ITEM_ID, SEEN_ITEM_ID):
        samples[name] = samples[name].map(list)
    logger.info(
        "%d samples in %d stages; the longest prompt has %d tokens",
        len(samples),
        samples[STAGE].nunique(),
        samples[N_TOKENS].max(),
    )
    samples = samples[[PROMPT, CHAT, N_TOKENS, *OF_ORDER, *OF_TASK]]
    return samples, for_verl(samples), for_openrlhf(samples)


def for_verl(samples: pd.DataFrame) -> pd.DataFrame:
    """Nest the samples as verl's ``RLHFDataset`` reads them."""
    known = samples[[N_TOKENS, *OF_ORDER, *OF_TASK]].to_dict("records")
    return pd.DataFrame(
        {
            "data_source": SOURCE,
            PROMPT: samples[CHAT],
            "ability": "recommendation",
            "reward_model": [
                {"style": "rule", "ground_truth": row[TARGET_TITLE]} for row in known
            ],
            "extra_info": [
                {"index": row[POSITION], "split": TRAIN, **row} for row in known
            ],
        }
    )


def for_openrlhf(samples: pd.DataFrame) -> pd.DataFrame:
    """Put what a reward may ask into ``label``, all that OpenRLHF hands on to it."""
    known = samples[[*OF_ORDER, *OF_TASK]].to_dict("records")
    label = [json.dumps(row, ensure_ascii=False) for row in known]
    return samples[[PROMPT, CHAT, *OF_ORDER]].assign(datasource=SOURCE, label=label)


def export_chat_template(policy_model: Model, prompt: PromptParams, kind: str) -> str:
    """Return the chat template that makes the prompts of their messages.

    Raises
    ------
    InputError
        If prompts are no texts.
    """
    _need_texts(kind)
    from minirec.policy.loading import load_tokenizer
    from minirec.policy.prompts import answering_template

    return answering_template(load_tokenizer(policy_model), prompt)


def _need_texts(kind: str) -> None:
    if kind == "item_tokens":
        raise InputError(
            "policy.kind is item_tokens, whose prompts are no texts that other trainers "
            "could read: choose another kind, and run all pipelines"
        )
