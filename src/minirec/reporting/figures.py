"""Figures of the tables, in plotly; kedro-viz and the notebook show them.

The colours are those of Okabe and Ito (2008), which people with any of the common
forms of colour blindness can tell apart.
"""

import pandas as pd
import plotly.graph_objects as go

from minirec.columns import KEPT, NO_SPREAD, TEST, TOO_EASY, TOO_HARD, TRAIN
from minirec.reporting.summary import METHODS

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
VERMILION, PURPLE = "#D55E00", "#CC79A7"
# of each value of `reason`: its words, colour and marker
REASONS = {
    KEPT: ("kept", SKY, "circle"),
    TOO_EASY: ("pruned: too easy", GREEN, "triangle-up"),
    TOO_HARD: ("pruned: too hard", PURPLE, "triangle-down"),
    NO_SPREAD: ("pruned: rewards do not differ", BLACK, "x"),
}
HOVER = (
    "sample %{customdata[0]}<br>mean reward %{customdata[1]:.3f}<br>"
    "learnability %{x:.2f}<br>representativeness %{y:.2f}"
)
LAYOUT = {
    "template": "plotly_white",
    "font": {"size": 14},
    "legend": {"orientation": "h", "yanchor": "top", "y": -0.2, "traceorder": "normal"},
    "margin": {"t": 80},
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
            marker={"color": colour, "line": {"color": "white", "width": 1}},
            bingroup="tokens",
        )
    longest = prompts["n_tokens"].max()
    return figure.update_layout(
        LAYOUT,
        barmode="stack",
        title={"text": f"How long the prompts are: {longest} tokens at most"},
        xaxis={"title": {"text": "tokens of a prompt"}},
        yaxis={"title": {"text": "prompts"}},
    )


def plot_rewards(candidates: pd.DataFrame, selection: pd.DataFrame) -> go.Figure:
    """Draw how many samples earned which mean reward, by the reason they stay or go.

    Parameters
    ----------
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool.
    selection
        A table of `minirec.schemas.Selection`; a tick marks each of its samples.
    """
    figure = go.Figure()
    for reason, (words, colour, _) in REASONS.items():
        part = candidates[candidates["reason"] == reason]
        if len(part):
            figure.add_histogram(
                x=part["mean_reward"],
                name=f"{words} ({len(part)})",
                marker={"color": colour, "line": {"color": "white", "width": 1}},
                bingroup="rewards",
            )
    picks = candidates[candidates["sample_id"].isin(selection["sample_id"])]
    figure.add_scatter(
        x=picks["mean_reward"],
        y=[0] * len(picks),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 16, "color": VERMILION},
        name=f"selected ({len(picks)})",
    )
    return figure.update_layout(
        LAYOUT,
        barmode="stack",
        title={"text": f"What the proxy earned on the {len(candidates)} samples"},
        xaxis={"title": {"text": "mean reward of a sample's rollouts (0 to 1)"}},
        yaxis={"title": {"text": "samples"}},
    )


def plot_selection(candidates: pd.DataFrame, selection: pd.DataFrame) -> go.Figure:
    """Draw learnability against representativeness, the picks in order of choice.

    Parameters
    ----------
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool.
    selection
        A table of `minirec.schemas.Selection`.
    """
    figure = go.Figure()
    for reason, (words, colour, symbol) in REASONS.items():
        part = candidates[candidates["reason"] == reason]
        if len(part):
            figure.add_scatter(
                x=part["learnability"],
                y=part["representativeness"],
                mode="markers",
                marker={"symbol": symbol, "color": colour, "size": 8, "opacity": 0.6},
                name=f"{words} ({len(part)})",
                customdata=part[["sample_id", "mean_reward"]],
                hovertemplate=HOVER,
            )
    picks = selection[["position", "sample_id"]].merge(candidates, on="sample_id")
    figure.add_scatter(
        x=picks["learnability"],
        y=picks["representativeness"],
        mode="markers+text",
        marker={
            "size": 15,
            "color": picks["position"],
            "colorscale": "Cividis",
            "line": {"color": VERMILION, "width": 2},
            "colorbar": {"title": {"text": "order of choice"}},
        },
        text=picks["position"].where(picks["position"] < 10, "").astype(str),
        textposition="top center",
        name=f"selected ({len(picks)})",
        customdata=picks[["sample_id", "mean_reward"]],
        hovertemplate=HOVER,
    )
    return figure.update_layout(
        LAYOUT,
        title={
            "text": f"The {len(picks)} selected of {len(candidates)} samples; "
            "numbers are the order of choice"
        },
        xaxis={"title": {"text": "learnability (0 to 1)"}},
        yaxis={"title": {"text": "representativeness (0 to 1)"}},
    )


def plot_metrics(metrics: pd.DataFrame) -> go.Figure:
    """Draw each metric of each method with its bootstrap interval.

    Parameters
    ----------
    metrics
        A table of `minirec.schemas.Metrics`.
    """
    from plotly.subplots import make_subplots

    names = list(metrics["metric"].unique())
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
                "color": [ORANGE if m == "trained" else SKY for m in part.index],
            },
            error_x={
                "array": part["high"] - part["mean"],
                "arrayminus": part["mean"] - part["low"],
                "color": BLACK,
            },
            showlegend=False,
        )
        figure.update_xaxes(title={"text": f"{name.upper()} (0 to 1)"}, col=column)
    return figure.update_layout(
        LAYOUT,
        title={
            "text": f"Ranking all items for {metrics['users'].iloc[0]} users of the "
            "test split, with bootstrap intervals"
        },
    )


def plot_overlap(strategy_picks: pd.DataFrame, candidates: pd.DataFrame) -> go.Figure:
    """Draw the share of picks that each two strategies have in common, as a matrix.

    Two random choices of k among N candidates share k/N of their picks on average; the
    colour bar marks it.

    Parameters
    ----------
    strategy_picks
        A table of `minirec.schemas.StrategyPicks`.
    candidates
        A table of `minirec.schemas.Candidates`: the whole pool.
    """
    chosen = strategy_picks.groupby("strategy", sort=False)["sample_id"].agg(set)
    picks = dict(zip(map(str, chosen.index), chosen, strict=True))
    if not picks:
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
            colorscale="Cividis",
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
