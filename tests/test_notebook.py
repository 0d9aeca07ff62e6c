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
    # nothing that a user would wonder at
    assert not [o for o in outputs if o.get("name") == "stderr" and "Warn" in o["text"]]
