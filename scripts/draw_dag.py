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
PICTURE = Path("docs/dag.png")
SIZE = 900, 2000
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


def main() -> None:
    """Build the static pages of kedro-viz, open them and take their picture."""
    chromium = shutil.which("chromium") or sys.exit(
        "Install Chromium: it is not on PATH."
    )
    kedro = Path(sys.executable).parent / "kedro"
    subprocess.run([kedro, "viz", "build"], check=True)  # noqa: S603
    page = BUILD / "index.html"
    choose = f"localStorage.setItem('KedroViz', {json.dumps(json.dumps(CHOICES))})"
    page.write_text(
        page.read_text().replace("<head>", f"<head><script>{choose}</script>", 1)
    )
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=BUILD)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    PICTURE.unlink(missing_ok=True)
    subprocess.run(  # noqa: S603
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--force-device-scale-factor=2",
            f"--window-size={SIZE[0]},{SIZE[1]}",
            "--virtual-time-budget=20000",
            f"--screenshot={PICTURE.resolve()}",
            f"http://127.0.0.1:{server.server_port}/",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    server.shutdown()
    shutil.rmtree(BUILD)


if __name__ == "__main__":
    main()
