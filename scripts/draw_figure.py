"""Draw docs/kedro_viz_figure.png: a figure of the last run, opened in kedro-viz.

Needs Chromium on the PATH, and a run. Run it in the project's folder:

    python scripts/draw_figure.py
"""

import json
from pathlib import Path

from draw_dag import BUILD, add_script, build, take_picture

FIGURE = "embedding_figure"
# There is no address for the expanded preview: click on what opens it, once.
CLICK = """
const wait = setInterval(() => {
  const link = document.querySelector(".pipeline-metadata__link");
  if (link) { clearInterval(wait); link.click(); }
}, 100);
"""


def main() -> None:
    """Build the pages with the previews, open one and take its picture."""
    build("--include-previews")
    add_script(CLICK)
    nodes = json.loads((BUILD / "api" / "main").read_text())["nodes"]
    (sid,) = [node["id"] for node in nodes if node["name"] == FIGURE]
    picture = Path("docs/kedro_viz_figure.png")
    take_picture(picture, (1100, 760), f"?pid=__default__&sid={sid}")


if __name__ == "__main__":
    main()
