import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from minirec import cli

BIN = Path(sys.executable).parent
SLOW = ("torch", "transformers", "trl", "sentence_transformers")


def minirec(path, *args):
    return subprocess.run(
        [str(BIN / "minirec"), *args],
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def chosen(test_run):
    """The id of the first sample of the curriculum."""
    tables = test_run.path / "data" / "test" / "05_model_input"
    return str(pd.read_parquet(tables / "curriculum.parquet")["sample_id"].iloc[0])


def test_the_script_prints_a_trace_from_any_folder_of_the_project(test_run, chosen):
    command = ("trace", "sample", chosen, "--env", "test")
    here = minirec(test_run.path, *command)
    below = minirec(test_run.path / "data" / "test", *command)
    assert here.returncode == 0, here.stderr
    assert here.stdout == below.stdout
    first, *lines = here.stdout.splitlines()
    assert first.startswith(f"Sample {chosen} of the train split, user ")
    assert "  curriculum  place 1 of 10, in stage 1 of 4" in lines
    assert all(len(line) <= 80 for line in lines)
    assert "not there yet" not in here.stdout
    assert here.stderr == ""


def test_the_samples_of_the_user_of_a_chosen_one(test_run, chosen):
    way = minirec(test_run.path, "trace", "sample", chosen, "--env", "test").stdout
    user = way.partition(" user ")[2].split()[0]
    told = minirec(test_run.path, "trace", "user", user, "--env", "test")
    assert told.returncode == 0, told.stderr
    (line,) = (
        line for line in told.stdout.splitlines() if line.split()[:1] == [chosen]
    )
    assert re.search(r"train  chosen as pick \d+ of 10", line)


def test_kedro_has_the_same_command(test_run, kedro, chosen):
    by_kedro = kedro(test_run.path, "trace", "sample", chosen, "--env", "test")
    assert by_kedro.returncode == 0, by_kedro.stderr
    by_script = minirec(test_run.path, "trace", "sample", chosen, "--env", "test")
    assert by_kedro.stdout == by_script.stdout


def test_the_trace_imports_nothing_slow(test_run, chosen):
    ask = f"""
import sys
from minirec.cli import cli
cli(["trace", "sample", "{chosen}", "--env", "test"], standalone_mode=False)
print([name for name in {SLOW} if name in sys.modules])
"""
    answer = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=test_run.path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.splitlines()[-1] == "[]"


def test_before_any_run_the_trace_names_the_first_command(copy_project):
    done = minirec(copy_project(), "trace", "sample", "0", "--env", "test")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "Error: prompts is not there yet: kedro run --pipelines preprocess --env test\n"
    )


def test_an_environment_that_does_not_exist_is_named(test_run, chosen):
    done = minirec(test_run.path, "trace", "sample", chosen, "--env", "tset")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: --env tset is unknown: did you mean test? There are")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--pipelines", "scor"),
            "--pipelines scor is unknown: did you mean score? There are experiment, "
            "export, preprocess, score, select, train_eval",
        ),
        (
            ("--nodes", "select_sample"),
            "Pipeline does not contain nodes named ['select_sample']: `kedro registry "
            "describe NAME` lists a pipeline's nodes, `kedro catalog "
            "describe-datasets` the datasets",
        ),
        (
            ("--tags", "scor"),
            "Pipeline contains no nodes after applying all provided filters: `kedro "
            "registry describe NAME` lists a pipeline's nodes, `kedro catalog "
            "describe-datasets` the datasets",
        ),
    ],
)
def test_a_slip_of_the_command_line_is_told_in_a_sentence(
    test_run, kedro, options, sentence
):
    done = kedro(test_run.path, "run", "--env", "test", *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith(f"Error: {sentence}\n")


def test_a_slip_in_a_file_is_told_with_its_line(copy_project, kedro):
    project = copy_project()
    own = project / "conf" / "local" / "catalog.yml"
    own.write_text("raw_interactions:\n  type: a\n  filepath b\n")
    done = kedro(project, "run")
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith(
        f"Error: Invalid YAML or JSON file {own}, unable to read line 3, position 0. "
        "Check colons, brackets and indentation there\n"
    )
    own.unlink()
    mine = project / "src" / "mine.py"
    mine.write_text("def hit(ranks, scores, targets)\n    return ranks < 5\n")
    done = kedro(project, "run", "--params", "ranking.reward=mine.hit")
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith(
        "Error: ranking.reward is 'mine.hit', which cannot be imported: "
        f"{mine}, line 1: expected ':'\n"
    )


def test_an_error_in_a_pipeline_is_not_taken_for_a_slip():
    error = ImportError("An error occurred while importing 'minirec.pipelines.score'.")
    options = {"pipelines": ["score"], "pipeline": None}
    assert cli._slip(options, error) is None


def test_a_run_that_is_stopped_says_how_to_go_on(capsys, monkeypatch):
    def run():
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["/opt/kedro", "run", "--params", "seed=1 2"])
    with pytest.raises(KeyboardInterrupt):
        cli._in_a_sentence(run)()
    command = "/opt/kedro run --params 'seed=1 2' --only-missing-outputs"
    assert f"kept: `{command}` goes on behind it." in capsys.readouterr().err


