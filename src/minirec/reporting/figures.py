"""Figures of the tables, in plotly; kedro-viz and the notebook show them.

Picks, places and stages, which tables count from 0, are counted from 1 here.

The colours are those of Okabe and Ito (2008), which people with any of the common
forms of colour blindness can tell apart, and a grey for their black: kedro-viz draws
on white or on black. Its preview is 400 pixels wide, without a legend: a title of one
line, of 60 characters at most, is whole there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from minirec.arrays import finite_vector
from minirec.columns import (
    KEPT,
    NO_SPREAD,
    TEST,
    TOO_EASY,
    TOO_HARD,
    TRAIN,
    TRAINED,
)
from minirec.errors import InputError
from minirec.reporting.summary import METHODS, first_metrics

GREY, ORANGE, SKY, GREEN = "#707070", "#E69F00", "#56B4E9", "#009E73"
VERMILION, PURPLE, YELLOW = "#D55E00", "#CC79A7", "#F0E442"
# of each of `METHODS`
COLOURS = (ORANGE, SKY, PURPLE, GREEN, GREY, VERMILION)
SYMBOLS = ("circle", "circle-open", "square", "diamond", "x", "triangle-up")
# of each value of `reason`: its words, colour and marker
REASONS = {
    KEPT: ("kept", SKY, "circle"),
    TOO_EASY: ("pruned: too easy", GREEN, "triangle-up"),
    TOO_HARD: ("pruned: too hard", PURPLE, "triangle-down"),
    NO_SPREAD: ("pruned: no spread", GREY, "x"),
}
KNOWN = ["sample_id", "mean_reward", "learnability", "representativeness"]
HOVER = (
    "sample %{customdata[0]}<br>mean reward %{customdata[1]:.4f}<br>"
    "learnability %{customdata[2]:.2f}<br>representativeness %{customdata[3]:.2f}"
)
# samples that a browser draws without delay; a larger pool is drawn in part
DRAWN = 4_000
# bars of a histogram, at most
BARS = 60
# picks that wear their number
NUMBERED = 10
# stages that wear theirs, at most: more would not fit beside one another
LABELS = 8
# what stands between the title and the axes
LABEL = {
    "font": {"size": 12},
    "showarrow": False,
    "yref": "paper",
    "y": 1,
    "yanchor": "bottom",
}
# of a log of training: its columns that are drawn, and what they are
CURVES = {
    "reward": "reward",
    "reward_std": "spread of rewards",
    "frac_reward_zero_std": "share without spread",
    "entropy": "entropy (nats)",
    "completions/mean_length": "tokens of a completion",
    "tokens_per_second": "tokens a second",
}
# every other stage
BAND = {
    "type": "rect",
    "y0": 0,
    "y1": 1,
    "fillcolor": GREY,
    "opacity": 0.2,
    "line": {"width": 0},
    "layer": "below",
}
LAYOUT = {
    "template": "plotly_white",
    "font": {"size": 14},
    "legend": {"orientation": "h", "yanchor": "top", "y": -0.2, "traceorder": "normal"},
    "margin": {"t": 80},
    "hoverlabel": {"align": "left"},
}


def plot_prompts(prompts: pd.DataFrame) -> go.Figure:
    """Draw how many prompts have how many tokens, by split.

    Parameters
    ----------
    prompts
        A table of `minirec.schemas.Prompts`.
    """
    figure = go.Figure()
    for split, colour in ((TRAIN, SKY), (TEST, ORANGE)):
        tokens = prompts.loc[prompts["split"] == split, "n_tokens"]
        figure.add_histogram(
            x=tokens,
            name=f"{split} ({len(tokens)})",
            marker={"color": colour, "line": {"width": 0}},
            bingroup="tokens",
        )
    longest = prompts["n_tokens"].max()
    return figure.update_layout(
        LAYOUT,
        barmode="stack",
        bargap=0.06,
        title={"text": f"How long the prompts are: {longest} tokens at most"},
        xaxis={"title": {"text": "tokens of a prompt"}},
        yaxis={"title": {"text": "prompts"}},
    )


def plot_rewards(
    candidates: pd.DataFrame,
    selection: pd.DataFrame,
    too_easy: float | None = None,
    too_hard: float | None = None,
    mu: float | None = None,
) -> go.Figure:
    """Draw how many samples earned which mean reward, by the reason they stay or go.

    Parameters
    ----------
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool.
    selection
        A table of `minirec.schemas.Selection`; a tick below marks each of its samples.
    too_easy, too_hard
        The mean rewards above and below which samples were pruned, as lines; None: no
        such limit.
    mu
        The mean reward at which learnability is highest, as a line if it lies among
        those of the pool; None: not drawn.
    """
    figure = go.Figure()
    edges = _round_edges(candidates["mean_reward"].to_numpy())
    width = edges[1] - edges[0]
    for reason, (words, colour, _) in REASONS.items():
        rewards = candidates.loc[candidates["reason"] == reason, "mean_reward"]
        counts, _ = np.histogram(rewards, edges)
        bars = np.flatnonzero(counts)
        if len(bars):
            figure.add_bar(
                x=edges[bars] + width / 2,
                y=counts[bars],
                width=0.94 * width,
                name=f"{words} ({len(rewards):,})",
                marker={"color": colour, "line": {"width": 0}},
                customdata=np.column_stack([edges[bars], edges[bars + 1]]),
                hovertemplate="mean reward %{customdata[0]:.4~g} to "
                f"%{{customdata[1]:.4~g}}<br>%{{y:,}} samples<extra>{words}</extra>",
            )
    picks = _picks(candidates, selection)
    highest = np.histogram(candidates["mean_reward"], edges)[0].max()
    figure.add_scatter(
        x=picks["mean_reward"],
        y=np.full(len(picks), -0.04 * highest),
        mode="markers",
        marker={
            "symbol": "line-ns",
            "size": 8,
            "line": {"color": VERMILION, "width": 1},
        },
        name=f"selected ({len(picks):,})",
        customdata=picks[["sample_id"]].assign(pick=picks["position"] + 1),
        hovertemplate="sample %{customdata[0]}, pick %{customdata[1]}<br>"
        "mean reward %{x:.4f}<extra>selected</extra>",
    )
    _mark_rewards(figure, edges, too_easy, too_hard, mu)
    return figure.update_layout(
        LAYOUT,
        barmode="stack",
        title={"text": f"What the proxy earned on the {len(candidates):,} samples"},
        xaxis={"title": {"text": "mean reward of a sample's rollouts"}},
        yaxis={"title": {"text": "samples"}},
    )


def _mark_rewards(
    figure: go.Figure,
    edges: NDArray[np.float64],
    too_easy: float | None,
    too_hard: float | None,
    mu: float | None,
) -> None:
    """Draw the limits, and mu or in which direction of the bars it lies."""
    for limit, words, anchor in (
        (too_hard, "\u25c2 too hard", "right"),
        (too_easy, "too easy \u25b8", "left"),
    ):
        if limit is not None:
            figure.add_vline(
                limit,
                line={"color": GREY, "width": 2, "dash": "dash"},
                annotation=LABEL
                | {"text": f"{words} ({limit:.3g})", "xanchor": anchor},
            )
    if mu is not None and not edges[0] <= mu <= edges[-1]:
        # the axis would have to reach as far
        figure.add_annotation(
            LABEL
            | {"text": f"mu ({mu:.3g})", "xref": "paper"}
            | ({"x": 1, "xanchor": "right"} if mu > edges[-1] else {"x": 0})
        )
    elif mu is not None:
        figure.add_vline(
            mu,
            line={"color": ORANGE, "width": 2, "dash": "dot"},
            annotation=LABEL | {"text": f"mu ({mu:.3g})", "xanchor": "center"},
        )


def plot_selection(candidates: pd.DataFrame, selection: pd.DataFrame) -> go.Figure:
    """Draw learnability against representativeness, the picks in order of choice.

    Parameters
    ----------
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool. Of more than 4,000
        samples so many are drawn, by chance but always the same, and all picks.
    selection
        A table of `minirec.schemas.Selection`.
    """
    x, y = "learnability", "representativeness"
    some, picks = _some_of(candidates), _picks(candidates, selection)
    others = _without(some, picks)
    figure = _draw_others(candidates, others, others[x], others[y])
    _draw_picks(figure, picks, picks[x], picks[y])
    return figure.update_layout(
        LAYOUT,
        title={"text": _how_many("Scores", candidates, some, picks)},
        xaxis={"title": {"text": "learnability (0 to 1)"}},
        yaxis={"title": {"text": "representativeness (0 to 1)"}},
    )


def plot_embeddings(
    candidates: pd.DataFrame,
    selection: pd.DataFrame,
    embeddings: Mapping[str, NDArray[Any]],
) -> go.Figure:
    """Draw the samples' embeddings in two dimensions, the picks in order of choice.

    The dimensions are the first two principal components of the rows at unit length,
    between which a distance is that by which samples are chosen: its square is twice
    the cosine distance. The axes say how much of the variance they show; a component's
    weight of the largest size is positive.

    Parameters
    ----------
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool. Of more than 4,000
        samples so many are drawn, by chance but always the same, and all picks. Of
        those so many are the components and shares.
    selection
        A table of `minirec.schemas.Selection`.
    embeddings
        ``sample_id`` (M,) and ``matrix`` (M, d), which hold the pool among others; of
        a memory map no more than the rows that are drawn are read.

    Raises
    ------
    InputError
        If a sample has no embedding.
    """
    from sklearn.decomposition import PCA

    some, picks = _some_of(candidates), _picks(candidates, selection)
    units = unit_rows(embeddings, some["sample_id"])
    # a single sample, or all of them alike, have no variance to share
    with np.errstate(invalid="ignore", divide="ignore"):
        pca = PCA(min(2, *units.shape), random_state=0).fit(units)
    shares = np.zeros(2)
    shares[: pca.n_components_] = np.nan_to_num(pca.explained_variance_ratio_)

    def plane(table: pd.DataFrame) -> NDArray[np.float64]:
        points = np.zeros((len(table), 2))
        for first in range(0, len(table), DRAWN):
            part = slice(first, first + DRAWN)
            rows = unit_rows(embeddings, table["sample_id"][part])
            points[part, : pca.n_components_] = pca.transform(rows)
        return points

    others = _without(some, picks)
    figure = _draw_others(candidates, others, *plane(others).T)
    _draw_picks(figure, picks, *plane(picks).T)
    first, second = (f"({share:.1%} of the variance)" for share in shares)
    return figure.update_layout(
        LAYOUT,
        title={"text": _how_many("Embeddings", candidates, some, picks)},
        xaxis={"title": {"text": f"first principal component {first}"}},
        yaxis={
            "title": {"text": f"second {second}"},
            # a distance is the same in all directions
            "scaleanchor": "x",
        },
    )


def plot_curriculum(curriculum: pd.DataFrame) -> go.Figure:
    """Draw what the proxy earned on the samples, in the order of training.

    A band in the background is a stage. The line is the mean over the samples around
    each, an eighth of all of them, or fewer at either end; of fewer than 16 samples
    there is none.

    Parameters
    ----------
    curriculum
        A table of `minirec.schemas.Curriculum`.
    """
    rows = curriculum.sort_values("position")
    rows = rows.assign(place=rows["position"] + 1, stage=rows["stage"] + 1)
    figure = go.Figure()
    figure.add_scatter(
        x=rows["place"],
        y=rows["mean_reward"],
        mode="markers",
        marker={"color": SKY, "size": 0.7 * _size_of_markers(len(rows))},
        name=f"samples ({len(rows):,})",
        customdata=rows[["sample_id", "stage"]],
        hovertemplate="sample %{customdata[0]}, stage %{customdata[1]}<br>"
        "place %{x}<br>mean reward %{y:.4f}<extra></extra>",
    )
    _add_running_mean(figure, rows["place"], rows["mean_reward"], "sample", "place")
    stages = rows.groupby("stage")["place"].agg(["min", "max"]).reset_index()
    labelled = stages[:: -(-len(stages) // LABELS)]
    # all at once: plotly copies those there are with each that is added
    bands = [
        BAND | {"x0": first - 0.5, "x1": last + 0.5, "yref": "paper"}
        for _, first, last in stages[1::2].itertuples(index=False)
    ]
    labels = [
        LABEL
        | {
            "text": f"stage {stage}" if first == 1 else str(stage),
            "x": (first + last) / 2,
        }
        for stage, first, last in labelled.itertuples(index=False)
    ]
    return figure.update_layout(
        LAYOUT,
        shapes=bands,
        annotations=labels,
        title={"text": "What the proxy earned, in the order of training"},
        xaxis={"title": {"text": "place in training"}},
        yaxis={"title": {"text": "mean reward of a sample's rollouts"}},
    )


def _round_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges around all values, 1, 2 or 5 times a power of ten from each other."""
    low, high = values.min(), values.max()
    # numbers that are one but for rounding are one bar
    least = max((high - low) / BARS, 1e-6 * max(-low, high)) or 0.01
    power = 10 ** np.floor(np.log10(least))
    width = next(n * power for n in (1, 2, 5, 10) if n * power >= least)
    first, last = np.floor([low / width, high / width])
    return width * np.arange(first - 1, last + 3)


