"""Measure what each strategy takes, on the tables of a run and on random rows.

``python benchmarks/strategies.py``, after ``kedro run --pipelines preprocess,score``,
lets every strategy of `minirec.selection.strategies` choose a quarter of the pool,
without pruning (the median of three), and then 2,000 of 20,000 candidates with 384
numbers each, drawn from a normal distribution (once; ``--n``, ``--k``, ``--width``).
Such rows are all about as far from one another, which is the worst case for methods
that leave out what is not near. Tables are in memory; ``validation_alignment`` has 100
validation prompts, and on the tables of a run whatever these hold.

The last line is JSON: seconds by strategy, once for each of the two.
"""

import inspect
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from minirec.columns import SPLIT, VALID
from minirec.selection import strategies

PROJECT = Path(__file__).parents[1]
N_VALID, N_ITEMS = 100, 1_000


def of_project(env: str | None) -> dict[str, Any]:
    """Return the tables of a run, with every scored sample for a candidate."""
    bootstrap_project(PROJECT)
    with KedroSession.create(project_path=PROJECT, env=env) as session:
        load = session.load_context().catalog.load
        names = ("prompts", "items", "gradients", "embeddings")
        return {"candidates": load("scores"), **{name: load(name) for name in names}}


def made_up(n: int, width: int) -> dict[str, Any]:
    """Return random tables of n candidates."""
    rng = np.random.default_rng(0)
    ids = np.arange(n + N_VALID)
    columns = ("mean_reward", "learnability", "representativeness", "value")
    matrix = rng.standard_normal((len(ids), width), dtype=np.float32)
    both = {"sample_id": ids, "matrix": matrix}
    items = [f"{item}" for item in range(N_ITEMS)]
    return {
        "candidates": pd.DataFrame(
            {"sample_id": ids[:n], **{name: rng.random(n) for name in columns}}
        ),
        "prompts": pd.DataFrame(
            {
                "sample_id": ids,
                SPLIT: np.where(ids < n, "train", VALID),
                "target_item_id": rng.choice(items, len(ids)),
                "seen_item_id": [items[:length] for length in ids % 50],
            }
        ),
        "items": pd.DataFrame(
            {"item_id": items, "popularity": rng.integers(1, 100, N_ITEMS)}
        ),
        "gradients": both,
        "embeddings": both,
    }


def seconds(tables: Mapping[str, Any], k: int, repeats: int) -> dict[str, float | None]:
    """Return the median seconds of each strategy; None where there is no answer."""
    held_out = (tables["prompts"][SPLIT] == VALID).any()
    taken: dict[str, float | None] = {}
    for name, choose in inspect.getmembers(strategies, inspect.isfunction):
        if choose.__module__ != strategies.__name__ or name.startswith("_"):
            continue
        taken[name] = None
        if name == "validation_alignment" and not held_out:
            continue
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            choose(tables, k, seed=0)
            times.append(time.perf_counter() - start)
        taken[name] = round(statistics.median(times), 4)
    return taken


@click.command()
@click.option("--env", help="Of the run.")
@click.option("--n", default=20_000, show_default=True, help="Random candidates.")
@click.option("--k", default=2_000, show_default=True, help="Picks of these.")
@click.option("--width", default=384, show_default=True, help="Numbers of each.")
def main(env: str | None, n: int, k: int, width: int) -> None:
    """Print the seconds of each strategy on both."""
    tables = of_project(env)
    n_scored = len(tables["candidates"])
    # what scikit-learn takes to be imported is no part of k-means
    strategies.k_means(tables, 1, seed=0)
    results = {
        f"{n_scored // 4} of {n_scored}": seconds(tables, n_scored // 4, repeats=3),
        f"{k} of {n}": seconds(made_up(n, width), k, repeats=1),
    }
    click.echo(pd.DataFrame(results).to_string(float_format="{:.3f}".format))
    click.echo(json.dumps(results))


if __name__ == "__main__":
    main()
