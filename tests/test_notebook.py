import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
# how many figures each draws
NOTEBOOKS = {"compare_methods": 3, "explore_scores": 3, "inspect_one_user": 1}


def test_every_notebook_is_run():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(
        NOTEBOOKS
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_valid_and_kept_without_outputs(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)

    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_draws_its_figures(test_run, monkeypatch, name):
    monkeypatch.setenv("KEDRO_ENV", "test")
    path = test_run.path / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)

    NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [
        o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    assert len(drawn) == NOTEBOOKS[name]
    assert "not fresh" not in str(outputs)
    # nothing that a user would wonder at
    assert not [o for o in outputs if o.get("name") == "stderr" and "Warn" in o["text"]]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_asks_of_every_table_that_it_reads_whether_it_is_fresh(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    first, *others = [c.source for c in notebook.cells if c.cell_type == "code"]
    read = re.findall(r'catalog\.load\("(\w+)"\)', "\n".join(others))

    (asked,) = re.findall(r"read = \[(.*?)\]", first, re.DOTALL)
    assert set(re.findall(r"\w+", asked)) == set(read)


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        (
            "compare_methods",
            "`candidates`, `selection`, `strategy_picks`, `metrics` and `comparisons`",
        ),
        (
            "explore_scores",
            "`scores`, `candidates`, `selection`, `reward_figure` and `curriculum`",
        ),
        (
            "inspect_one_user",
            "`candidates`, `explanations`, `selection` and `rankings`",
        ),
    ],
)
def test_a_notebook_says_first_which_tables_are_not_fresh(
    test_run, tmp_path, monkeypatch, name, stale
):
    monkeypatch.setenv("KEDRO_ENV", "test")
    project = tmp_path / "project"
    shutil.copytree(test_run.path, project)
    mine = project / "conf" / "test" / "parameters_mine.yml"
    mine.write_text("score: {value: {alpha: 3.0}}\n")
    notebook = nbformat.read(project / "notebooks" / f"{name}.ipynb", as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type == "code"][:1]

    resources = {"metadata": {"path": str(project / "notebooks")}}
    NotebookClient(notebook, timeout=120, resources=resources).execute()

    said = [o["text"] for o in notebook.cells[0].outputs if o.get("name") == "stdout"]
    assert f"{stale} are not fresh" in "".join(said)
    assert "`kedro run --only-missing-outputs --env test`" in "".join(said)