def _some_of(candidates: pd.DataFrame) -> pd.DataFrame:
    if len(candidates) <= DRAWN:
        return candidates
    return candidates.sort_values("sample_id").sample(DRAWN, random_state=0)


def _picks(candidates: pd.DataFrame, selection: pd.DataFrame) -> pd.DataFrame:
    """Return all of the selected samples, the first choice last: drawn on top."""
    chosen = selection[["position", "sample_id"]]
    return chosen.sort_values("position", ascending=False).merge(
        candidates, on="sample_id"
    )


def _without(some: pd.DataFrame, picks: pd.DataFrame) -> pd.DataFrame:
    """Leave out the picks: a point below a pick would take the mouse from it."""
    return some[~some["sample_id"].isin(picks["sample_id"])]


def _how_many(
    what: str, candidates: pd.DataFrame, some: pd.DataFrame, picks: pd.DataFrame
) -> str:
    part = f"{len(some):,} of " if len(some) < len(candidates) else ""
    return f"{what} of {part}{len(candidates):,} samples, {len(picks):,} selected"


def _draw_others(
    candidates: pd.DataFrame, others: pd.DataFrame, x: Any, y: Any
) -> go.Figure:
    """Draw some of the candidates; the legend counts all, the picks too."""
    figure = go.Figure()
    counts = candidates["reason"].value_counts()
    for reason, (words, colour, symbol) in REASONS.items():
        among = (others["reason"] == reason).to_numpy()
        if among.any():
            figure.add_scatter(
                x=np.asarray(x)[among],
                y=np.asarray(y)[among],
                mode="markers",
                marker={"symbol": symbol, "color": colour, "size": 7, "opacity": 0.8},
                name=f"{words} ({counts[reason]:,})",
                customdata=others.loc[among, KNOWN],
                hovertemplate=f"{HOVER}<extra>{words}</extra>",
            )
    return figure


