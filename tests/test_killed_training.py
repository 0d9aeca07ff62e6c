"""A training run that is killed goes on behind its last checkpoint."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

TRAIN = (
    *("run", "--env", "test", "--from-nodes", "train_policy", "--to-nodes"),
    *("train_policy", "--params", "execution.checkpoint_steps=1"),
)
MODELS = Path("data") / "test" / "06_models"


def kill_after_a_checkpoint(path):
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "kedro"), *TRAIN],
        cwd=path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list((path / MODELS / "checkpoints").glob("train_policy/*/step-*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def test_a_killed_training_ends_with_the_adapter_of_one_that_was_not(
    test_run, tmp_path, kedro
):
    path = tmp_path / "project"
    shutil.copytree(test_run.path, path)
    for made in ("policy_adapter", "checkpoints/train_policy"):
        shutil.rmtree(path / MODELS / made)
    assert kill_after_a_checkpoint(path) == -signal.SIGKILL
    assert not (path / MODELS / "policy_adapter").exists()
    done = kedro(path, *TRAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train_policy goes on behind" in " ".join(done.stdout.split())
    whole, resumed = (
        load_file(project / MODELS / "policy_adapter" / "adapter_model.safetensors")
        for project in (test_run.path, path)
    )
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(resumed[name], tensor)
    consumed = [
        pd.read_parquet(project / MODELS / "consumed.parquet")
        for project in (test_run.path, path)
    ]
    pd.testing.assert_frame_equal(*consumed)
