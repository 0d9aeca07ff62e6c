"""The examples in docstrings run and say what comes out."""

import doctest
import importlib
import pkgutil

import pytest

from minirec import ranking, selection

PACKAGES = [selection, ranking]
MODULES = ["minirec.functions"] + [
    f"{package.__name__}.{module.name}"
    for package in PACKAGES
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_metric_has_an_example():
    metrics = importlib.import_module("minirec.ranking.metrics")
    examples = {
        test.name: test.examples for test in doctest.DocTestFinder().find(metrics)
    }
    for function in ("hit_ratio", "ndcg"):
        assert examples[f"minirec.ranking.metrics.{function}"]