def _draw_picks(figure: go.Figure, picks: pd.DataFrame, x: Any, y: Any) -> None:
    pick, size = picks["position"] + 1, _size_of_markers(len(picks))
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers+text",
        marker={
            "size": size,
            "color": pick,
            "colorscale": [VERMILION, ORANGE, YELLOW],
            "line": {"color": GREY, "width": size / 10},
            "colorbar": {
                "title": {"text": "pick", "side": "right"},
                "title_font": {"size": 12},
                "tickfont": {"size": 11},
                "thickness": 10,
                "outlinewidth": 0,
            },
        },
        text=pick.astype(str).where(pick <= NUMBERED, ""),
        textposition="middle right",
        textfont={"size": 12},
        name=f"selected ({len(picks):,})",
        customdata=picks[KNOWN].assign(pick=pick),
        hovertemplate=HOVER.replace("<br>", ", pick %{customdata[4]}<br>", 1)
        + "<extra>selected</extra>",
    )


def _size_of_markers(n: int) -> float:
    """Return a diameter in pixels that leaves many markers apart."""
    return min(max(4.0, 200 / n**0.5), 10.0)


def unit_rows(
    embeddings: Mapping[str, NDArray[Any]], ids: "pd.Series[int]"
) -> NDArray[np.float64]:
    """Return the embeddings of samples (N, d) at length 1; rows of zeros stay.

    Raises
    ------
    InputError
        If a sample has none, or one is not finite.
    """
    rows = pd.Index(embeddings["sample_id"]).get_indexer(ids)
    if (rows < 0).any():
        raise InputError(
            f"embeddings lacks {(rows < 0).sum()} of {len(ids)} candidates, sample "
            f"{ids.iloc[rows.argmin()]} among them: run `kedro run --pipelines score` "
            "again"
        )
    vectors = embeddings["matrix"][rows].astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    finite_vector(norms[:, 0], "the length of embeddings")
    return vectors / np.where(norms > 0, norms, 1)


