"""What an experiment found: its figures, its summary and its page."""

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from rich import box
from rich.table import Table

from minirec.columns import PARTS
from minirec.reporting.figures import GREY, LAYOUT, ORANGE, PURPLE, SKY, VERMILION
from minirec.reporting.page import (
    NO_BREAK,
    difference,
    drawn,
    folded,
    html_table,
    interval,
    number,
    page,
    section,
)

METRIC = "ndcg@10"
TITLE = "NDCG@10"
# what each arm is measured against, where they are there
BEFORE, FULL, RANDOM = "before", "full", "random"
COSTS = ["seconds", "tokens_generated", "tokens_trained", "tokens_read", "flops"]
COLOURS = {ORANGE: "MiniRec and its parts", SKY: "other ways to choose"}
UNITS = {"flops": "FLOPs of the models", "seconds": "seconds"}
# of 80 columns, what the numbers leave to a name; a longer one goes on below
_NAME_WIDTH = 18
STAR = (
    "* better or worse by this interval and by a randomisation test that allows for "
    "all arms (Holm)"
)
PAID = (
    "<p>Means over seeds. An arm pays for the proxy, rollouts, gradients and embeddings "
    "only if it cannot choose without them. The policy before reinforcement, which all "
    "arms start from, evaluation and the search for settings are not counted.</p>"
)
# kedro-viz sees to the first axis alone
AXIS = {"gridcolor": "rgba(128, 128, 128, 0.3)", "zerolinecolor": GREY}


