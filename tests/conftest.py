import importlib.util
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.config import OmegaConfigLoader

from minirec.policy.params import PolicyParams
from minirec.settings import CONFIG_LOADER_ARGS

ROOT = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def parameters():
    """The parameters of the environment ``test``, as YAML holds them."""
    args = {**CONFIG_LOADER_ARGS, "default_run_env": "test"}
    return OmegaConfigLoader(str(ROOT / "conf"), **args)["parameters"]


@pytest.fixture(scope="session")
def policy_model():
    return {"pretrained_model_name_or_path": str(FIXTURES / "policy")}


@pytest.fixture(scope="session")
def encoder_model():
    return {"pretrained_model_name_or_path": str(FIXTURES / "encoder")}


@pytest.fixture(scope="session")
def policy_params(parameters):
    return PolicyParams.model_validate(parameters["policy"])


@pytest.fixture(scope="session")
def tiny():
    """A tiny policy of item tokens, and prompts for it: see tiny_items.py."""
    path = Path(__file__).with_name("tiny_items.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def copy_project(tmp_path_factory):
    """Return a function that copies the project without its data."""

    def copy() -> Path:
        path = tmp_path_factory.mktemp("project")
        for name in ("conf", "src", "notebooks"):
            shutil.copytree(ROOT / name, path / name, dirs_exist_ok=True)
        shutil.copytree(FIXTURES, path / "tests" / "fixtures")
        for name in ("pyproject.toml", ".telemetry"):
            shutil.copy(ROOT / name, path)
        for local in (path / "conf" / "local").glob("*.yml"):
            local.unlink()
        return path

    return copy


@pytest.fixture(scope="session")
def kedro():
    """Return a function that runs kedro in a project, as a user would."""

    def run(path: Path, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "kedro"), *args],
            cwd=path,
            env={**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def test_run(copy_project, kedro):
    """A copy of the project in which ``kedro run --env test`` has run once."""
    path = copy_project()
    done = kedro(path, "run", "--env", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(path=path, output=done.stdout, log=done.stderr)


@pytest.fixture(scope="session")
def little_room():
    """Return a context in which no file can grow beyond some bytes, as on a full disk."""

    @contextmanager
    def limited(most):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
