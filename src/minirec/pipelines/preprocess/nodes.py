"""From raw histories to prompts: tables in, tables out."""

import logging
from html import escape, unescape

import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd

from minirec.columns import (
    DRAW,
    HISTORY_ITEM_ID,
    ITEM_ID,
    N_TOKENS,
    POSITION,
    PROMPT,
    RATING,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    TARGET_ITEM_ID,
    TEST,
    TEXT,
    TIMESTAMP,
    TITLE,
    TRAIN,
    USER_ID,
    VALID,
)
from minirec.histories.catalogue import catalogue
from minirec.histories.clean import clean_items
from minirec.histories.events import history_events
from minirec.histories.ids import to_ids
from minirec.histories.leakage import leakage
from minirec.histories.prepare import prepare
from minirec.histories.splits import order_and_split
from minirec.histories.text import template_columns
from minirec.histories.windows import draw_pool, seen_items, windows
from minirec.pipelines.preprocess.params import FilterParams, PoolParams, SplitParams
from minirec.policy.params import PromptParams

logger = logging.getLogger(__name__)

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Prompts</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 50rem; font: 1rem/1.5 system-ui, sans-serif; }}
pre {{ font: 0.85rem/1.4 ui-monospace, monospace; overflow-x: auto; }}
</style></head>
<body><h1>Five prompts, from the shortest to the longest</h1>
<section>{}</section></body></html>
"""


def prepare_interactions(
    raw_interactions: ir.Table,
    raw_items: ir.Table,
    limits: FilterParams,
    k: int,
    split: SplitParams,
) -> ir.Table:
    """Clean and filter the interactions, keep their k-core and split them."""
    items = raw_items if limits.untitled == "drop" else None
    filters = (limits.min_rating, limits.since, limits.until)
    core, numbers = prepare(raw_interactions, k, *filters, items)
    interactions = order_and_split(
        core, split.method, split.valid, split.test, split.pretrain, split.ties
    )
    return to_ids(interactions, numbers)


def prepare_items(
    raw_items: ir.Table, interactions: ir.Table, item_text: str
) -> pd.DataFrame:
    """Describe the items that the interactions name."""
    columns = template_columns(item_text, raw_items.columns)
    cleaned = clean_items(raw_items, interactions, columns)
    items = catalogue(cleaned, interactions, item_text).execute()

    def unescaped(text: str) -> str:
        return " ".join(unescape(text).split()) if "&" in text else text

    counted = interactions.aggregate(
        rows=interactions.count(), users=interactions[USER_ID].nunique()
    ).execute()
    logger.info(
        "prepare_items: %s interactions of %s users with %s items count, after "
        "cleaning, preprocess.filter and preprocess.k_core",
        *(f"{n:,}" for n in (*counted.iloc[0], len(items))),
    )
    # No engine knows the entities of HTML.
    return items.assign(**{name: items[name].map(unescaped) for name in (TITLE, TEXT)})


def build_samples(interactions: ir.Table, window: int) -> ir.Table:
    """Make a sample of each interaction that has a past."""
    return windows(interactions, window).order_by(SAMPLE_ID)


def report_leakage(samples: ir.Table) -> pd.DataFrame:
    """Count what training knows of the targets that it is evaluated on."""
    return leakage(samples).order_by(SPLIT).execute()


def render_prompts(
    samples: ir.Table,
    interactions: ir.Table,
    items: pd.DataFrame,
    policy_model: dict[str, str],
    pool: PoolParams,
    prompt: PromptParams,
    max_new_tokens: int,
    seed: int,
    kind: str,
) -> pd.DataFrame:
    """Draw the pools to score and to evaluate, and write each sample as a prompt."""
    from minirec.policy import item_tokens, prompts

    wanted = {TRAIN: pool.train, VALID: pool.valid, TEST: pool.test}
    pools = ibis.union(
        *(draw_pool(samples, split, n, seed) for split, n in wanted.items() if n != 0)
    )
    columns = [SAMPLE_ID, SPLIT, DRAW, USER_ID, TIMESTAMP]
    columns += [TARGET_ITEM_ID, HISTORY_ITEM_ID, SEEN_ITEM_ID]
    seen = seen_items(pools, interactions).select(*columns)
    drawn = seen.order_by(SAMPLE_ID).execute()
    if kind == "item_tokens":
        rendered = item_tokens.render_prompts(drawn).drop(columns=TIMESTAMP)
        return rendered.sort_values(SAMPLE_ID, ignore_index=True)
    if "{rating}" in prompt.item or "{time}" in prompt.item:
        events = history_events(pools, interactions)
        events = events.order_by([SAMPLE_ID, POSITION]).execute()
        ends = drawn[HISTORY_ITEM_ID].map(len).cumsum()[:-1]
        drawn[prompts.HISTORY_RATING] = np.split(events[RATING].to_numpy(), ends)
        drawn[prompts.HISTORY_TIMESTAMP] = np.split(events[TIMESTAMP].to_numpy(), ends)
    return prompts.render_prompts(drawn, items, policy_model, prompt, max_new_tokens)


def show_prompts(prompts: pd.DataFrame, items: pd.DataFrame) -> str:
    """Lay out five prompts on a page, from the shortest to the longest."""
    ordered = prompts.sort_values([N_TOKENS, SAMPLE_ID])
    rows = np.linspace(0, len(ordered) - 1, min(5, len(ordered))).round().astype(int)
    title = items.set_index(ITEM_ID)[TITLE]
    shown = [
        f"<h2>Sample {row[SAMPLE_ID]}, {row[SPLIT]}: {row[N_TOKENS]} tokens</h2>"
        f'<pre style="white-space: pre-wrap">{escape(row[PROMPT])}</pre>'
        f"<p>Chosen next: {escape(title[row[TARGET_ITEM_ID]])}</p>"
        for _, row in ordered.iloc[rows].iterrows()
    ]
    return PAGE.format("".join(shown))
