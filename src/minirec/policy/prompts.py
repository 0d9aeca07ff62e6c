"""Turn samples into the texts that the policy reads, and its texts into answers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jinja2 import TemplateError

from minirec.columns import (
    DRAW,
    EMPTY,
    HISTORY_ITEM_ID,
    ITEM_ID,
    N_TOKENS,
    PROMPT,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    TARGET_ITEM_ID,
    TIMESTAMP,
    TITLE,
    UNPARSABLE,
    USER_ID,
)
from minirec.errors import InputError, loading
from minirec.execution.batches import batches
from minirec.policy.params import PLACEHOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from minirec.policy.params import PromptParams
    from minirec.types import Model

# Columns of a pool beside those of `samples`: of each item of the history.
HISTORY_RATING = "history_rating"
HISTORY_TIMESTAMP = "history_timestamp"

# Prompts whose tokens are in memory at once.
BATCH = 4096

logger = logging.getLogger(__name__)


def render_prompts(
    pool: pd.DataFrame,
    items: pd.DataFrame,
    model: Model,
    prompt: PromptParams,
    max_new_tokens: int,
) -> pd.DataFrame:
    """Render each sample by the template and the tokenizer's chat template.

    A prompt that is too long loses the oldest items of its history, as few as will do.

    Parameters
    ----------
    pool
        Samples with their history, target and the items seen before; where lines of
        the history tell ratings or times, see `history_lines`.
    items
        The catalogue, whose titles stand for the ids.
    model
        Keyword arguments of ``from_pretrained``.
    prompt
        The texts around a history, and how many tokens a prompt may have.
    max_new_tokens
        Tokens that an answer may take.

    Returns
    -------
    DataFrame
        Table ``prompts``, in ascending order of sample id; ``history_item_id`` holds
        what a prompt shows.

    Raises
    ------
    InputError
        If a prompt is too long even with the newest item alone, or a title becomes a
        control token together with the text around it.
    """
    from minirec.policy.loading import load_tokenizer

    tokenizer = load_tokenizer(model)
    limit, of_whom = _limit(model, prompt, max_new_tokens)
    title = titles(items, *marks(prompt, tokenizer))
    parts = [
        _rendered(batch, title, tokenizer, prompt, limit, of_whom)
        for batch in batches(pool, BATCH, "render_prompts")
    ]
    prompts = pd.concat(parts)
    whole, shown = (table[HISTORY_ITEM_ID].map(len) for table in (pool, prompts))
    if cut := int((shown < whole).sum()):
        logger.info(
            "%d of %d prompts go without the oldest items of their history, to have "
            "no more than %d tokens",
            cut,
            len(pool),
            limit,
        )
    columns = [SAMPLE_ID, SPLIT, DRAW, USER_ID, PROMPT, N_TOKENS]
    columns += [TARGET_ITEM_ID, HISTORY_ITEM_ID, SEEN_ITEM_ID]
    return prompts[columns].sort_values(SAMPLE_ID, ignore_index=True)


def history_lines(
    pool: pd.DataFrame, title: dict[str, str], item: str
) -> list[list[str]]:
    """Write each item of each history as a line.

    Parameters
    ----------
    pool
        ``history_item_id``; for ``{rating}`` also ``history_rating``; for ``{time}``
        also ``history_timestamp`` and the target's ``timestamp``, in seconds.
    title
        Of each item.
    item
        The line, with placeholders.

    Returns
    -------
    list of list of str
        The lines of each row, in the order of its history.

    Raises
    ------
    InputError
        If a rating is missing.
    """
    columns = [_column(pool, title, name) for name in PLACEHOLDER.findall(item)]
    form = PLACEHOLDER.sub("%s", item.replace("%", "%%"))
    lines = map(form.__mod__, zip(*columns, strict=True))
    return [list(islice(lines, len(history))) for history in pool[HISTORY_ITEM_ID]]


def render_texts(
    histories: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt: PromptParams
) -> list[str]:
    """Put the template and the tokenizer's chat template around N histories.

    Raises
    ------
    InputError
        If the chat template refuses them.
    """
    try:
        rendered = tokenizer.apply_chat_template(
            [messages(text, prompt) for text in histories],
            tokenize=False,
            add_generation_prompt=True,
        )
    except TemplateError as error:
        raise InputError(
            f"the chat template of policy_model refuses the prompt ({error}): if it "
            "knows no system message, leave [system] out of the file that "
            "policy.prompt.template names, and put the instruction into [user]"
        ) from error
    return [f"{chat}{prompt.answer_start}" for chat in rendered]


def messages(history: str, prompt: PromptParams) -> list[dict[str, str]]:
    """Put the template around a history: what the chat template is given."""
    # replace, not format: titles and instructions may hold braces
    user = {"role": "user", "content": prompt.user.replace("{history}", history)}
    if prompt.system:
        return [{"role": "system", "content": prompt.system}, user]
    return [user]


def read_messages(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt: PromptParams
) -> list[list[dict[str, str]]]:
    """Find the messages of N rendered prompts: `render_texts`, the other way round.

    Raises
    ------
    InputError
        If the chat template does not make the same texts of them, as one that tells
        the date does not on another day.
    """
    (around,) = render_texts(["{history}"], tokenizer, prompt)
    before, _, after = around.partition("{history}")
    histories = [text.removeprefix(before).removesuffix(after) for text in texts]
    if render_texts(histories, tokenizer, prompt) != list(texts):
        raise InputError(
            "prompts are not what the chat template of policy_model makes now, as "
            "where it tells the date: run `kedro run --pipelines preprocess`, or take "
            "a model whose chat template always gives the same text"
        )
    return [messages(history, prompt) for history in histories]


def answering_template(tokenizer: PreTrainedTokenizerBase, prompt: PromptParams) -> str:
    """Return the tokenizer's chat template with the answer begun after its last line.

    Applied to `messages` with ``add_generation_prompt=True``, as trainers do, it gives
    what `render_texts` does.
    """
    template = tokenizer.get_chat_template()
    if not prompt.answer_start:
        return template
    begun = json.dumps(prompt.answer_start, ensure_ascii=False)
    # Jinja leaves out a line break at a template's end, but not within it
    return (
        template.removesuffix("\n")
        + "{{ "
        + begun
        + " if add_generation_prompt else '' }}"
    )


def _limit(model: Model, prompt: PromptParams, max_new_tokens: int) -> tuple[int, str]:
    """Return how many tokens a prompt may have, and who says so."""
    from transformers import AutoConfig

    with loading("policy_model", model):
        config = AutoConfig.from_pretrained(**model, trust_remote_code=False)
    context = config.get_text_config().max_position_embeddings
    left = context - max_new_tokens
    of_model = f"the model's context leaves beside {max_new_tokens} of the answer"
    if prompt.max_tokens is None:
        return left, f"{of_model} (policy.sampling.max_new_tokens)"
    if prompt.max_tokens > left:
        raise InputError(
            f"policy.prompt.max_tokens is {prompt.max_tokens}, more than the {left} "
            f"that {of_model} (policy.sampling.max_new_tokens): lower one of the two, "
            "or name a model with a longer context"
        )
    return prompt.max_tokens, "policy.prompt.max_tokens allows"


def _rendered(
    pool: pd.DataFrame,
    title: dict[str, str],
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptParams,
    limit: int,
    of_whom: str,
) -> pd.DataFrame:
    """Return the pool with prompts of at most ``limit`` tokens."""
    lines = history_lines(pool, title, prompt.item)

    def write(
        rows: Iterable[int], sizes: Iterable[int]
    ) -> tuple[list[str], list[list[int]]]:
        """Show the newest items of each row's history, so many."""
        histories = [
            "\n".join(lines[row][len(lines[row]) - size :])
            for row, size in zip(rows, sizes, strict=True)
        ]
        texts = render_texts(histories, tokenizer, prompt)
        return texts, tokenizer(texts, add_special_tokens=False)["input_ids"]

    shown = np.array([len(own) for own in lines])
    texts, ids = write(range(len(lines)), shown)
    fits = np.array([len(own) for own in ids]) <= limit
    least, most = np.where(fits, shown, 0), np.where(fits, shown, shown - 1)
    while len(rows := np.flatnonzero(least < most)):
        sizes = (least[rows] + most[rows] + 1) // 2
        for row, size, text, own in zip(rows, sizes, *write(rows, sizes), strict=True):
            if len(own) <= limit:
                least[row], texts[row], ids[row] = size, text, own
            else:
                most[row] = size - 1
    _, (bare,) = write([0], [0])
    if len(rows := np.flatnonzero([len(own) > limit for own in ids])):
        _, (shortest,) = write(rows[:1], [1])
        raise InputError(
            f"prompts: sample {pool[SAMPLE_ID].iloc[rows[0]]} has {len(shortest)} "
            f"tokens with its newest item alone and {len(bare)} without any, more than "
            f"the {limit} that {of_whom}: change that, or shorten the file that "
            "policy.prompt.template names"
        )
    _check_controls(pool, ids, bare, tokenizer)
    history = [
        own[len(own) - size :]
        for own, size in zip(pool[HISTORY_ITEM_ID], least, strict=True)
    ]
    prompts = pool.copy()
    prompts[PROMPT], prompts[N_TOKENS] = texts, [len(own) for own in ids]
    prompts[HISTORY_ITEM_ID] = history
    return prompts


