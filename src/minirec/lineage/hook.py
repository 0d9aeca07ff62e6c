"""Rebuild what is stale, refuse to read it, and record what is saved."""

import inspect
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from minirec.commands import kedro_run
from minirec.datasets.lineage import LineageDataset
from minirec.errors import InputError
from minirec.lineage import record
from minirec.lineage.graph import Graph
from minirec.lineage.project import graph_of
from minirec.pipeline_registry import pipeline_of

logger = logging.getLogger(__name__)


class LineageHook:
    """Keep a record beside every saved dataset, and act on it.

    Before a run, tables that it would read and that are not what their pipelines would
    make now are refused; ``--only-missing-outputs`` makes them anew.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._reading: dict[str, tuple[Graph, str | None, dict[str, str]]] = {}

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol) -> None:
        """Let the table ``lineage`` see the other datasets."""
        dataset = catalog.get("lineage")
        if isinstance(dataset, LineageDataset):
            dataset.catalog = catalog

    @hook_impl(tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        """Refuse stale inputs, and count stale outputs as missing where asked to.

        Raises
        ------
        InputError
            Naming the table, what has changed, and the command that makes it anew.
        """
        pinned = (run_params["load_versions"] or {}).keys()
        graph = self._graph = graph_of(catalog, [pipeline], pinned)
        read = [name for name in pipeline.inputs() if name in graph.makers]
        _refuse(graph, read, run_params)
        if run_params["only_missing_outputs"]:
            stale = graph.to_rebuild(pipeline.nodes)
            for name, doubt in stale.items():
                logger.info("%s is made anew: %s", name, doubt.reason)
            saved = [name for name in pipeline.all_outputs() if graph.location(name)]
            kept = [name for name in saved if name not in stale]
            logger.info("%d of %d datasets are up to date", len(kept), len(saved))
            read += kept
            # Kedro's runner asks the catalog alone what is missing.
            vars(catalog)["exists"] = _FreshExists(catalog, set(stale))
        _warn_of_versions(graph, read)
        graph.hashes.save()
        for name in graph.makers:
            # Which version is the latest may change while the run goes on.
            if graph.location(name) is not None:
                catalog.release(name)

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: CatalogProtocol, run_id: str | None
    ) -> None:
        """Note what the node reads."""
        if self._graph is None:  # in a process of its own that was spawned
            self._graph = graph_of(catalog)
        graph = self._graph.on(catalog)
        self._reading[node.name] = (graph, run_id, graph.input_contents(node))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Write the dataset's record.

        Raises
        ------
        InputError
            If an input changed while the node ran.
        """
        # A generator's node saves in parts and says not which is the last.
        if not inspect.isgeneratorfunction(node.func):
            graph, run_id, contents = self._reading[node.name]
            _record(graph, dataset_name, node, run_id, contents)

    @hook_impl(tryfirst=True)
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        """Record what was saved in parts, or in a process that had no hooks.

        Kedro's processes have none where KEDRO_MP_CONTEXT asks for another way to start
        them than the system's.
        """
        vars(catalog).pop("exists", None)
        assert self._graph is not None
        graph, run_id = self._graph, run_params["run_id"]
        for node in pipeline.nodes:
            for name in node.outputs:
                if graph.location(name) is None or graph.doubt(name) is None:
                    continue
                # What has a record of this run was changed after it, by someone else.
                known = graph.record(name)
                if known is None or known.run_id != run_id:
                    _record(graph, name, node, run_id, graph.input_contents(node))

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self, catalog: CatalogProtocol) -> None:
        """Let the catalog say again what is there."""
        vars(catalog).pop("exists", None)


def _refuse(graph: Graph, names: Iterable[str], run_params: Mapping[str, Any]) -> None:
    """Raise an `InputError` if one of the datasets is not to be read."""
    doubts = graph.doubts(sorted(names))
    if not doubts:
        return
    graph.hashes.save()
    said = ". ".join(doubt.sentence(*names) for doubt, names in doubts.items())
    way = graph.way_to(name for names in doubts.values() for name in names)
    needed = {pipeline_of(graph.makers[name]) for name in graph.to_rebuild(way)}
    command = kedro_run(needed, run_params, "--only-missing-outputs")
    raise InputError(f"{said}. Run `{command}`.")


def _warn_of_versions(graph: Graph, names: Iterable[str]) -> None:
    """Say which other versions of packages made the datasets, which stay all the same."""
    now = record.versions()
    older = {
        f"{package} {version}"
        for name in names
        if (made := graph.record(name))
        for package, version in made.versions.items()
        if now.get(package) != version
    }
    if older:
        logger.warning(
            "Some tables were made with %s and are read all the same: delete them to "
            "have them made with what is installed now",
            ", ".join(sorted(older)),
        )


class _FreshExists:
    """``catalog.exists`` that counts stale datasets as missing.

    A class, since `ParallelRunner` pickles the catalog with it.
    """

    def __init__(self, catalog: CatalogProtocol, stale: set[str]) -> None:
        self._catalog = catalog
        self._stale = stale

    def __call__(self, ds_name: str) -> bool:
        exists = type(self._catalog).exists
        return ds_name not in self._stale and exists(self._catalog, ds_name)


def _record(
    graph: Graph,
    name: str,
    node: Node,
    run_id: str | None,
    contents: dict[str, str],
) -> None:
    where = graph.location(name, saved=True)
    content = graph.content(name, saved=True)
    if where is None or content is None:
        return
    now = graph.input_contents(node)
    if changed := [each for each in contents if contents[each] != now.get(each)]:
        raise InputError(
            f"`{changed[0]}` was changed while {node.name} read it, so that what "
            f"`{name}` was made from is not known: let no other run write the same "
            "tables, and run this one again with --only-missing-outputs"
        )
    made = {each: contents[each] for each in contents if each in graph.makers}
    done = record.Record(
        dataset=name,
        content=content,
        input_contents=made,
        models=graph.models(name),
        versions=record.versions(),
        git_commit=record.git_commit(),
        run_id=run_id,
        saved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **dict(graph.origin_at_save(name)),
    )
    try:
        record.write(where, done)
        graph.hashes.save()
    except OSError as error:
        raise DatasetError(f"{name}: its record cannot be written ({error})") from error
