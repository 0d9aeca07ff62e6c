"""What a user reads who gives ``kedro run`` something that cannot be used."""

import shutil

import pytest
import yaml

EVENTS = ("user_id", "item_id", "timestamp")


@pytest.fixture(scope="module")
def project(copy_project):
    return copy_project()


@pytest.fixture
def refused(project, kedro):
    """Return a function that runs the project and gives the one sentence it says."""

    def run(*args, pipeline="preprocess"):
        done = kedro(project, "run", "--env", "test", "--pipelines", pipeline, *args)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert not list((project / "data" / "test").rglob(".*.new"))
        return " ".join(done.stderr.split("Error: ")[-1].split())

    return run


@pytest.fixture
def own_file(project):
    """Return a function that puts a user's own CSV in the place of a raw table."""
    catalog = project / "conf" / "test" / "catalog.yml"
    before = catalog.read_text()

    def put(name, text, columns):
        (project / "own.csv").write_text(text)
        entry = {
            "type": "minirec.datasets.table.TableDataset",
            "filepath": "own.csv",
            "columns": {column: column for column in columns},
        }
        catalog.write_text(yaml.safe_dump({**yaml.safe_load(before), name: entry}))

    yield put
    catalog.write_text(before)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (
            "preprocess.k_core=0",
            "parameters: preprocess.k_core should be greater than or equal to 1 "
            "(given 0)",
        ),
        (
            "select.size=some",
            "parameters: select.size should be a valid integer (given 'some')",
        ),
        (
            "score.prob.rollouts=8",
            "parameters: score.prob is unknown: did you mean probe? There are "
            "gradients, learnability, memory_gb, probe, proxy, representativeness, "
            "value, warm_start",
        ),
        (
            "score.representativeness.direction=validation",
            "score.representativeness.direction is validation, and "
            "preprocess.pool.valid draws none: raise it, or take another direction",
        ),
        (
            "score.representativeness.direction=proxy,score.gradients.space=hidden",
            "score.representativeness.direction is proxy, the way that its adapter "
            "moved, and score.gradients.space is hidden: take the space lora, or "
            "another direction",
        ),
        (
            "score.gradients=null",
            "score.gradients is null, and score.representativeness would score them: "
            "set it to null, too",
        ),
        (
            "score.gradients=null,score.representativeness=null",
            "select.compare names minirec.selection.strategies.gradient_norm, which "
            "reads gradients, and score.gradients is null: leave it out, or take "
            "gradients",
        ),
        (
            "train_eval.train.grpo.gradient_accumulation_steps=3",
            "train_eval.train: 4 prompts of 4 completions (prompts_per_step, "
            "grpo.num_generations) cannot be cut into the 3 equal parts of "
            "grpo.gradient_accumulation_steps: let it divide their product",
        ),
        (
            "select.size=99",
            "select.size is 99, and preprocess.pool.train draws 24: lower the one or "
            "raise the other",
        ),
    ],
)
def test_parameters_are_checked_before_anything_runs(
    refused, project, params, sentence
):
    assert refused("--params", params, pipeline="score") == sentence
    assert not (project / "data" / "test").exists()


def test_a_reward_that_is_nowhere(refused):
    said = refused("--params", "ranking.reward=nowhere.to_be_found", pipeline="score")
    assert "ranking.reward is 'nowhere.to_be_found', which cannot be imported" in said


def test_a_reward_that_is_no_number(test_run, kedro, tmp_path):
    path = tmp_path / "project"
    shutil.copytree(test_run.path, path)
    (path / "src" / "mine.py").write_text(
        "def nowhere(ranks, scores, targets):\n    return ranks * float('nan')\n"
    )
    node = ("--from-nodes", "train_proxy", "--to-nodes", "train_proxy")
    params = ("--params", "ranking.reward=mine.nowhere")
    done = kedro(path, "run", "--env", "test", *node, *params)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert " ".join(done.stderr.split("Error: ")[-1].split()) == (
        "tried on two samples that are made up: ranking.reward (mine.nowhere) "
        "returned a value that is not finite for sample 1: return a finite number for every "
        "rank"
    )