def _column(pool: pd.DataFrame, title: dict[str, str], name: str) -> Iterable[str]:
    """Return what stands for a placeholder in every line of a pool."""
    if name == "title":
        return [title[item] for ids in pool[HISTORY_ITEM_ID] for item in ids]
    if name == "rating":
        for sample_id, ratings in zip(
            pool[SAMPLE_ID], pool[HISTORY_RATING], strict=True
        ):
            if np.isnan(ratings).any():
                raise InputError(
                    f"interactions.rating is missing for items of sample {sample_id}, "
                    "and the file that policy.prompt.template names shows {rating}: "
                    "leave it out of [item], or rate every interaction"
                )
        return map("{:g}".format, chain.from_iterable(pool[HISTORY_RATING]))
    return [
        duration(now - then)
        for now, times in zip(pool[TIMESTAMP], pool[HISTORY_TIMESTAMP], strict=True)
        for then in times
    ]


def duration(seconds: float) -> str:
    """Write a duration in days and hours, hours and minutes, or minutes.

    Examples
    --------
    >>> duration(100_000), duration(9_000), duration(59)
    ('1d 3h', '2h 30min', '0min')
    """
    hours, minutes = divmod(int(seconds) // 60, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}h {minutes}min" if hours else f"{minutes}min"


def titles(items: pd.DataFrame, *marks: str) -> dict[str, str]:
    """Return each item's title as prompts and answers hold it, in one line.

    Parameters
    ----------
    items
        The catalogue.
    marks
        What cannot stand within a title (`marks`): it is left out.

    Examples
    --------
    >>> items = pd.DataFrame({"item_id": ["a"], "title": ['The "Real"<|e<|end|>nd|>']})
    >>> titles(items, '"', "<|end|>")
    {'a': 'The Real'}
    """
    longest_first = sorted(marks, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))

    def plain(title: str) -> str:
        while (less := " ".join(pattern.sub("", title).split())) != title:
            title = less  # which can hold a mark again
        return title

    return {
        item: plain(title)
        for item, title in zip(items[ITEM_ID], items[TITLE], strict=True)
    }


