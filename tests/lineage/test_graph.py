import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from minirec.lineage.content import Hashes
from minirec.lineage.graph import Graph, makers_of


def make_table(execution):
    return 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("execution", [{"execution": {"engine": e}} for e in ("local", "ray")]),
        ("score.memory_gb", [{"score": {"memory_gb": gb}} for gb in (1.0, 2.0)]),
    ],
)
def test_where_and_how_much_at_once_makes_no_table_stale(name, values):
    node = Node(make_table, [f"params:{name}"], "table")
    keys = {
        Graph(DataCatalog(), makers_of([Pipeline([node])]), parameters, Hashes())
        .origin("table")
        .key
        for parameters in values
    }
    assert len(keys) == 1
