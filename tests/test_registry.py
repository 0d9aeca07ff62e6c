import json
import subprocess
import sys

import pytest

SLOW = {"torch", "transformers", "trl", "sentence_transformers", "pandera"}


@pytest.fixture(scope="module")
def registry() -> dict:
    """Return what a fresh process finds that only asks which pipelines there are."""
    ask = """
import json, sys
from kedro.framework.project import configure_project, pipelines
configure_project("minirec")
from minirec import settings
nodes = {name: [node.name for node in pipelines[name].nodes] for name in pipelines}
print(json.dumps({"nodes": nodes, "modules": sorted(sys.modules)}))
"""
    answer = subprocess.run(
        [sys.executable, "-c", ask], check=True, capture_output=True, text=True
    )
    return json.loads(answer.stdout.splitlines()[-1])


def test_the_registry_imports_nothing_slow(registry):
    assert SLOW.isdisjoint(registry["modules"])


def test_the_default_pipeline_is_all_of_them_but_those_apart(registry):
    nodes = registry["nodes"]

    assert set(nodes) == {
        "preprocess",
        "score",
        "select",
        "train_eval",
        "export",
        "experiment",
        "__default__",
    }
    apart = ("export", "experiment", "__default__")
    parts = [name for part in nodes if part not in apart for name in nodes[part]]
    assert sorted(nodes["__default__"]) == sorted(parts)
