"""How far work is: a bar in a terminal, and now and then a line in a log file."""

import io
import logging
import sys
from time import monotonic
from typing import Any

from tqdm import tqdm

# from one line to the next
SECONDS = 60

logger = logging.getLogger(__name__)


def in_notebook() -> bool:
    """Tell whether a notebook's kernel runs this, and shows what goes to stderr."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class Progress(tqdm):
    """tqdm's bar; without a terminal a line in the log a minute, and one at the end.

    It takes what tqdm does. A bar drawn into a file, over and over, makes the file
    unreadable.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.logs = not (sys.stderr.isatty() or in_notebook())
        if self.logs:
            # with the longer of the two tqdm's own monitor would hurry it
            kwargs |= {"mininterval": SECONDS, "maxinterval": SECONDS}
            kwargs["file"] = io.StringIO()
        if not kwargs.get("disable"):  # which would overrule TQDM_DISABLE
            kwargs.pop("disable", None)
        # when the last line was written, and how far it was then
        self.said = (monotonic(), kwargs.get("initial", 0))
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar; or log how far it is, if it has moved since the last line."""
        if not self.logs:
            return bool(super().display(msg, pos))
        when, n = self.said
        closing = pos is not None
        due = closing or monotonic() - when >= SECONDS
        if due and msg is None and self.n > n:
            self.said = (monotonic(), self.n)
            logger.info("%s", self._line())
        return True

    def _line(self) -> str:
        now = self.format_dict
        n, total, elapsed = now["n"], now["total"], now["elapsed"]
        rate = now["rate"] or (n - self.initial) / elapsed
        of = f" of {total:,}" if total else ""
        said = [f"{n:,}{of}{now['unit']} in {self.format_interval(elapsed)}"]
        if total and n < total:
            said.append(f"{self.format_interval((total - n) / rate)} to go")
        said.append(f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s")
        said += [now["postfix"]] if now["postfix"] else []
        return f"{now['prefix']}: {', '.join(said)}"
