"""The text at the end of a run, made of its tables and the paths of its datasets."""

import math
import os.path
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from minirec.columns import (
    ITEM_KNN,
    KEPT,
    MEAN_REWARD,
    NEAREST,
    NO_SPREAD,
    POPULARITY,
    REASON,
    SASREC,
    TOO_EASY,
    TOO_HARD,
    TRAINED,
    UNTRAINED,
)
from minirec.pipeline_registry import ORDER
from minirec.ranking.metrics import OF_RANK, metric_named

# values of `method` in `rankings` and `metrics`, in the order of every display
METHODS = {
    TRAINED: "policy trained on the selection",
    UNTRAINED: "the same policy untrained",
    SASREC: "SASRec",
    ITEM_KNN: "item-kNN",
    POPULARITY: "popularity",
    NEAREST: "nearest items to the history",
}


# of powers of 1000
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def metrics_table(metrics: pd.DataFrame) -> Table:
    """Lay out the first two metrics of every method, each with its interval.

    Parameters
    ----------
    metrics
        A table of `minirec.schemas.Metrics`.

    Returns
    -------
    Table
        One row a method, at most 80 characters wide.
    """
    shown = first_metrics(metrics)
    cells = {
        (row.method, row.metric): f"{row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]"
        for row in metrics.itertuples()
    }
    users, samples = int(metrics["users"].iloc[0]), int(metrics["samples"].iloc[0])
    whose = f"{users:,} users" + (f" ({samples:,} samples)" if samples != users else "")

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"The next item of {whose} of the test split, ranked among all items",
        title_style="bold",
        caption=r"mean \[bootstrap interval]; higher is better",
        caption_style="",
    )
    table.add_column("method", no_wrap=True)
    for metric in shown:
        table.add_column(metric.upper(), justify="right", no_wrap=True)
    for method, name in METHODS.items():
        if any(key == method for key, _ in cells):
            table.add_row(name, *(cells[method, metric] for metric in shown))
    return table


def first_metrics(metrics: pd.DataFrame) -> list[str]:
    """Return the first two metrics that say how well the target ranks."""
    names = metrics["metric"].unique()
    return [name for name in names if metric_named(name, "metric").kind in OF_RANK][:2]


