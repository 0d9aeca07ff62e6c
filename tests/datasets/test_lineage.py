import pickle
import shutil

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DatasetError

from minirec.datasets.lineage import LineageDataset
from minirec.pipelines import experiment, export


@pytest.fixture
def load(test_run, tmp_path, monkeypatch):
    """Return a function that loads ``lineage`` as a notebook does, and its project."""
    path = tmp_path / "project"
    shutil.copytree(test_run.path, path)
    monkeypatch.chdir(path)
    bootstrap_project(path)

    def load(**params):
        with KedroSession.create(path, env="test", runtime_params=params) as session:
            return session.load_context().catalog.load("lineage").set_index("dataset")

    return path, load


def test_every_record_is_a_row_in_the_order_of_the_pipelines(load):
    _, lineage = load
    table = lineage()

    not_run = table[table["state"] != "is fresh"]
    apart = [pipeline.create_pipeline() for pipeline in (export, experiment)]
    assert set(not_run.index) == apart[0].all_outputs() | apart[1].all_outputs()
    assert set(not_run["state"]) == {"is missing"}
    table = table.drop(not_run.index)
    order = list(table.index)
    assert order.index("interactions") < order.index("prompts") < order.index("scores")
    assert table["node"]["scores"] == "join_scores"
    assert table["inputs"]["scores"]["learnability"] == table["key"]["learnability"]
    assert set(table["models"]["rewards"]) == {
        "policy_model",
        "encoder_model",
        "initial_adapter",
        "proxy_adapter",
    }
    assert table["run_id"].str.startswith("20").all()  # a session is named by its time


def test_the_state_says_what_a_change_would_touch(load):
    path, lineage = load
    scores = path / "data/test/05_model_input/scores.parquet"
    pd.DataFrame({"sample_id": [1]}).to_parquet(scores)
    state = lineage(train_eval={"evaluation": {"confidence": 0.9}})["state"]

    changed = "is stale: params:train_eval.evaluation.confidence was 0.95, is 0.9"
    assert state["metrics"] == changed
    assert state["scores"] == "was changed after join_scores wrote it"
    # as a run would say, of what was made from it too
    assert (
        state["curriculum"] == "is stale: scores was changed after join_scores wrote it"
    )
    assert state["rewards"] == "is fresh"


def test_a_dataset_without_a_record_is_a_row_too(load):
    path, lineage = load
    (path / "data/test/05_model_input/scores.parquet.lineage.json").unlink()
    (path / "data/test/05_model_input/candidates.parquet").unlink()
    table = lineage()

    assert table["state"]["scores"] == "has no record of how it was made"
    assert table["state"]["candidates"] == "is missing"
    assert "scores has no record" in table["state"]["selection"]


def test_it_is_read_only_and_needs_its_catalog(tmp_path):
    dataset = LineageDataset(filepath=str(tmp_path / "hashes.json"))
    with pytest.raises(DatasetError, match="read only"):
        dataset.save(pd.DataFrame())
    with pytest.raises(DatasetError, match="project's catalog"):
        dataset.load()


def test_another_process_does_not_get_the_catalog(tmp_path):
    dataset = LineageDataset(filepath=str(tmp_path / "hashes.json"))
    dataset.catalog = object()
    assert pickle.loads(pickle.dumps(dataset)).catalog is None