def _add_running_mean(
    figure: go.Figure,
    x: "pd.Series[int]",
    y: "pd.Series[float]",
    of: str,
    along: str,
    **where: Any,
) -> None:
    """Draw the mean over an eighth of all points around each; of under 16, nothing.

    ``of`` names what a point is, and ``along`` the axis.
    """
    window = len(y) // 8
    if window < 2:
        return
    figure.add_scatter(
        x=x,
        y=y.rolling(window, center=True, min_periods=1).mean(),
        mode="lines",
        line={"color": VERMILION, "width": 3},
        name=f"mean of {window:,} {of}s around",
        hovertemplate=f"{along} %{{x}}<br>mean %{{y:.4~g}}<extra></extra>",
        **where,
    )


def plot_training(
    training_log: pd.DataFrame, consumed: pd.DataFrame | None = None
) -> go.Figure:
    """Draw what training reported, step by step.

    The line of a panel is the mean over the steps around each, an eighth of all of
    them, or fewer at either end; of fewer than 16 steps there is none. A band in the
    background is a stage.

    Parameters
    ----------
    training_log
        A table of `minirec.schemas.TrainingLog`.
    consumed
        A table of `minirec.schemas.Consumed`, for the stages; None: there are none.
    """
    from plotly.subplots import make_subplots

    log = training_log.sort_values("step")
    panels = list(CURVES)
    figure = make_subplots(
        rows=len(panels) // 2,
        cols=2,
        shared_xaxes=True,
        subplot_titles=list(CURVES.values()),
        horizontal_spacing=0.12,
        vertical_spacing=0.12,
    )
    figure.update_annotations(font={"size": 12})
    for place, column in enumerate(panels):
        own = log[column]
        where = {"row": place // 2 + 1, "col": place % 2 + 1}
        figure.add_scatter(
            x=log["step"],
            y=own,
            mode="markers",
            marker={"color": SKY, "size": 0.6 * _size_of_markers(len(log))},
            name="steps",
            showlegend=place == 0,
            hovertemplate="step %{x}<br>%{y:.4~g}<extra></extra>",
            **where,
        )
        _add_running_mean(
            figure, log["step"], own, "step", "step", showlegend=place == 0, **where
        )
    stages = 0 if consumed is None else consumed["stage"].nunique()
    bands = [] if consumed is None else _spans(log["step"], consumed)
    shapes = [
        BAND | {"x0": x0, "x1": x1, "xref": f"x{n}", "yref": f"y{n} domain"}
        for n in ["", *range(2, len(panels) + 1)]
        for x0, x1 in bands[1::2]
    ]
    axis = {
        # kedro-viz sees to the first axis alone
        "gridcolor": "rgba(128, 128, 128, 0.3)",
        "zerolinecolor": GREY,
        "tickfont": {"size": 11},
    }
    figure.update_yaxes(**axis, nticks=5, rangemode="tozero")
    steps = int(log["step"].max()) if len(log) else 1
    figure.update_xaxes(
        **axis,
        range=[0.5, steps + 0.5],
        # whole steps, and no more than six of them
        **({"dtick": 1} if steps <= 6 else {"nticks": 6}),
    )
    figure.update_xaxes(
        title={"text": "step of training", "font": {"size": 12}}, row=len(panels) // 2
    )
    bands_are = f", {stages:,} stages (bands)" if stages > 1 else ""
    return figure.update_layout(
        LAYOUT,
        shapes=shapes,
        title={"text": f"Training, step by step: {len(log):,} steps{bands_are}"},
    )


def _spans(step: "pd.Series[int]", consumed: pd.DataFrame) -> list[tuple[float, float]]:
    """Return where each run of prompts of one stage begins and ends, in steps.

    A step may hold prompts of two; several steps may train on the same completions.
    """
    rows = consumed.sort_values("position")
    n = rows["step"].max() + 1
    prompts = np.bincount(rows["step"], minlength=n)
    start = np.cumsum(prompts) - prompts
    within = (np.arange(len(rows)) - start[rows["step"]]) / prompts[rows["step"]]
    place = (rows["step"] + within).to_numpy() * step.max() / n + 0.5
    stage = rows["stage"].to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(stage)) + 1)]
    ends = [*place[edges[1:]], step.max() + 0.5]
    return list(zip(place[edges].tolist(), map(float, ends), strict=True))