def marks(prompt: PromptParams, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what would end an answer or a message, if it stood within a title."""
    of_answer = filter(None, (prompt.answer_mark, prompt.answer_end))
    return [*of_answer, *_controls(tokenizer).values()]


def _controls(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the tokens by which models are told what a text is.

    These are the special ones, and those that the chat template writes: of a reasoning
    model, ``<think>`` is not special.
    """
    template = tokenizer.get_chat_template()
    return {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and (token.special or token.content in template)
    }


def _check_controls(
    pool: pd.DataFrame,
    ids: Sequence[Sequence[int]],
    bare: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Refuse prompts with other control tokens than one without a history."""
    controls = _controls(tokenizer)
    # of a tokenizer without one for every character, any title can hold it
    controls.pop(tokenizer.unk_token_id, None)
    expected = [number for number in bare if number in controls]
    for row, own in enumerate(ids):
        found = [number for number in own if number in controls]
        if found != expected:
            raise InputError(
                f"prompts: a title in sample {pool[SAMPLE_ID].iloc[row]} and the text "
                "around it make a control token of policy_model: put a space beside "
                "{title} in [item] of the file that policy.prompt.template names"
            )


def answer(completion: str, answer_end: str, answer_mark: str = "") -> str:
    """Return the title within a completion: what stands before its end.

    Parameters
    ----------
    completion
        What the model wrote.
    answer_end
        What ends a title, as a line break does.
    answer_mark
        What begins the title after any reasoning; without it there is no answer.

    Examples
    --------
    >>> answer('Toy Story", which', '"')
    'Toy Story'
    >>> answer("Toys, so <answer>Toy Story</answer>.", "</answer>", "<answer>")
    'Toy Story'
    >>> answer("Toys, so I think of", "</answer>", "<answer>")
    ''
    """
    if answer_mark:
        _, found, rest = completion.rpartition(answer_mark)
        completion = rest if found else ""
    text = completion.partition(answer_end)[0]
    return text.strip().partition("\n")[0].strip()


def failure(completion: str, answer_end: str, answer_mark: str = "") -> str | None:
    """Say why a completion holds no answer; None if it holds one.

    Parameters are those of `answer`.

    Examples
    --------
    >>> failure("Toys, so I think of", "</answer>", "<answer>")
    'unparsable'
    >>> failure(' "', '"')
    'empty'
    """
    if answer_mark not in completion:
        return UNPARSABLE
    return None if answer(completion, answer_end, answer_mark) else EMPTY
