import logging
import os
import subprocess
import sys

import pytest

from minirec import progress
from minirec.progress import Progress


@pytest.fixture
def lines(caplog, monkeypatch, capsys):
    """Return what was logged so far, without what depends on the clock."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    caplog.set_level(logging.INFO, "minirec.progress")
    return lambda: [line.partition(" in ")[0] for line in caplog.messages]


def test_a_log_has_one_line_of_work_that_was_short(lines, capsys):
    with Progress(total=1500, desc="probe", unit=" prompts") as bar:
        bar.update(1000)
        bar.update(500)
    assert lines() == ["probe: 1,500 of 1,500 prompts"]
    assert capsys.readouterr().err == ""


def test_a_log_has_a_line_now_and_then_of_work_that_is_long(lines, caplog, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    with Progress(total=3, initial=1, desc="train", unit=" steps") as bar:
        bar.set_postfix({"reward": 0.5}, refresh=False)
        for _ in range(2):
            bar.update(1)
    assert lines() == ["train: 2 of 3 steps", "train: 3 of 3 steps"]
    assert " to go, " in caplog.messages[0]
    assert " to go, " not in caplog.messages[-1]
    assert all(line.endswith("/s, reward=0.5") for line in caplog.messages)


def test_work_that_was_done_before_has_no_line(lines):
    with Progress(total=3, initial=3, desc="train"):
        pass
    with Progress(total=3, desc="train", disable=True) as bar:
        bar.update(3)
    assert lines() == []


def test_jobs_side_by_side_say_nothing_of_their_own():
    work = """
import logging
from minirec.progress import Progress
logging.basicConfig(level="INFO")
with Progress(total=3, desc="train", disable=False) as bar:
    bar.update(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", work],
        env={**os.environ, "TQDM_DISABLE": "1"},  # as `run_jobs` has it
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""


def test_a_terminal_has_a_bar(lines, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(total=3, desc="train", unit=" steps") as bar:
        bar.update(3)
    assert lines() == []
    assert "train: 100%|" in capsys.readouterr().err
