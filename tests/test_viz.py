import json

import pytest

LAYERS = [
    "01_raw",
    "02_intermediate",
    "03_primary",
    "04_feature",
    "05_model_input",
    "06_models",
    "07_model_output",
    "08_reporting",
]


@pytest.fixture(scope="module")
def api(test_run, kedro):
    """The folder of what kedro-viz answers about the run in ``test``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEDRO_ENV", "test")
        done = kedro(test_run.path, "viz", "build", "--include-previews")
    assert done.returncode == 0, done.stdout + done.stderr
    return test_run.path / "build" / "api"


def test_every_table_and_node_is_drawn_in_its_layer(api):
    drawn = json.loads((api / "main").read_text())

    names = {node["name"] for node in drawn["nodes"]}
    assert {
        *("raw_interactions", "build_samples", "render_prompts", "prompts"),
        *("train_proxy", "probe_rewards", "join_scores", "scores"),
        *("prune_by_reward", "select_samples", "stage_curriculum", "curriculum"),
        *("train_policy", "policy_adapter", "rankings", "metrics"),
    } <= names
    assert drawn["layers"] == LAYERS


def test_the_metrics_are_previewed(api):
    nodes = json.loads((api / "main").read_text())["nodes"]
    metrics = next(node for node in nodes if node["name"] == "metrics")

    preview = json.loads((api / "nodes" / metrics["id"]).read_text())["preview"]

    assert preview["columns"][:3] == ["method", "metric", "mean"]
    assert preview["data"]
