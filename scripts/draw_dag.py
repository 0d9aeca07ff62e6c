"""Draw docs/dag.png: the pipelines as kedro-viz shows them.

Needs Chromium on the PATH. Run it in the project's folder:

    python scripts/draw_dag.py
"""

import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUILD = Path("build")
# What a visitor would have chosen: no tour, no side panels, light.
CHOICES = {
    "showFeatureHints": False,
    "theme": "light",
    "orientation": "vertical",
    "visible": {"sidebar": False, "miniMap": False, "graph": True},
}


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve files without a line for each."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def build(*options: str) -> None:
    """Build the static pages of kedro-viz, as a visitor would have set them."""
    kedro = Path(sys.executable).parent / "kedro"
    subprocess.run([kedro, "viz", "build", *options], check=True)  # noqa: S603
    add_script(f"localStorage.setItem('KedroViz', {json.dumps(json.dumps(CHOICES))})")


def add_script(script: str) -> None:
    """Let the page that was built run a script before its own."""
    page = BUILD / "index.html"
    page.write_text(
        page.read_text().replace("<head>", f"<head><script>{script}</script>", 1)
    )


def take_picture(picture: Path, size: tuple[int, int], query: str = "") -> None:
    """Open what was built, take its picture and delete it."""
    chromium = shutil.which("chromium") or sys.exit(
        "Install Chromium: it is not on PATH."
    )
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=BUILD)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    picture.unlink(missing_ok=True)
    subprocess.run(  # noqa: S603
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--run-all-compositor-stages-before-draw",
            "--force-device-scale-factor=2",
            f"--window-size={size[0]},{size[1]}",
            "--virtual-time-budget=20000",
            f"--screenshot={picture.resolve()}",
            f"http://127.0.0.1:{server.server_port}/{query}",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    server.shutdown()
    shutil.rmtree(BUILD)


def main() -> None:
    """Draw the pipelines."""
    build()
    take_picture(Path("docs/dag.png"), (900, 2000))


if __name__ == "__main__":
    main()