def test_a_column_that_the_file_does_not_have(refused, own_file):
    own_file("raw_interactions", "who,item_id,timestamp\nann,a,1\n", EVENTS)
    said = refused()
    assert said.startswith("raw_interactions: ")
    assert "own.csv has no column user_id (it has who, item_id, timestamp)" in said


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "",
            "raw_interactions is empty: point its catalog entry to a file that has "
            "rows.",
        ),
    ],
)
def test_a_table_that_cannot_be_used(refused, own_file, rows, sentence):
    own_file("raw_interactions", "user_id,item_id,timestamp\n" + rows, EVENTS)
    assert refused() == sentence


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("ann,,1", "item_id is empty"),
        ("ann,a,", "timestamp is empty"),
        ("ann,a,noon", "timestamp 'noon' is not a number"),
        (" NaN,a,1", "user_id is ' NaN', which stands for none"),
        ("ann,n/a,1", "item_id is 'n/a', which stands for none"),
        (r"\N,a,1", r"user_id is '\N', which stands for none"),
        ("ann,a", "Expected Number of Columns: 3 Found: 2"),
    ],
)
def test_a_row_that_cannot_be_used(refused, own_file, row, reason):
    rows = f"user_id,item_id,timestamp\nbob,a,2\n{row}\n"
    own_file("raw_interactions", rows, EVENTS)
    said = refused()
    assert said.startswith("raw_interactions: ")
    assert f"own.csv has 1 bad row of 2, such as line 3 ({reason}): mend them" in said
    assert "or leave them out by `on_bad_rows: drop`." in said


@pytest.mark.parametrize("other", ["", 'm01,"\n "\n'])
def test_an_item_without_a_title(refused, own_file, other):
    titles = "item_id,title\nm00,The Silent Harbour\n" + other
    own_file("raw_items", titles, ("item_id", "title"))
    assert refused() == (
        "raw_items has no title for 39 of 40 items, such as m01, m02, m03, m04, m05: "
        "add them, or leave out what names them by `preprocess.filter.untitled: drop`."
    )


def test_a_core_of_which_nothing_is_left(refused):
    assert refused("--params", "preprocess.k_core=500") == (
        "preprocess.k_core = 500 leaves nothing: no user_id has more than 15 "
        "interactions; lower it."
    )


def test_a_prompt_longer_than_the_context(refused):
    said = refused("--params", "policy.sampling.max_new_tokens=450")
    assert "more than the 62 that the model's context leaves beside 450 of" in said


def test_a_model_that_is_not_there(refused):
    said = refused("--params", "policy_model=./no_such_model")
    assert said.startswith("policy_model: The model folder ./no_such_model does not")


def test_limits_that_leave_nothing(test_run, kedro):
    args = ("run", "--env", "test", "--pipelines", "select", "--params")
    made = test_run.path / "data/test/05_model_input/candidates.parquet"
    before = made.read_bytes()
    done = kedro(test_run.path, *args, "select.prune.min_spread=5")
    assert done.returncode == 1
    assert "select.prune" in done.stderr
    assert "Traceback" not in done.stderr
    assert made.read_bytes() == before


def test_tables_of_two_engines(refused, project):
    catalog = project / "conf" / "test" / "catalog.yml"
    before = catalog.read_text()
    entries = yaml.safe_load(before)
    entries["raw_items"]["connection"] = {"backend": "duckdb", "database": "own.db"}
    catalog.write_text(yaml.safe_dump(entries))
    said = refused()
    catalog.write_text(before)
    assert said == (
        "tables that a node joins are read by different connections: leave "
        "`connection` out of your catalog entries, or give all of them the same"
    )


def test_an_entry_with_a_field_that_no_dataset_has(refused, project):
    catalog = project / "conf" / "test" / "catalog.yml"
    before = catalog.read_text()
    entries = yaml.safe_load(before)
    entries["raw_items"]["on_bad_row"] = "drop"
    catalog.write_text(yaml.safe_dump(entries))
    said = refused()
    catalog.write_text(before)
    assert (
        "got an unexpected keyword argument 'on_bad_row'. Dataset 'raw_items'" in said
    )
    assert said.endswith("Correct it in the catalog.")


def test_a_folder_that_cannot_be_written(refused, project):
    settings = project / "conf" / "test" / "globals.yml"
    before = settings.read_text()
    (project / "file").write_text("mine")
    settings.write_text(before.replace("data: data/test", "data: file/test"))
    said = refused()
    settings.write_text(before)
    assert said == (
        f"interactions cannot be written: {project / 'file'} is no folder that this "
        "process may write to; give it leave to, or name another `data` in globals.yml"
    )
    assert (project / "file").read_text() == "mine"
