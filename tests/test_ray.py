"""The environment ``ray``: the same scores from other processes."""

import shutil

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import load_file

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def on_ray(copy_project, kedro):
    """The tiny run up to its scores, but in the environment ``ray``."""
    path = copy_project()
    test, ray = path / "conf" / "test", path / "conf" / "ray"
    for name in ("catalog.yml", "globals.yml"):
        shutil.copy(test / name, ray)
    both = OmegaConf.merge(
        OmegaConf.load(test / "parameters.yml"), OmegaConf.load(ray / "parameters.yml")
    )
    OmegaConf.save(both, ray / "parameters.yml")
    done = kedro(path, "run", "--env", "ray", "--pipelines", "preprocess,score")
    assert done.returncode == 0, done.stdout + done.stderr
    return path / "data" / "test"


def test_two_workers_make_the_same_rollouts_and_rewards(test_run, on_ray):
    for name in ("rollouts", "rewards"):
        expected, found = (
            pd.read_parquet(data / "04_feature" / f"{name}.parquet")
            for data in (test_run.path / "data" / "test", on_ray)
        )
        # Each worker has half of the cores, and so many threads add in another order.
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


def test_two_workers_collect_the_same_gradients(test_run, on_ray):
    expected, found = (
        load_file(data / "04_feature" / "gradients.safetensors")
        for data in (test_run.path / "data" / "test", on_ray)
    )
    assert found["sample_id"].tolist() == expected["sample_id"].tolist()
    largest = np.abs(expected["matrix"]).max()
    np.testing.assert_allclose(
        found["matrix"], expected["matrix"], rtol=0, atol=1e-4 * largest
    )
