"""The pages for the browser: their frame, their style, tables and figures in them.

A page loads nothing and sends nothing, which its own header forbids as well. It is dark
where the browser is, and can be read on a telephone: what is wide can be moved by
itself.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

# What may run and be shown is what stands in the page. Pictures of figures, which a
# button makes, are addresses of their own data.
MAY_LOAD = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src {scripts}; "
    "img-src data: blob:"
)

# between two ends of an interval, where no line is to be broken
NO_BREAK = "\u00a0"

# Figures are drawn for white. Here they have no ground of their own, and their words,
# lines and grids those of the page; numbers on the squares of a matrix stay dark.
STYLE = """
:root { color-scheme: light dark; }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2 { line-height: 1.25; text-wrap: balance; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; text-align: right; vertical-align: top;
  font-variant-numeric: tabular-nums; }
th { border-bottom: 1px solid; vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.below td { border-bottom: 1px solid rgba(128, 128, 128, 0.4); opacity: 0.85;
  padding-bottom: 0.5rem; text-align: left; }
tr.below div { left: 0; max-width: min(60rem, 100vw - 3rem); position: sticky;
  width: fit-content; }
.wide { overflow-x: auto; }
.figure { min-width: 40rem; }
.better { color: #009E73; font-weight: bold; }
.worse { color: #D55E00; font-weight: bold; }
details { margin: 1rem 0; }
summary { cursor: pointer; }
.js-plotly-plot .main-svg { background: transparent !important; }
.js-plotly-plot .bg { fill: transparent !important; }
.js-plotly-plot text:not(.hoverlayer text, .heatmaplayer text) {
  fill: CanvasText !important; }
.js-plotly-plot .modebar-group { background: transparent !important; }
.js-plotly-plot .modebar-btn path { fill: #808080 !important; }
.js-plotly-plot .gridlayer path { stroke: rgba(128, 128, 128, 0.3) !important; }
.js-plotly-plot .zerolinelayer path { stroke: #707070 !important; }
"""


def page(
    title: str, body: Iterable[str], style: str = "", scripts: bool = False
) -> str:
    """Return a whole page.

    Parameters
    ----------
    title
        As text.
    body
        As HTML.
    style
        CSS beside `STYLE`.
    scripts
        Whether figures stand in it: plotly's own code does then, too, some 5 MB.
    """
    allowed = MAY_LOAD.format(scripts="'unsafe-inline'" if scripts else "'none'")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{allowed}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{STYLE}{style}</style>",
            *([_plotly()] if scripts else []),
            "</head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def section(heading: str, *parts: str, level: int = 2) -> str:
    """Return a section of a page.

    Parameters
    ----------
    heading
        As text.
    parts
        What stands below it, as HTML.
    level
        Of the heading; 1 is that of the whole page.
    """
    head = f"<section><h{level}>{escape(heading)}</h{level}>"
    return "\n".join([head, *parts, "</section>"])


def drawn(figure: go.Figure, name: str) -> str:
    """Return a figure as HTML, for a page with scripts.

    Parameters
    ----------
    figure
        As it is to be drawn.
    name
        One that no other figure of the page has.
    """
    height = figure.layout.height or 450
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height=f"{height}px",
        config={"responsive": True, "displaylogo": False},
    )
    return f'<div class="wide"><div class="figure">{html}</div></div>'


def html_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    raw: Collection[str] = (),
    texts: Collection[str] = (),
    below: Sequence[str] = (),
) -> str:
    """Return a table as HTML.

    Parameters
    ----------
    heads
        Names of the columns.
    rows
        A cell for each of them.
    raw
        Columns that are markup; what stands in the others is shown as it is.
    texts
        Columns that stand to the left, as the first does.
    below
        What is said of each row, in a line of its own; empty: nothing.
    """
    kind = [' class="text"' if head in texts else "" for head in heads]
    top = "".join(f"<th{k}>{escape(h)}</th>" for k, h in zip(kind, heads, strict=True))
    lines = [
        "<tr>"
        + "".join(
            f"<td{k}>{cell if head in raw else escape(cell)}</td>"
            for k, head, cell in zip(kind, heads, row, strict=True)
        )
        + "</tr>"
        for row in rows
    ]
    if below:
        wide = f'<tr class="below"><td colspan="{len(heads)}"><div>'
        lines = [
            f"{line}{wide}{escape(said)}</div></td></tr>"
            for line, said in zip(lines, below, strict=True)
        ]
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(lines)}</table></div>'


def number(value: Any) -> str:
    """Write a number in three digits, or whole from 1000 on; nothing for none."""
    if value is None or pd.isna(value):
        return ""
    return f"{value:.3g}" if value < 1000 or value >= 1e9 else f"{value:,.0f}"


def interval(row: Mapping[Any, Any]) -> str:
    """Write a ``mean`` with its interval from ``low`` to ``high``, if it has one."""
    mean = f"{row['mean']:.4f}"
    if pd.isna(row["low"]):
        return mean
    return f"{mean} [{row['low']:.4f},{NO_BREAK}{row['high']:.4f}]"


def difference(row: Mapping[Any, Any] | None) -> str:
    """Return a difference, its interval and p as HTML; nothing for none.

    Parameters
    ----------
    row
        ``difference``, ``low``, ``high``, ``p_holm`` and ``verdict``, which colours it.
    """
    if row is None:
        return ""
    p = f"{row['p_holm']:.3f}" if row["p_holm"] >= 0.001 else f"&lt;{NO_BREAK}0.001"
    return (
        f'<span class="{row["verdict"]}">{row["difference"]:+z.4f}</span> '
        # an end that rounds to 0 keeps its sign: it says on which side of 0 it lies
        f"[{row['low']:+.4f},{NO_BREAK}{row['high']:+.4f}], p{NO_BREAK}{p}"
    )


def folded(summary: str, body: str) -> str:
    """Return HTML that is shown once its summary, a text, is opened."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>"
