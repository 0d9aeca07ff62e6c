from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path("notebooks/explore_scores.ipynb")
ROOT = Path(__file__).parents[1]


def test_the_notebook_is_valid_and_kept_without_outputs():
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)

    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_the_notebook_draws_its_three_figures(test_run, monkeypatch):
    monkeypatch.setenv("KEDRO_ENV", "test")
    path = test_run.path / NOTEBOOK
    notebook = nbformat.read(path, as_version=4)

    NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [
        o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    assert len(drawn) == 3
