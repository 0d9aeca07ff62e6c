"""A scoring run that is killed goes on where it was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

SCORE = (
    *("run", "--env", "test", "--pipelines", "preprocess,score"),
    *("--params", "score.probe.batch_size=2,score.gradients.batch_size=2"),
)
FEATURES = Path("data") / "test" / "04_feature"


def finished(path: Path) -> dict[Path, int]:
    """Say when each finished batch was written."""
    folder = path / FEATURES / "finished_batches"
    return {part: part.stat().st_mtime_ns for part in folder.rglob("*.parquet")}


def kill_after(path: Path, parts: int, seconds: float) -> int:
    """Start to score, and kill it some time after so many batches more are finished."""
    before = len(finished(path))
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "kedro"), *SCORE, "--only-missing-outputs"],
        cwd=path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(finished(path)) < before + parts:
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def test_a_killed_run_ends_with_the_tables_of_one_that_was_not(copy_project, kedro):
    whole, killed = copy_project(), copy_project()
    done = kedro(whole, *SCORE)
    assert done.returncode == 0, done.stdout + done.stderr
    seed = time.time_ns()
    print("seed", seed)  # noqa: T201 (shown if the test fails)
    rng = random.Random(seed)
    for _ in range(3):  # of 24 batches in all, which take some hundredths of a second
        after = rng.uniform(0, 0.1)
        assert kill_after(killed, rng.randint(1, 4), after) == -signal.SIGKILL
    before = finished(killed)
    done = kedro(killed, *SCORE, "--only-missing-outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    # at least the batches that were waited for, none of them done a second time
    assert len(before) >= 3
    assert before.items() <= finished(killed).items()
    for name in ("rollouts", "rewards"):
        pd.testing.assert_frame_equal(
            *(
                pd.read_parquet(path / FEATURES / f"{name}.parquet")
                for path in (killed, whole)
            )
        )
    found, expected = (
        load_file(path / FEATURES / "gradients.safetensors") for path in (killed, whole)
    )
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