def plot_metrics(metrics: pd.DataFrame) -> go.Figure:
    """Draw the first two metrics of each method with their bootstrap intervals.

    Parameters
    ----------
    metrics
        A table of `minirec.schemas.Metrics`.
    """
    from plotly.subplots import make_subplots

    names = first_metrics(metrics)
    figure = make_subplots(cols=len(names), shared_yaxes=True, horizontal_spacing=0.05)
    for column, name in enumerate(names, start=1):
        # plotly draws the first bar at the bottom
        part = metrics[metrics["metric"] == name].set_index("method")
        part = part.loc[
            [method for method in reversed(METHODS) if method in part.index]
        ]
        figure.add_bar(
            row=1,
            col=column,
            orientation="h",
            x=part["mean"],
            y=[METHODS[method] for method in part.index],
            marker={
                "color": [ORANGE if m == TRAINED else SKY for m in part.index],
            },
            error_x={
                "array": part["high"] - part["mean"],
                "arrayminus": part["mean"] - part["low"],
                "color": GREY,
            },
            showlegend=False,
        )
        figure.update_xaxes(
            title={"text": f"{name.upper()} (higher is better)"},
            # kedro-viz sees to the first axis alone
            gridcolor="rgba(128, 128, 128, 0.3)",
            zerolinecolor=GREY,
            tickangle=0,
            nticks=6,
            title_font={"size": 12},
            tickfont={"size": 11},
            col=column,
        )
    return figure.update_layout(
        LAYOUT,
        title={
            "text": f"Ranking all items for {metrics['users'].iloc[0]:,} test users, "
            "with bootstrap intervals"
        },
    )