def comparison_table(comparisons: pd.DataFrame, metric: str) -> Table:
    """Lay out how far the trained policy is ahead of each other method.

    Parameters
    ----------
    comparisons
        A table of `minirec.schemas.Comparisons`.
    metric
        The one to show.

    Returns
    -------
    Table
        One row a method that the trained policy was compared with.
    """
    own = comparisons[
        (comparisons["metric"] == metric) & (comparisons["method"] == TRAINED)
    ]
    rows = {str(row.other): row for row in own.itertuples()}
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=r"difference \[paired bootstrap interval]; p of a randomisation test, "
        "for all of these (Holm)",
        caption_style="",
    )
    table.add_column("the trained policy minus", no_wrap=True)
    table.add_column(metric.upper(), justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    for method, name in METHODS.items():
        if method in rows:
            row = rows[method]
            # an end that rounds to 0 keeps its sign: it says on which side it lies
            ends = f"[{row.low:+.3f}, {row.high:+.3f}]"
            table.add_row(name, f"{row.difference:+z.3f} {ends}", _p(row.p_holm))
    return table


def _p(value: Any) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def pruning_rows(candidates: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Count how many samples stay or go for which reason, and with what reward.

    Parameters
    ----------
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool.

    Returns
    -------
    list of tuple
        One a reason that occurs, as text: it, its samples, their share of the pool, and
        their share of its reward, which is the sum of mean rewards. A dash stands for a
        share of rewards that are all 0, or of which one is negative.
    """
    rewards = candidates[MEAN_REWARD]
    whole = rewards.sum() if rewards.min() >= 0 else 0
    groups = rewards.groupby(candidates[REASON])
    samples, reward = groups.size(), groups.sum()
    return [
        (
            reason.replace("_", " "),
            f"{samples[reason]:,}",
            f"{samples[reason] / len(candidates):.1%}",
            f"{reward[reason] / whole:.1%}" if whole else "-",
        )
        for reason in (KEPT, TOO_EASY, TOO_HARD, NO_SPREAD)
        if reason in samples.index
    ]


def pruning_table(candidates: pd.DataFrame) -> Table:
    """Lay out the `pruning_rows`.

    Parameters
    ----------
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("of the pool", no_wrap=True)
    for name in ("samples", "share", "share of reward"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in pruning_rows(candidates):
        table.add_row(*row)
    return table


def places_table(
    paths: Mapping[str, str], costs: pd.DataFrame | None, env: str | None = None
) -> Table:
    """Lay out where the results lie, what they took and how to look at them.

    Parameters
    ----------
    paths
        Path of each dataset on disk, by its name in the catalog.
    costs
        The table that `minirec.hooks.CostHook` keeps; None if the catalog has none.
    env
        The configuration environment of the run, which is to be looked at.

    Returns
    -------
    Table
        A line each for tables, figures, adapter, report, minutes, tokens and ways to
        look.
    """
    tables = [paths[name] for name in ("selection", "metrics") if name in paths]
    figures = [path for name, path in paths.items() if name.endswith("_figure")]
    table = Table.grid(padding=(0, 2))
    if tables:
        table.add_row("tables", ", ".join([*tables, "…"]))
    if figures:
        table.add_row(
            "figures", f"{os.path.commonpath(figures)}: in the report and kedro viz"
        )
    if "policy_adapter" in paths:
        table.add_row("adapter", f"{paths['policy_adapter']}: see docs/adapter.md")
    if "report" in paths:
        table.add_row("report", f"{paths['report']}: all of it, on one page")
    if costs is not None:
        seconds = costs.groupby("pipeline")["seconds"].sum()
        minutes = ", ".join(
            f"{name} {seconds[name] / 60:.1f}" for name in ORDER if name in seconds
        )
        peak = costs["peak_memory_gb"].max()
        table.add_row("minutes", f"{minutes}; {peak:.1f} GB at peak")
        table.add_row("tokens", _tokens_and_flops(costs))
    viz, notebooks = "make viz (`kedro viz run`)", "notebooks/"
    if env not in (None, "local"):
        viz = f"`kedro viz run --env {env}`"
        notebooks = f"notebooks/ with KEDRO_ENV={env} set"
    table.add_row("look", f"{viz}: pipelines, tables, figures")
    table.add_row("", f"{notebooks}: scores and picks, other methods, one user")
    return table


def _tokens_and_flops(costs: pd.DataFrame) -> str:
    written, trained, read = (
        f"{costs[f'tokens_{name}'].sum():,}"
        for name in ("generated", "trained", "read")
    )
    of_baselines = int(
        costs.loc[costs["node"] == "rank_baselines", "tokens_trained"].sum()
    )
    if of_baselines:
        own = costs["tokens_trained"].sum() - of_baselines
        trained = f"{own:,} (baselines: {of_baselines:,})"
    flops = costs["flops"].sum()
    scale = min(max(int(math.log10(flops)) // 3, 0), len(PREFIXES) - 1) if flops else 0
    unknown = costs.loc[costs["flops"].isna(), "node"]
    beside = f" (beside {', '.join(unknown)})" if len(unknown) else ""
    return (
        f"{written} written, {trained} trained on, {read} read; "
        f"{flops / 1000**scale:.3g} {PREFIXES[scale]}FLOP{beside}"
    )


def work_table(
    rollouts: pd.DataFrame,
    rewards: pd.DataFrame,
    consumed: pd.DataFrame,
    rankings: pd.DataFrame,
    most: int | None,
) -> Table:
    """Lay out how much was written, trained on and ranked.

    Parameters
    ----------
    rollouts, rewards, consumed, rankings
        The tables of `minirec.schemas` with these names.
    most
        Rollouts that adaptive probing might have written on each prompt; None if all
        were to be written.

    Returns
    -------
    Table
        A line each for scoring, training and evaluation, and for what scoring saved or
        could not use.
    """
    tokens = int(rollouts["token_id"].map(len).sum())
    answers = rankings[rankings["method"].isin([UNTRAINED, TRAINED])]
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "scored",
        f"{rollouts['sample_id'].nunique():,} prompts by {len(rollouts):,} rollouts "
        f"of {tokens:,} tokens",
    )
    written, possible = len(rollouts), rollouts["sample_id"].nunique() * (most or 0)
    if written < possible:
        table.add_row(
            "",
            f"{written:,} of {possible:,} rollouts written: "
            f"{possible - written:,} saved by adaptive probing",
        )
    failed = rewards["failure"].value_counts()
    if len(failed):
        counts = ", ".join(
            f"{n:,} {str(why).replace('_', ' ')}" for why, n in failed.items()
        )
        table.add_row("", f"without an answer, rewarded with 0: {counts}")
    table.add_row(
        "trained",
        f"on {consumed['sample_id'].nunique():,} prompts in "
        f"{consumed['step'].nunique():,} steps",
    )
    table.add_row(
        "ranked",
        f"{answers['sample_id'].nunique():,} prompts by "
        f"{answers['method'].nunique()} policies' answers",
    )
    return table


def what_comes_next(written: Sequence[str], step: str | None) -> str:
    """Say in one line what a run of a part wrote and what comes next.

    Parameters
    ----------
    written
        Names of the datasets.
    step
        What to run next or to read, if there is something.
    """
    line = f"Wrote {', '.join(written)}." if written else "Everything was up to date."
    return f"{line} Next: {step}" if step else line
