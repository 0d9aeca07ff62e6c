"""Turn samples into the texts that the policy reads, and its texts into answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from jinja2 import TemplateError

from minirec.columns import (
    HISTORY_ITEM_ID,
    ITEM_ID,
    N_TOKENS,
    PROMPT,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    TARGET_ITEM_ID,
    TITLE,
    USER_ID,
)
from minirec.errors import InputError, loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from minirec.policy.params import PromptParams
    from minirec.types import Model


def render_prompts(
    pool: pd.DataFrame,
    items: pd.DataFrame,
    model: Model,
    prompt: PromptParams,
    max_new_tokens: int,
) -> pd.DataFrame:
    """Render each sample by the tokenizer's chat template.

    Parameters
    ----------
    pool
        Samples with their history, target and the items seen before.
    items
        The catalogue, whose titles stand for the ids.
    model
        Keyword arguments of ``from_pretrained``.
    prompt
        The texts around a history.
    max_new_tokens
        Tokens that an answer may take.

    Returns
    -------
    DataFrame
        Table ``prompts``, in ascending order of sample id.

    Raises
    ------
    InputError
        If a prompt and its answer are longer than the model's context.
    """
    from transformers import AutoConfig

    from minirec.policy.loading import load_tokenizer

    tokenizer = load_tokenizer(model)
    title = titles(items, prompt.answer_end)
    texts = [
        _rendered(tokenizer, [title[item] for item in history], prompt)
        for history in pool[HISTORY_ITEM_ID]
    ]
    lengths = [
        len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]
    ]
    prompts = pool.copy()
    prompts[PROMPT], prompts[N_TOKENS] = texts, lengths
    with loading("policy_model", model):
        config = AutoConfig.from_pretrained(**model, trust_remote_code=False)
    context = config.get_text_config()
    limit = context.max_position_embeddings - max_new_tokens
    if max(lengths) > limit:
        longest = prompts.sort_values(N_TOKENS).iloc[-1]
        raise InputError(
            f"prompts: sample {longest[SAMPLE_ID]} has {longest[N_TOKENS]} tokens, and "
            f"the model's context leaves {limit} beside "
            f"policy.sampling.max_new_tokens={max_new_tokens}: lower "
            "preprocess.window, or name a model with a longer context"
        )
    columns = [SAMPLE_ID, SPLIT, USER_ID, PROMPT, N_TOKENS]
    columns += [TARGET_ITEM_ID, HISTORY_ITEM_ID, SEEN_ITEM_ID]
    return prompts[columns].sort_values(SAMPLE_ID, ignore_index=True)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, history: list[str], prompt: PromptParams
) -> str:
    # replace, not format: titles and instructions may hold braces
    user = prompt.user.replace("{history}", "\n".join(history))
    messages = [{"role": "user", "content": user}]
    if prompt.system:
        messages.insert(0, {"role": "system", "content": prompt.system})
    try:
        chat = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise InputError(
            f"the chat template of policy_model refuses the prompt ({error}): if it "
            'knows no system message, set policy.prompt.system to "" and put the '
            "instruction into policy.prompt.user"
        ) from error
    return f"{chat}{prompt.answer_start}"


def titles(items: pd.DataFrame, answer_end: str) -> dict[str, str]:
    """Return each item's title as prompts and answers hold it.

    What ends an answer cannot stand within one, so that it is left out.
    """
    return {
        item: " ".join(title.replace(answer_end, "").split())
        for item, title in zip(items[ITEM_ID], items[TITLE], strict=True)
    }


def answer(completion: str, answer_end: str) -> str:
    """Return the title within a completion: what stands before its end.

    Examples
    --------
    >>> answer('Toy Story", which', '"')
    'Toy Story'
    """
    text = completion.partition(answer_end)[0]
    return text.strip().partition("\n")[0].strip()
