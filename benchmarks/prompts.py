"""Measure how many prompts a second are written, with and without the tokenizer.

``python benchmarks/prompts.py`` draws histories of ten invented titles and renders them
by each template of conf/prompts, in batches as the pipeline does and one by one. Texts
of both ways must be equal. The last line is JSON: prompts a second, the best of three
runs each.
"""

import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import pandas as pd
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from minirec.policy.loading import load_tokenizer
from minirec.policy.params import PromptParams
from minirec.policy.prompts import (
    BATCH,
    history_lines,
    marks,
    render_prompts,
    render_texts,
    titles,
)

PROJECT = Path(__file__).parents[1]
TEMPLATES = ("titles", "history", "reasoning")
WORDS = "the silent harbour of amber hollow and distant broken velvet paper winter"


def invented(n: int, window: int, n_items: int = 20_000) -> tuple[pd.DataFrame, ...]:
    """Return a pool of n samples and a catalogue of titles of two to six words."""
    rng = np.random.default_rng(0)
    words = np.array(WORDS.split())
    items = pd.DataFrame(
        {
            "item_id": [str(number) for number in range(n_items)],
            "title": [
                " ".join(rng.choice(words, rng.integers(2, 7))).title()
                for _ in range(n_items)
            ],
        }
    )
    history = rng.choice(items["item_id"], (n, window))
    pool = pd.DataFrame({"sample_id": np.arange(n), "split": "train", "user_id": "u"})
    pool["target_item_id"] = "0"
    pool["history_item_id"] = pool["seen_item_id"] = list(history)
    pool["draw"] = np.arange(n)
    pool["timestamp"] = 2e9
    pool["history_timestamp"] = list(rng.uniform(1e9, 2e9, (n, window)))
    pool["history_rating"] = list(rng.integers(1, 11, (n, window)) / 2)
    return pool, items


def per_second(n: int, work: Callable[[], Any]) -> tuple[int, Any]:
    """Return n over the seconds of the best of three runs, and what they returned."""
    seconds = []
    for _ in range(3):
        start = perf_counter()
        result = work()
        seconds.append(perf_counter() - start)
    return round(n / min(seconds)), result


def measure(name: str, n: int, window: int, model: dict[str, str]) -> dict[str, int]:
    """Return prompts a second of one template, by the way they are written."""
    path = PROJECT / "conf" / "prompts" / f"{name}.txt"
    prompt = PromptParams.model_validate({"template": str(path), "max_tokens": None})
    pool, items = invented(n, window)
    tokenizer = load_tokenizer(model)
    title = titles(items, *marks(prompt, tokenizer))

    def batched() -> list[str]:
        texts = []
        for start in range(0, n, BATCH):
            part = pool.iloc[start : start + BATCH]
            lines = history_lines(part, title, prompt.item)
            texts += render_texts(["\n".join(own) for own in lines], tokenizer, prompt)
        return texts

    def one_by_one() -> list[str]:
        texts = []
        for lines in history_lines(pool, title, prompt.item):
            user = prompt.user.replace("{history}", "\n".join(lines))
            chat = tokenizer.apply_chat_template(
                [
                    {"role": "system", "content": prompt.system},
                    {"role": "user", "content": user},
                ],
                tokenize=False,
                add_generation_prompt=True,
            )
            texts.append(f"{chat}{prompt.answer_start}")
        return texts

    of_batches, texts = per_second(n, batched)
    of_one_by_one, same = per_second(n, one_by_one)
    assert texts == same, f"{name}: batches and single prompts differ"
    of_whole, _ = per_second(
        n, lambda: render_prompts(pool, items, model, prompt, max_new_tokens=16)
    )
    return {"batched": of_batches, "one_by_one": of_one_by_one, "tokenized": of_whole}


@click.command()
@click.option("--prompts", "n", default=20_000, show_default=True)
@click.option("--window", default=10, show_default=True, help="Items of a history.")
@click.option("--env", help="Whose policy_model is taken, such as test.")
def main(n: int, window: int, env: str | None) -> None:
    """Print prompts a second as a table and as JSON."""
    bootstrap_project(PROJECT)
    with KedroSession.create(PROJECT, env=env) as session:
        model = session.load_context().catalog.load("policy_model")
    found = {name: measure(name, n, window, model) for name in TEMPLATES}
    click.echo(pd.DataFrame(found).T.to_string())
    click.echo(json.dumps({"prompts_per_second": found, "prompts": n}))


if __name__ == "__main__":
    main()