def overview(metrics: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row an arm, the best NDCG@10 first.

    Parameters
    ----------
    metrics, runs
        Tables of `minirec.schemas.ExperimentMetrics` and `ExperimentRuns`.

    Returns
    -------
    DataFrame
        ``arm``; ``mean``, ``low`` and ``high`` of NDCG@10; of all seeds the mean
        ``samples``, ``mean_reward`` and costs; ``relative``, the cost as a share of
        that of the arm `FULL`, in FLOPs where all are known and in seconds else (null
        without such an arm).
    """
    own = metrics.loc[metrics["metric"] == METRIC, ["arm", "mean", "low", "high"]]
    of_arm = runs.groupby("arm")[["samples", "pool", "mean_reward", *COSTS]]
    table = own.merge(of_arm.mean().reset_index(), on="arm")
    cost = table.set_index("arm")[cost_column(runs)]
    whole = cost.get(FULL, 0)
    table["relative"] = (cost / whole).to_numpy() if whole else float("nan")
    return table.sort_values("mean", ascending=False, ignore_index=True)


def cost_column(runs: pd.DataFrame) -> str:
    """Return by which column costs are compared: seconds where FLOPs are unknown."""
    return "seconds" if runs["flops"].isna().any() else "flops"


def summary_table(
    metrics: pd.DataFrame, comparisons: pd.DataFrame, runs: pd.DataFrame
) -> Table:
    """Lay out the arms by NDCG@10, with what they cost, in 80 columns.

    Parameters
    ----------
    metrics, comparisons, runs
        Tables of `minirec.schemas.ExperimentMetrics`, `ExperimentComparisons` and
        `ExperimentRuns`.
    """
    shown = overview(metrics, runs)
    others = [name for name in (FULL, RANDOM) if name in set(shown["arm"])]
    users, seeds = int(metrics["users"].iloc[0]), int(metrics["seeds"].iloc[0])
    unit = "FLOPs" if cost_column(runs) == "flops" else "seconds"
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{len(shown)} arms on {_seeds(seeds)}, "
        f"{int(metrics['samples'].iloc[0]):,} test samples of {users:,} users",
        title_style="bold",
        caption="; ".join(
            [
                r"mean \[interval over users and seeds]",
                *([STAR] if others else []),
                *([f"cost: {unit}, scoring and selection"] if FULL in others else []),
            ]
        ),
        caption_style="",
    )
    table.add_column("arm", no_wrap=True)
    table.add_column(TITLE, justify="right", no_wrap=True)
    for name in others:
        table.add_column(f"- {name}", justify="right", no_wrap=True)
    if FULL in others:
        table.add_column("cost", justify="right", no_wrap=True)
    found = _compared(comparisons)
    for row in shown.to_dict("records"):
        own = interval(row).replace(NO_BREAK, " ")
        cells = ["\n".join(wrap(row["arm"], _NAME_WIDTH)), own]
        cells += [_difference(found.get((row["arm"], name))) for name in others]
        if FULL in others:
            cells.append(f"{row['relative']:.0%}")
        table.add_row(*cells)
    return table


def plot_arms(
    metrics: pd.DataFrame, runs: pd.DataFrame, comparisons: pd.DataFrame
) -> go.Figure:
    """Draw by how much each arm's NDCG@10 differs from that of the arm `full`.

    Without it from `before`. Intervals are those of differences, which say more than
    those of the arms: all arms of a seed find the same users easy.

    Parameters
    ----------
    metrics, runs, comparisons
        Tables of `minirec.schemas.ExperimentMetrics`, `ExperimentRuns` and
        `ExperimentComparisons`.
    """
    shown = overview(metrics, runs).iloc[::-1]  # plotly begins at the bottom
    base = FULL if FULL in set(shown["arm"]) else BEFORE
    own = comparisons[
        (comparisons["metric"] == METRIC) & (comparisons["other"] == base)
    ]
    own = shown[["arm"]].merge(own, on="arm")
    of_base = runs[runs["arm"] == base].set_index("seed")[METRIC]
    seeds = runs[runs["arm"] != base]
    figure = go.Figure()
    figure.add_scatter(
        x=seeds[METRIC] - seeds["seed"].map(of_base),
        y=seeds["arm"],
        mode="markers",
        marker={"color": GREY, "size": 5, "opacity": 0.6},
        name="a seed",
        customdata=seeds[["seed"]],
        hovertemplate="%{y}, seed %{customdata[0]}: %{x:+.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=own["difference"],
        y=own["arm"],
        mode="markers",
        marker={"color": _colours(own), "size": 9},
        error_x=_error(own, "difference"),
        showlegend=False,
        hovertemplate="%{y}: %{x:+.4f}<extra></extra>",
    )
    _name_colours(figure, own)
    mean = shown.loc[shown["arm"] == base, "mean"].iloc[0]
    return figure.update_layout(
        LAYOUT,
        title={"text": f"What each arm was worth, beside {base} ({mean:.4f})"},
        xaxis=AXIS
        | {"title": {"text": f"{TITLE} minus that of {base}, with its interval"}},
        yaxis=AXIS
        | {
            "categoryorder": "array",
            "categoryarray": own["arm"].tolist(),
            "tickfont": {"size": 11},
            "automargin": True,
        },
        height=max(400, 140 + 26 * len(own)),
    )


def plot_cost(metrics: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Draw NDCG@10 against all that an arm cost, scoring and selection included.

    Parameters
    ----------
    metrics, runs
        Tables of `minirec.schemas.ExperimentMetrics` and `ExperimentRuns`.
    """
    column = cost_column(runs)
    title = f"{UNITS[column]}, with proxy, rollouts and selection"
    return _plot_against(metrics, runs, column, title, "What it cost")


def plot_samples(metrics: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Draw NDCG@10 against the number of samples that an arm was trained on.

    Parameters
    ----------
    metrics, runs
        Tables of `minirec.schemas.ExperimentMetrics` and `ExperimentRuns`.
    """
    title = "samples trained on"
    return _plot_against(metrics, runs, "samples", title, "How many samples it took")


def plot_difficulty(metrics: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Draw NDCG@10 against how easy an arm's samples were: their mean reward.

    Parameters
    ----------
    metrics, runs
        Tables of `minirec.schemas.ExperimentMetrics` and `ExperimentRuns`.
    """
    title = "mean reward of the samples trained on (higher is easier)"
    return _plot_against(metrics, runs, "mean_reward", title, "How easy they were")


def _plot_against(
    metrics: pd.DataFrame, runs: pd.DataFrame, column: str, x: str, title: str
) -> go.Figure:
    table = overview(metrics, runs)
    shown = table[table["samples"] > 0].sort_values(column)
    wide = bool(len(shown)) and 0 < shown[column].min() * 5 < shown[column].max()
    texts, sides = _names(
        np.log(shown[column]) if wide else shown[column],
        shown[["mean", "low", "high"]],
        shown["arm"],
    )
    figure = go.Figure()
    figure.add_scatter(
        x=shown[column],
        y=shown["mean"],
        mode="markers+text",
        marker={"color": _colours(shown), "size": 9},
        error_y=_error(shown) | {"color": AXIS["gridcolor"], "width": 0},
        text=texts,
        textposition=sides,
        textfont={"size": 10},
        customdata=shown[["low", "high", "samples", "arm"]],
        hovertemplate="%{customdata[3]}: %{y:.4f}, from %{customdata[0]:.4f} to "
        "%{customdata[1]:.4f}<br>%{customdata[2]:,.0f} samples, %{x:.4~g}"
        "<extra></extra>",
        showlegend=False,
    )
    _name_colours(figure, shown)
    for row in table[table["arm"] == BEFORE].to_dict("records"):
        figure.add_hline(
            y=row["mean"],
            line={"color": GREY, "dash": "dot", "width": 1},
            annotation={"text": BEFORE, "font": {"size": 11}},
        )
    return figure.update_layout(
        LAYOUT,
        title={"text": title},
        xaxis=AXIS
        | {
            "title": {"text": x},
            "type": "log" if wide else "linear",
        }
        | (_ticks(shown[column]) if wide else {}),
        yaxis=AXIS | {"title": {"text": f"{TITLE} (higher is better)"}},
    )


def render_report(
    metrics: pd.DataFrame,
    runs: pd.DataFrame,
    comparisons: pd.DataFrame,
    costs: pd.DataFrame,
    tuning: pd.DataFrame,
    arms_figure: go.Figure,
    cost_figure: go.Figure,
    samples_figure: go.Figure,
    difficulty_figure: go.Figure,
    data: str,
    seeds: list[int],
    kind: str,
    confidence: float,
) -> str:
    """Lay out the whole experiment on one page, which loads nothing.

    Parameters
    ----------
    metrics, runs, comparisons, costs, tuning
        The tables ``experiment_*`` of `minirec.schemas`.
    arms_figure, cost_figure, samples_figure, difficulty_figure
        Of `plot_arms`, `plot_cost`, `plot_samples` and `plot_difficulty`.
    data, seeds, kind, confidence
        Parameters.

    Returns
    -------
    str
        HTML with plotly's own code in it, some 5 MB.
    """
    shown = overview(metrics, runs)
    figures = (arms_figure, cost_figure, samples_figure, difficulty_figure)
    sizes = metrics.iloc[0]
    sections = [
        section(
            f"Which samples are worth training on: {data}, policy {kind}",
            f"<p>{len(shown)} arms on {_seeds(int(sizes['seeds']))} "
            f"({', '.join(map(str, seeds))}), a pool of "
            f"{int(runs['pool'].iloc[0]):,} samples, {int(sizes['samples']):,} test "
            f"samples of {int(sizes['users']):,} users. Each seed has its own policy "
            "before reinforcement, proxy, rollouts, draws and training.</p>",
            _arms(shown, comparisons, runs, confidence),
            level=1,
        ),
        *(
            f"<section>{drawn(figure, f'figure-{place}')}</section>"
            for place, figure in enumerate(figures, start=1)
        ),
        section("What each arm cost", PAID, _costs(shown, costs)),
        section(
            "What each arm is",
            "<p>What it changes of the run's parameters, the chosen setting "
            "included.</p>",
            _changed(shown, runs),
            _tuning(tuning),
        ),
        section("Each two arms", _pairs(comparisons)),
    ]
    return page(f"{data}: which samples to train on", sections, scripts=True)


def _changed(shown: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return the parameters that each arm changes, as HTML."""
    own = runs.drop_duplicates("arm").set_index("arm")
    rows = [
        [arm, str(own.loc[arm, "setting"]), changed if isinstance(changed, str) else ""]
        for arm in shown["arm"]
        if arm != BEFORE
        for changed in [own.loc[arm, "overrides"]]
    ]
    return html_table(["arm", "setting", "parameters"], rows, texts=("parameters",))


def _arms(
    shown: pd.DataFrame,
    comparisons: pd.DataFrame,
    runs: pd.DataFrame,
    confidence: float,
) -> str:
    others = [name for name in (BEFORE, FULL, RANDOM) if name in set(shown["arm"])]
    found = _compared(comparisons)
    rows = [
        [
            row["arm"],
            f"{row['samples']:,.0f} ({row['samples'] / row['pool']:.1%})",
            interval(row),
            *(difference(found.get((row["arm"], name))) for name in others),
            *([f"{row['relative']:.0%}"] if FULL in others else []),
        ]
        for row in shown.to_dict("records")
    ]
    unit = "FLOPs" if cost_column(runs) == "flops" else "seconds"
    return (
        html_table(
            [
                *("arm", "samples", TITLE, *(f"minus {n}" for n in others)),
                *(["cost"] if FULL in others else []),
            ],
            rows,
            raw=[f"minus {n}" for n in others],
        )
        + f"<p>Intervals hold the middle {confidence:.0%} of bootstrap draws of users "
        "and of seeds; a difference stands with its interval and p of a randomisation "
        "test over users, which allows for all arms that its arm is compared with "
        '(Holm). <span class="better">Better</span> or '
        '<span class="worse">worse</span> is said only where both agree.'
        + (
            f" Cost is the share of what the arm {FULL} took, in {unit}."
            if FULL in others
            else ""
        )
        + "</p>"
    )


def _costs(shown: pd.DataFrame, costs: pd.DataFrame) -> str:
    n_seeds = costs.groupby("arm")["seed"].nunique()
    parts = [part for part in PARTS if part in set(costs["part"])]
    seconds = costs.pivot_table(
        index="arm", columns="part", values="seconds", aggfunc="sum"
    ).div(n_seeds, axis=0)
    rows = [
        [
            row["arm"],
            *(number(seconds.loc[row["arm"]].get(part)) for part in parts),
            *(number(row[column]) for column in COSTS),
        ]
        for row in shown.to_dict("records")
        if row["arm"] in seconds.index
    ]
    heads = [f"{part}, s" for part in parts]
    names = ["all, s", "tokens written", "trained on", "read besides", "FLOPs"]
    return html_table(["arm", *heads, *names], rows)


def _tuning(tuning: pd.DataFrame) -> str:
    if tuning.empty:
        return "<p>There was one setting an arm, and nothing to choose.</p>"
    means = tuning.groupby(["arm", "setting"], sort=False, as_index=False).agg(
        {"overrides": "first", METRIC: "mean", "seed": "nunique", "chosen": "first"}
    )
    rows = [
        [
            row["arm"],
            str(row["setting"]),
            f"{row[METRIC]:.4f}",
            str(row["seed"]),
            "chosen" if row["chosen"] else "",
            row["overrides"] if isinstance(row["overrides"], str) else "",
        ]
        for row in means.to_dict("records")
    ]
    heads = ["arm", "setting", f"{TITLE}, validation", "seeds", "", "parameters"]
    return folded(
        "The settings that each arm tried on the validation split",
        html_table(heads, rows, texts=("parameters",)),
    )


def _pairs(comparisons: pd.DataFrame) -> str:
    own = comparisons[comparisons["metric"] == METRIC]
    own = own[own["difference"] >= 0].sort_values("difference", ascending=False)
    rows = [
        [row["arm"], row["other"], difference(row)] for row in own.to_dict("records")
    ]
    return folded(
        f"{len(rows)} differences in {TITLE}",
        html_table(["arm", "minus", "difference"], rows, raw=["difference"]),
    )


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def _compared(comparisons: pd.DataFrame) -> dict[tuple[str, str], Mapping[Any, Any]]:
    own = comparisons[comparisons["metric"] == METRIC]
    return {(row["arm"], row["other"]): row for row in own.to_dict("records")}


def _difference(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['difference']:+z.4f}{' ' if row['verdict'] == 'open' else '*'}"


def _error(shown: pd.DataFrame, column: str = "mean") -> dict[str, Any]:
    return {
        "array": shown["high"] - shown[column],
        "arrayminus": shown[column] - shown["low"],
        "color": GREY,
        "thickness": 1,
    }


def _colours(shown: pd.DataFrame) -> list[str]:
    own = {BEFORE: GREY, FULL: VERMILION, RANDOM: PURPLE}
    return [
        own.get(arm, ORANGE if arm.startswith("minirec") else SKY)
        for arm in shown["arm"]
    ]


def _name_colours(figure: go.Figure, shown: pd.DataFrame) -> None:
    """Say in the legend what the colours of `_colours` are, of those that are there."""
    there = set(_colours(shown))
    for colour, name in COLOURS.items():
        if colour in there:
            figure.add_scatter(
                x=[None],
                y=[None],
                mode="markers",
                marker={"color": colour, "size": 9},
                name=name,
            )


def _ticks(values: pd.Series) -> dict[str, Any]:
    """Return the ticks of a logarithmic axis: 1, 2 and 5 times powers of ten."""
    first, last = np.floor(np.log10([values.min(), values.max()])).astype(int)
    ticks = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [_with_unit(tick) for tick in ticks]}


def _with_unit(value: float) -> str:
    """Write a round number shortly.

    Examples
    --------
    >>> _with_unit(0.002), _with_unit(500.0), _with_unit(2e4), _with_unit(5e11)
    ('0.002', '500', '20k', '500G')
    """
    power = min(max(0, int(np.floor(np.log10(value) / 3 + 1e-9))), 6)
    return f"{value / 1000.0**power:g}{['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}"


def _names(
    x: pd.Series, y: pd.DataFrame, names: pd.Series
) -> tuple[list[str], list[str]]:
    """Say which points have their name beside them, and on which side.

    MiniRec and what it is measured against come first, then the others. Each takes the
    side on which its box covers least of those before and of all points, and goes
    without a name where there is no room: hovering tells it. Sizes are those of a
    figure of usual width, and ``y`` holds what its axis spans: ``mean``, ``low`` and
    ``high``.
    """
    wide, high = 0.009, 0.06  # a letter, and a line, as shares of the axes
    places = np.stack(
        [
            _share(x, x.min(), x.max()),
            _share(y["mean"], y["low"].min(), y["high"].max()),
        ],
        axis=1,
    )
    taken = np.unique(np.hstack([places - 0.01, places + 0.01]), axis=0)
    texts, sides = [""] * len(names), ["top right"] * len(names)
    own = names.reset_index(drop=True)
    first = {FULL: 0, RANDOM: 0, "minirec": 0}
    for n in own.map(lambda name: first.get(name, 1)).sort_values(kind="stable").index:
        width = wide * len(own[n])
        boxes = {}
        for up, of_up in (("top", 0), ("bottom", -high)):
            for side, of_side in (("right", 0.0), ("left", 1.0), ("center", 0.5)):
                x0, y0 = places[n] + np.array([-of_side * width, of_up])
                boxes[f"{up} {side}"] = np.array([x0, y0, x0 + width, y0 + high])
        best = min(boxes, key=lambda side: _covered(boxes[side], taken))
        if _covered(boxes[best], taken) < width * high / 8:
            texts[n], sides[n] = own[n], best
            taken = np.concatenate([taken, boxes[best][None]])
    return texts, sides


def _share(values: pd.Series, least: float, most: float) -> np.ndarray:
    """Return where values lie between two others, from 0 to 1."""
    return (values.to_numpy(dtype=float) - least) / ((most - least) or 1.0)


def _covered(box: np.ndarray, others: np.ndarray) -> float:
    """Return how much of other boxes one covers, and of it lies outside."""
    low = np.maximum(box[:2], others[:, :2])
    sides = np.clip(np.minimum(box[2:], others[:, 2:]) - low, 0, None)
    outside = np.clip(-box[:2], 0, None).sum() + np.clip(box[2:] - 1.05, 0, None).sum()
    return float(sides.prod(axis=1).sum() + 0.1 * outside)
