"""The graph of this project."""

from collections.abc import Iterable

from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from minirec.datasets.lineage import LineageDataset
from minirec.errors import InputError
from minirec.lineage.content import Hashes
from minirec.lineage.graph import Graph, makers_of
from minirec.parameters import plain_parameters
from minirec.pipeline_registry import pipeline_of


def graph_of(
    catalog: CatalogProtocol,
    running: Iterable[Pipeline] = (),
    pinned: Iterable[str] = (),
) -> Graph:
    """Return the graph of all registered pipelines on a catalog.

    Parameters
    ----------
    catalog
        Of the project.
    running
        Pipelines whose nodes come first, where several make the same dataset.
    pinned
        Datasets of which the user asked for a certain version.

    Raises
    ------
    InputError
        If a pipeline cannot be imported: what tables are made of is not known then.
    """
    # A run of one pipeline registers no other.
    pipelines.set_requested(None)
    try:
        pipelines.values()
    except ImportError as error:
        raise InputError(
            f"{error} ({error.__cause__}): mend it or take it away, since without it "
            "what tables are made of is not known"
        ) from error
    dataset = catalog.get("lineage")
    return Graph(
        catalog,
        makers_of([*running, pipelines["__default__"], *pipelines.values()]),
        plain_parameters(catalog["parameters"].load()),
        dataset.hashes if isinstance(dataset, LineageDataset) else Hashes(),
        frozenset(pinned),
    )


def pipelines_of(graph: Graph, names: Iterable[str]) -> set[str]:
    """Return the pipelines that have to run for the datasets to be fresh."""
    stale = graph.to_rebuild(graph.way_to(names))
    return {pipeline_of(graph.maker(name)) for name in stale}
