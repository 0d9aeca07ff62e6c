"""Draw the figures of docs/results.md from what an experiment left.

Needs Chromium on the PATH. Run it in the project's folder, with the folder of the
experiment's figures, the name that the pictures begin with, and which figures:

    python scripts/draw_results.py data/item_tokens/08_reporting item_tokens figure cost_figure
"""

import sys
from pathlib import Path

import plotly.io
from draw_dag import BUILD, take_picture

WIDTH, HEIGHT = 900, 560


def main(folder: str, name: str, *figures: str) -> None:
    """Draw each figure as docs/results/<name>_<figure>.png."""
    for each in figures:
        figure = plotly.io.from_json(
            Path(folder, f"experiment_{each}.json").read_text("utf-8")
        )
        height = figure.layout.height or HEIGHT
        figure.update_layout(width=WIDTH, height=height)
        BUILD.mkdir(exist_ok=True)
        figure.write_html(
            BUILD / "index.html",
            include_plotlyjs=True,
            config={"displayModeBar": False},
        )
        short = each.removesuffix("_figure").replace("figure", "arms")
        take_picture(Path(f"docs/results/{name}_{short}.png"), (WIDTH, height))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