def plot_groups(group_metrics: pd.DataFrame) -> go.Figure:
    """Draw one metric by length of history and by popularity of the target.

    The metric is the last of those that the summary shows.

    Parameters
    ----------
    group_metrics
        A table of `minirec.schemas.GroupMetrics`.
    """
    from plotly.subplots import make_subplots

    name = first_metrics(group_metrics)[-1]
    own = group_metrics[group_metrics["metric"] == name]
    titles = {
        "history_length": "items that the user had before",
        "target_popularity": "train interactions of the target",
    }
    figure = make_subplots(cols=len(titles), shared_yaxes=True, horizontal_spacing=0.05)
    for column, (by, title) in enumerate(titles.items(), start=1):
        groups = own[own["by"] == by].sort_values("least")
        labels = dict(
            zip(
                groups["least"],
                map(_range, groups["least"], groups["most"]),
                strict=True,
            )
        )
        for method, colour, symbol in zip(METHODS, COLOURS, SYMBOLS, strict=True):
            part = groups[groups["method"] == method]
            if len(part):
                figure.add_scatter(
                    row=1,
                    col=column,
                    x=part["least"].map(labels),
                    y=part["mean"],
                    mode="lines+markers",
                    line={"color": colour, "width": 3 if method == TRAINED else 1.5},
                    marker={"symbol": symbol, "size": 8},
                    error_y={
                        "array": part["high"] - part["mean"],
                        "arrayminus": part["mean"] - part["low"],
                        "thickness": 1,
                    },
                    name=METHODS[method],
                    legendgroup=method,
                    showlegend=column == 1,
                    customdata=part[["users", "samples"]],
                    hovertemplate="%{x}: %{y:.4f}<br>%{customdata[1]:,} samples of "
                    f"%{{customdata[0]:,}} users<extra>{METHODS[method]}</extra>",
                )
        figure.update_xaxes(
            title={"text": title},
            type="category",
            categoryorder="array",
            categoryarray=list(labels.values()),
            gridcolor="rgba(128, 128, 128, 0.3)",
            title_font={"size": 12},
            tickfont={"size": 11},
            col=column,
        )
    return figure.update_yaxes(
        title={"text": f"{name.upper()} (higher is better)"}, col=1
    ).update_layout(
        LAYOUT,
        legend={"y": -0.3},
        title={"text": f"{name.upper()} by history and by target, with intervals"},
    )


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def plot_overlap(
    strategy_picks: pd.DataFrame, candidates: pd.DataFrame, selection: pd.DataFrame
) -> go.Figure:
    """Draw the share of picks that each two strategies have in common, as a matrix.

    Two random choices of k among N candidates share k/N of their picks on average; the
    colour bar marks it.

    Parameters
    ----------
    strategy_picks
        A table of `minirec.schemas.StrategyPicks`.
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool.
    selection
        A table of `minirec.schemas.Selection`, the first row and column.
    """
    chosen = strategy_picks.groupby("strategy", sort=False)["sample_id"].agg(set)
    picks = {"selection": set(selection["sample_id"])}
    picks |= dict(zip(map(str, chosen.index), chosen, strict=True))
    if not len(chosen):
        return go.Figure().update_layout(
            LAYOUT,
            title={"text": "No strategies to compare: select.compare names none"},
        )
    size = len(next(iter(picks.values())))
    n_kept = int((candidates["reason"] == KEPT).sum())
    chance = size / n_kept
    names = [path.removeprefix("minirec.selection.strategies.") for path in picks]
    figure = go.Figure(
        go.Heatmap(
            x=names,
            y=names,
            z=[[len(a & b) / size for b in picks.values()] for a in picks.values()],
            zmin=0,
            zmax=1,
            colorscale=["#FFFFFF", SKY],  # light, so that the numbers are dark on all
            texttemplate="%{z:.0%}",
            hovertemplate="%{y} and %{x}: %{z:.1%} of picks<extra></extra>",
            colorbar={
                "tickvals": [0, chance, 1],
                "ticktext": ["0%", f"chance: {chance:.0%}", "100%"],
            },
            xgap=1,
            ygap=1,
        )
    )
    return figure.update_layout(
        LAYOUT,
        title={
            "text": f"Picks in common, of {size} by each strategy<br>among {n_kept} "
            f"kept samples (by chance: {chance:.0%})"
        },
        xaxis={"dtick": 1, "tickangle": -45, "tickfont": {"size": 12}},
        yaxis={"dtick": 1, "autorange": "reversed", "tickfont": {"size": 12}},
    )
