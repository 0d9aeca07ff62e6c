from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from minirec.lineage.content import Hashes
from minirec.lineage.graph import Graph, makers_of


def make_table(execution):
    return 1


def test_the_engine_of_batches_makes_no_table_stale():
    node = Node(make_table, ["params:execution"], "table")
    keys = {
        Graph(
            DataCatalog(),
            makers_of([Pipeline([node])]),
            {"execution": {"engine": engine}},
            Hashes(),
        )
        .origin("table")
        .key
        for engine in ("local", "ray")
    }
    assert len(keys) == 1
