"""Trust in the tables of the whole project, as a user sees it in the terminal."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

SUFFIX = ".lineage.json"
# tables that say how long something took
OF_TIMES = {
    *("costs.csv", "proxy_log.parquet", "policy_log.parquet"),
    *("proxy_figure.json", "policy_figure.json", "report.html"),
}


@pytest.fixture
def project(test_run, tmp_path):
    """A copy of the project in which everything has run once, with its tables."""
    path = tmp_path / "project"
    shutil.copytree(test_run.path, path)
    return path


def said(done):
    return " ".join((done.stdout + done.stderr).split())


def up_to_date(done):
    """Tell whether a run found everything as its pipelines would make it."""
    return re.search(r" (\d+) of \1 datasets are up to date", said(done)) is not None


def tables(path):
    """Return what every file of tables, matrices and adapters holds, by its path."""
    found = {}
    for file in sorted((path / "data" / "test").rglob("*")):
        name = file.relative_to(path).as_posix()
        # which they are depends on the way
        kept = {"finished_batches", "checkpoints"} & set(file.parts)
        if kept or file.name in OF_TIMES or file.name.startswith("."):
            continue
        if file.suffix == ".parquet":
            found[name] = pd.read_parquet(file).to_json()
        elif file.suffix == ".safetensors":
            found[name] = {k: v.tolist() for k, v in load_file(file).items()}
        elif file.name == "adapter_config.json":
            found[name] = json.loads(file.read_text())
            del found[name]["base_model_name_or_path"]  # lies in the project's folder
        elif file.is_file() and not file.name.endswith(SUFFIX):
            found[name] = file.read_text()
    return found


def test_every_saved_dataset_has_a_record(test_run):
    data = test_run.path / "data" / "test"
    for layer in data.iterdir():
        saved = {path.name for path in layer.iterdir() if SUFFIX not in path.name}
        recorded = {path.name.removesuffix(SUFFIX) for path in layer.glob(f"*{SUFFIX}")}
        assert recorded == saved - {"costs.csv", "finished_batches", "checkpoints"}


def test_a_copied_project_is_up_to_date(project, kedro):
    done = kedro(project, "run", "--env", "test", "--only-missing-outputs")

    assert done.returncode == 0, said(done)
    assert up_to_date(done)


@pytest.mark.parametrize(
    ("given", "change"),
    [
        (
            "score.probe.rollouts=8",
            "`gradients` and `scores` are stale: params:score.probe.rollouts was 4, is 8.",
        ),
        (
            "seed=7",
            "`embeddings`, `gradients`, `prompts` and `scores` are stale: params:seed "
            "was 42, is 7.",
        ),
    ],
)
def test_a_part_refuses_to_read_stale_tables(project, kedro, given, change):
    before = tables(project)
    done = kedro(
        project, "run", "--pipelines", "select", "--env", "test", "--params", given
    )

    assert done.returncode == 1
    assert change in said(done)
    assert f"--only-missing-outputs --env test --params {given}`." in said(done)
    assert tables(project) == before


def test_an_overlay_counts_and_the_command_that_was_told_mends_it(project, kedro):
    (project / "conf/test/parameters_mine.yml").write_text(
        "score:\n  value:\n    alpha: 3.0\n"
    )
    run = ("run", "--env", "test", "--pipelines")
    refused = kedro(project, *run, "select")
    assert (
        "`scores` is stale: params:score.value.alpha was 1.0, is 3.0. Run `kedro run "
        "--pipelines score --only-missing-outputs --env test`." in said(refused)
    )

    mended = kedro(project, *run, "score", "--only-missing-outputs")
    assert mended.returncode == 0
    assert "Wrote scores. Next: kedro run --pipelines select" in said(mended)
    assert kedro(project, *run, "select").returncode == 0


def test_another_model_touches_what_it_wrote(project, kedro):
    other = project / "tests" / "fixtures" / "other"
    shutil.copytree(project / "tests/fixtures/policy", other)
    run = ("run", "--env", "test", "--pipelines", "score")
    given = ("--params", f"policy_model={other}")
    # the same files under another name are the same model
    same = kedro(project, *run, "--only-missing-outputs", *given)
    assert up_to_date(same)

    config = other / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    refused = kedro(project, *run, *given)
    assert "`prompts` is stale: policy_model was " in said(refused)


def test_a_function_of_ones_own_is_code(project, kedro):
    mine = project / "src" / "mine.py"
    mine.write_text(
        "def most_valuable(tables, k, seed):\n"
        "    rows = tables['candidates'].nlargest(k, 'value')\n"
        "    return rows['sample_id'].to_numpy()\n"
    )
    run = ("run", "--env", "test", "--pipelines", "select", "--only-missing-outputs")
    given = ("--params", "select.strategy=mine.most_valuable")
    assert "selection" in said(kedro(project, *run, *given)).partition("Wrote")[2]
    assert "Everything was up to date." in said(kedro(project, *run, *given))

    mine.write_text(mine.read_text().replace("nlargest", "nsmallest"))
    assert "mine.most_valuable changed" in said(kedro(project, *run, *given))


def test_processes_record_as_one_does(test_run, copy_project, kedro):
    parallel = copy_project()
    done = kedro(parallel, "run", "--env", "test", "--runner", "ParallelRunner")
    assert done.returncode == 0, said(done)
    assert tables(parallel) == tables(test_run.path)

    again = ("run", "--env", "test", "--only-missing-outputs")
    runner = ("--runner", "ParallelRunner")
    assert up_to_date(kedro(parallel, *again, *runner))
    given = ("--params", "select.curriculum.n_stages=2")
    rebuilt = kedro(parallel, *again, *runner, "--pipelines", "select", *given)
    assert "Wrote curriculum, curriculum_figure, explanations." in said(rebuilt)


def test_what_is_killed_at_any_moment_goes_on_as_if_it_had_not_been(
    test_run, copy_project, kedro
):
    project = copy_project()
    command = ["run", "--env", "test", "--only-missing-outputs"]
    rng = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "kedro"), *command],
            cwd=project,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(2, 8))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    done = kedro(project, *command)

    assert done.returncode == 0, said(done)
    assert tables(project) == tables(test_run.path)


EDITS = (
    "preprocess.window=3",
    "policy.sampling.temperature=0.9",
    "score.probe.rollouts=3",
    "score.gradients.dimensions=32",
    "score.learnability.mu=0.3",
    "score.value.alpha=2.0",
    "select.size=8",
    "select.curriculum.n_stages=2",
    "seed=7",
    "ranking.prior_weight=0.2",
)


@pytest.mark.parametrize("seed", range(2))
def test_after_random_edits_an_incremental_run_equals_a_clean_one(
    project, copy_project, kedro, seed
):
    rng = random.Random(seed)
    run = ("run", "--env", "test", "--pipelines", "preprocess,score,select")
    for edits in (rng.sample(EDITS, k) for k in (1, 2)):
        given = ("--params", ",".join(edits))
        done = kedro(project, *run, "--only-missing-outputs", *given)
        assert done.returncode == 0, said(done)

    clean = copy_project()
    assert kedro(clean, *run, *given).returncode == 0
    of_clean = tables(clean)
    of_parts = tables(project)
    assert {name: of_parts[name] for name in of_clean} == of_clean