def test_outside_of_a_project_the_script_says_where_to_go(tmp_path):
    done = minirec(tmp_path, "trace", "sample", "0")
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {tmp_path} is not in a Kedro project: go to the folder of MiniRec, or "
        "to one below it\n"
    )


def test_the_package_still_runs_as_a_module(test_run):
    done = subprocess.run(
        [sys.executable, "-m", "minirec", "--env", "test", "--pipelines", "select"],
        cwd=test_run.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "Wrote candidates, curriculum, curriculum_figure, embedding_figure, "
        "explanations, overlap_figure, reward_figure, selection, selection_figure, "
        "strategy_picks." in done.stdout
    )


def test_a_table_tells_how_it_was_made(test_run):
    told = minirec(test_run.path, "trace", "table", "scores", "--env", "test")

    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0] == "scores"
    assert "state       is fresh" in lines
    assert "parameters  score.value.alpha 1.0" in lines
    assert "├── learnability" in lines
    assert all(len(line) <= 80 for line in lines)


def test_what_is_not_up_to_date_is_said(test_run, chosen, tmp_path):
    path = tmp_path / "project"
    shutil.copytree(test_run.path, path)
    (path / "conf/test/parameters_mine.yml").write_text("score: {value: {alpha: 3.0}}")

    told = minirec(path, "trace", "sample", chosen, "--env", "test").stdout
    stale = "is stale: params:score.value.alpha was 1.0, is 3.0"
    assert told.splitlines()[-1].startswith("If a run with --params made it, name the")
    assert told.splitlines()[-2] == (
        "Note that `scores`, `candidates`, `selection`, `curriculum`, `explanations`, "
        f"`consumed` and `rankings` {stale.replace('is stale', 'are stale')}. Run `kedro run "
        "--pipelines score,select,train_eval --only-missing-outputs --env test`."
    )
    table = minirec(path, "trace", "table", "selection", "--env", "test").stdout
    assert f"state       {stale}. Run" in " ".join(table.split(" "))
    assert "├── candidates is stale:" in table
    asked = ("trace", "sample", chosen, "--env", "test")
    same = minirec(path, *asked, "--params", "score.value.alpha=1.0")
    assert same.returncode == 0, same.stderr
    assert "Note that" not in same.stdout


def test_why_a_kept_sample_was_not_chosen_is_said(test_run):
    tables = test_run.path / "data/test/05_model_input"
    candidates = pd.read_parquet(tables / "candidates.parquet")
    chosen = pd.read_parquet(tables / "selection.parquet")["sample_id"]
    kept = candidates.loc[candidates["reason"] == "kept", "sample_id"]
    (other, *_) = kept[~kept.isin(chosen)].astype(str)
    told = minirec(test_run.path, "trace", "sample", other, "--env", "test")
    assert "Not chosen, since its history lies " in told.stdout


def test_params_that_are_none_are_an_error(test_run):
    asked = ("trace", "sample", "0", "--env", "test", "--params", "foo")
    told = minirec(test_run.path, *asked)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("score", "no pipeline makes `score`: did you mean scores? There are "),
        ("raw_items", "no pipeline makes `raw_items`"),
    ],
)
def test_a_table_that_no_pipeline_makes_is_an_error(test_run, name, sentence):
    told = minirec(test_run.path, "trace", "table", name, "--env", "test")

    assert told.returncode == 1
    assert sentence in told.stderr


def test_a_table_that_was_not_made_yet_is_an_error(copy_project):
    told = minirec(copy_project(), "trace", "table", "scores", "--env", "test")

    assert told.returncode == 1
    assert (
        "`scores` is missing: run `kedro run --pipelines preprocess,score "
        "--only-missing-outputs --env test`" in told.stderr
    )
