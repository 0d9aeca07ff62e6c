"""From raw histories to prompts: tables in, tables out."""

import ibis.expr.types as ir
import pandas as pd

from minirec.columns import (
    HISTORY_ITEM_ID,
    POSITION,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    TARGET_ITEM_ID,
    TEST,
    TRAIN,
    USER_ID,
)
from minirec.histories.catalogue import catalogue
from minirec.histories.clean import clean_interactions, clean_items
from minirec.histories.k_core import k_core
from minirec.histories.splits import order_and_split
from minirec.histories.windows import draw_pool, seen_items, windows
from minirec.pipelines.preprocess.params import PoolParams, SplitParams
from minirec.policy.params import PromptParams


def prepare_interactions(
    raw_interactions: ir.Table, k: int, split: SplitParams
) -> ir.Table:
    """Clean the interactions, keep their k-core and say which split each is in."""
    core = k_core(clean_interactions(raw_interactions), k)
    interactions = order_and_split(core, split.method, split.valid, split.test)
    return interactions.order_by([USER_ID, POSITION])


def prepare_items(raw_items: ir.Table, interactions: ir.Table) -> pd.DataFrame:
    """Describe the items that the interactions name."""
    return catalogue(clean_items(raw_items), interactions).execute()


def build_samples(interactions: ir.Table, window: int) -> ir.Table:
    """Make a sample of each interaction that has a past."""
    return windows(interactions, window).order_by(SAMPLE_ID)


def render_prompts(
    samples: ir.Table,
    interactions: ir.Table,
    items: pd.DataFrame,
    policy_model: dict[str, str],
    pool: PoolParams,
    prompt: PromptParams,
    max_new_tokens: int,
    seed: int,
) -> pd.DataFrame:
    """Draw the pools to score and to evaluate, and write each sample as a prompt."""
    from minirec.policy import prompts

    pools = draw_pool(samples, TRAIN, pool.train, seed).union(
        draw_pool(samples, TEST, pool.test, seed)
    )
    drawn = (
        seen_items(pools, interactions)
        .select(
            SAMPLE_ID, SPLIT, USER_ID, TARGET_ITEM_ID, HISTORY_ITEM_ID, SEEN_ITEM_ID
        )
        .order_by(SAMPLE_ID)
        .execute()
    )
    return prompts.render_prompts(drawn, items, policy_model, prompt, max_new_tokens)
