"""Rebuild what is stale, refuse to read it, and record what is saved."""

import fcntl
import inspect
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from fsspec.implementations.local import LocalFileSystem
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from minirec.commands import kedro_run
from minirec.datasets.atomic import in_the_way
from minirec.datasets.folder import FolderDataset
from minirec.datasets.lineage import LineageDataset
from minirec.errors import InputError
from minirec.lineage import record
from minirec.lineage.code import digest
from minirec.lineage.graph import Graph, listed
from minirec.lineage.project import graph_of, pipelines_of

ONLY_MISSING = "--only-missing-outputs"

logger = logging.getLogger(__name__)


class LineageHook:
    """Keep a record beside every saved dataset, and act on it.

    Before a run, tables that it would read and that are not what their pipelines would
    make now are refused; ``--only-missing-outputs`` makes them anew.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._lock: TextIO | None = None
        self._to_run: list[str] = []
        self._commit: str | None = None
        self._before: dict[str, str | None] = {}
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
            Naming the table, what has changed, and the command that makes it anew; or
            if another run writes the same tables, or a table cannot be written.
        """
        pinned = (run_params["load_versions"] or {}).keys()
        # of a run of this process that was stopped by Ctrl-C Kedro told no hook
        self._end(catalog)
        try:
            graph = self._graph = graph_of(catalog, [pipeline], pinned)
            self._commit, self._reading = record.git_commit(), {}
            self._lock = _lock(graph)
            self._plan(graph, run_params, pipeline)
        except BaseException as error:
            self._end(catalog)
            if isinstance(error, DatasetError):  # an entry that cannot be used
                said = " ".join(str(error).split())
                raise InputError(f"{said} Correct it in the catalog.") from None
            raise

    def _plan(
        self, graph: Graph, run_params: dict[str, Any], pipeline: Pipeline
    ) -> None:
        """Say which outputs will be saved, with what there is of them now."""
        read = [name for name in pipeline.inputs() if graph.is_made(name)]
        _refuse(graph, read, run_params)
        saved = [name for name in pipeline.all_outputs() if graph.location(name)]
        self._to_run = saved
        if run_params["only_missing_outputs"]:
            stale = graph.to_rebuild(pipeline.nodes)
            groups: dict[str, list[str]] = {}
            for name, doubt in stale.items():
                groups.setdefault(doubt.reason, []).append(name)
            for names in groups.values():
                reason = stale[names[0]].reason_of(*names)
                logger.info("%s made anew: %s", listed(*names), reason)
            kept = [name for name in saved if name not in stale]
            logger.info("%d of %d datasets are up to date", len(kept), len(saved))
            read += kept
            self._to_run = list(stale)
            # Kedro's runner asks the catalog alone what is missing.
            vars(graph.catalog)["exists"] = _FreshExists(graph.catalog, set(stale))
        _refuse_unwritable(graph, self._to_run, pipeline)
        self._before = {name: graph.content(name) for name in self._to_run}
        for name in saved:
            graph.origin(name)  # reads the code as it is now, before it can be edited
        if edited := graph.edited():
            raise InputError(
                f"{edited[0]} was edited after this session had loaded it, so that "
                "what would run is not what lies there: restart the kernel, or reload "
                "the project by %reload_kedro"
            )
        _warn_of_versions(graph, read)
        graph.hashes.save()
        for name in graph.makers:
            # Which version is the latest may change while the run goes on.
            if graph.location(name) is not None and name in graph.catalog:
                graph.catalog.release(name)

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: CatalogProtocol, run_id: str | None
    ) -> None:
        """Note what the node reads."""
        if self._graph is not None:
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
        if node.name in self._reading and not inspect.isgeneratorfunction(node.func):
            graph, run_id, contents = self._reading[node.name]
            _record(graph, dataset_name, node, run_id, contents, self._commit)

    @hook_impl(tryfirst=True)
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        """Record what was saved in parts, or in a process that had no hooks.

        Kedro's processes have none where they are spawned.
        """
        graph, run_id = self._graph, run_params["run_id"]
        assert graph is not None
        for node in pipeline.nodes:
            for name in set(node.outputs) & set(self._to_run):
                known = graph.record(name)
                # What has a record of this run was changed after it, by someone else.
                mine = known is None or known.run_id != run_id
                if mine and graph.doubt(name) and self._was_saved(node, name):
                    contents = graph.input_contents(node)
                    _record(graph, name, node, run_id, contents, self._commit)
        self._end(catalog)
        saved = [name for name in pipeline.all_outputs() if graph.location(name)]
        for doubt, names in graph.doubts(sorted(saved)).items():
            logger.warning(
                "%s. Run `%s`.",
                doubt.sentence(*names),
                kedro_run(pipelines_of(graph, names), run_params, ONLY_MISSING),
            )

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self, catalog: CatalogProtocol) -> None:
        """Let the catalog say again what is there."""
        self._end(catalog)

    def _was_saved(self, node: Node, name: str) -> bool:
        """Tell whether the run saved a dataset of which no hook told."""
        assert self._graph is not None
        if node.name in self._reading:
            return inspect.isgeneratorfunction(node.func)
        return self._graph.content(name) != self._before[name] or not self._reading

    def _end(self, catalog: CatalogProtocol) -> None:
        vars(catalog).pop("exists", None)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _lock(graph: Graph) -> TextIO | None:
    """Take the lock of the folder in which the tables lie, for as long as it is open.

    Raises
    ------
    InputError
        If another run has it.
    """
    places = [graph.location(name) for name in graph.makers]
    paths = [
        where.path
        for where in places
        if where and isinstance(where.fs, LocalFileSystem)
    ]
    if graph.hashes.path is None or not paths:
        return None
    folder = os.path.commonpath(paths)
    lock = graph.hashes.path.with_name(f"{digest(folder)}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError:
        return None  # a disk that cannot be written to: nor can another run
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(
            f"another run writes the tables in {folder}: let it end, or give this one "
            "another folder by `data` in globals.yml"
        ) from None
    return file


def _refuse_unwritable(graph: Graph, names: list[str], pipeline: Pipeline) -> None:
    """Raise an `InputError` if a dataset, or what its node keeps, cannot be written."""
    places = {name: graph.location(name, saved=True) for name in names}
    paths = {
        name: Path(where.path)
        for name, where in places.items()
        if where and isinstance(where.fs, LocalFileSystem)
    }
    running = [node for node in pipeline.nodes if set(node.outputs) & places.keys()]
    for each in {each for node in running for each in node.inputs}:
        dataset = graph.catalog.get(each)
        if isinstance(dataset, FolderDataset):
            paths[each] = dataset.folder / "any"
    for name, path in sorted(paths.items()):
        if (folder := in_the_way(path)) is not None:
            raise InputError(
                f"{name} cannot be written: {folder} is no folder that this process "
                "may write to; give it leave to, or name another `data` in globals.yml"
            )


def _refuse(graph: Graph, names: Iterable[str], run_params: Mapping[str, Any]) -> None:
    """Raise an `InputError` if one of the datasets is not to be read."""
    doubts = graph.doubts(sorted(names))
    if not doubts:
        return
    graph.hashes.save()
    said = ". ".join(doubt.sentence(*names) for doubt, names in doubts.items())
    stale = [name for names in doubts.values() for name in names]
    command = kedro_run(pipelines_of(graph, stale), run_params, ONLY_MISSING)
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
    commit: str | None,
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
    made = {each: contents[each] for each in contents if graph.is_made(each)}
    done = record.Record(
        dataset=name,
        content=content,
        input_contents=made,
        models=graph.models(name),
        versions=record.versions(),
        git_commit=commit,
        run_id=run_id,
        saved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **dict(graph.origin_at_save(name)),
    )
    try:
        record.write(where, done)
        graph.hashes.save()
    except OSError as error:
        raise DatasetError(f"{name}: its record cannot be written ({error})") from error
