"""A small project of its own: raw → table → left, matrix → adapter; left, adapter → end."""

import importlib
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner

from minirec.lineage import hook
from minirec.lineage.content import Hashes
from minirec.lineage.graph import Graph, makers_of

SOURCE = '''
"""The code of the nodes."""
import numpy as np

FACTOR = 3.0


def clean(raw, minimum):
    return scaled(raw[raw["x"] >= minimum]).reset_index(drop=True)


def scaled(table):
    """Scale."""
    return table * FACTOR


def shift(table, by):
    return table + by


def embed(table, seed):
    rng = np.random.default_rng(seed)
    return {"matrix": table.to_numpy() * rng.normal(size=(1, 4))}


def train(matrix, rate):
    import torch
    return {"config": {"r": 1}, "tensors": {"w": torch.tensor(matrix["matrix"] * rate)}}


def end(left, adapter, weights):
    return left * weights["a"] + adapter["tensors"]["w"].sum().item() * weights["b"]
'''

PARAMETERS = {
    "minimum": 2,
    "by": 0.5,
    "seed": 1,
    "rate": 0.1,
    "weights": {"a": 1.0, "b": 2.0},
}


class Project:
    """The small project in a folder; `run` returns which nodes ran."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.parameters = {**PARAMETERS, "weights": dict(PARAMETERS["weights"])}
        self.monkeypatch = monkeypatch
        self.module = f"nodes_{folder.name.replace('-', '_')}"
        self.entries = {
            "raw": self.entry("pandas.CSVDataset", "raw.csv"),
            "table": self.entry(
                "minirec.datasets.files.ParquetDataset", "table.parquet"
            ),
            "left": self.entry("minirec.datasets.files.ParquetDataset", "left.parquet"),
            "matrix": self.entry(
                "minirec.datasets.matrix.MatrixDataset", "m.safetensors"
            ),
            "adapter": self.entry("minirec.datasets.adapter.AdapterDataset", "adapter"),
            "end": self.entry("minirec.datasets.files.ParquetDataset", "end.parquet"),
        }
        self.source = SOURCE
        pd.DataFrame({"x": [1.0, 2.0, 3.0]}).to_csv(folder / "raw.csv", index=False)

    def entry(self, kind, name):
        return {"type": kind, "filepath": (self.folder / name).as_posix()}

    def path(self, name):
        return self.folder / self.entries[name]["filepath"].rpartition("/")[2]

    @property
    def pipeline(self):
        (self.folder / f"{self.module}.py").write_text(self.source)
        sys.modules.pop(self.module, None)
        importlib.invalidate_caches()
        code = importlib.import_module(self.module)
        return Pipeline(
            [
                node(code.clean, ["raw", "params:minimum"], "table", name="clean"),
                node(code.shift, ["table", "params:by"], "left", name="shift"),
                node(code.embed, ["table", "params:seed"], "matrix", name="embed"),
                node(code.train, ["matrix", "params:rate"], "adapter", name="train"),
                node(
                    code.end, ["left", "adapter", "params:weights"], "end", name="end"
                ),
            ],
            tags="score",
        )

    def catalog(self, load_versions=None):
        catalog = DataCatalog.from_config(self.entries, load_versions=load_versions)
        for name, value in self.parameters.items():
            catalog[f"params:{name}"] = value
        return catalog

    def run(
        self,
        *names,
        only_missing=True,
        runner=None,
        pipeline=None,
        node_hooks=True,
        during=None,
        session=None,
        **run_params,
    ):
        """Run some nodes, or all; return the names of those that ran, in order.

        `during` is what happens elsewhere when a node has just begun, by its name,
        and `session` the hook of a run before.
        """
        whole = pipeline or self.pipeline
        chosen = whole.only_nodes(*names) if names else whole
        load_versions = run_params.get("load_versions")
        self.monkeypatch.setattr(
            hook,
            "graph_of",
            lambda catalog, running=(), pinned=(): Graph(
                catalog,
                makers_of([*running, whole]),
                self.parameters,
                Hashes(self.folder / "hashes.json"),
                frozenset(pinned),
            ),
        )
        ran = []

        class Tracker:
            @hook_impl
            def before_node_run(self, node):
                ran.append(node.name)
                (during or {}).get(node.name, bool)()

        manager = _create_hook_manager()
        manager.register(session or hook.LineageHook())
        manager.register(Tracker())
        catalog = self.catalog(load_versions)
        about = {
            "run_params": {
                "run_id": "a-run",
                "env": "local",
                "runtime_params": {},
                "load_versions": None,
                "only_missing_outputs": only_missing,
                **run_params,
            },
            "pipeline": chosen,
            "catalog": catalog,
        }
        manager.hook.before_pipeline_run(**about)
        runner = runner or SequentialRunner()
        try:
            result = runner.run(
                chosen,
                catalog,
                manager if node_hooks else None,
                about["run_params"]["run_id"],
                only_missing_outputs=only_missing,
            )
        except Exception as error:
            manager.hook.on_pipeline_error(error=error, **about)
            raise
        manager.hook.after_pipeline_run(run_result=result, **about)
        return ran

    def contents(self):
        """Return what every dataset holds, as plain values."""
        catalog = self.catalog()
        return {name: _values(catalog.load(name)) for name in self.entries}


def _values(data):
    if isinstance(data, pd.DataFrame):
        return data.to_dict()
    if "matrix" in data:
        return np.asarray(data["matrix"]).tolist()
    return {
        **data["config"],
        **{k: torch.Tensor.tolist(v) for k, v in data["tensors"].items()},
    }


@pytest.fixture
def make_project(tmp_path_factory, monkeypatch):
    """Return a function that makes a fresh small project."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make():
        folder = tmp_path_factory.mktemp("toy")
        monkeypatch.syspath_prepend(folder)
        return Project(folder, monkeypatch)

    return make


@pytest.fixture
def project(make_project):
    """A fresh small project in which everything has run once."""
    made = make_project()
    made.run()
    return made
