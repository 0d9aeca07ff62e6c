"""What happens around every run: each node's cost is kept, a summary is printed."""

import atexit
import errno
import inspect
import logging
import os
import resource
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
from fsspec.implementations.local import LocalFileSystem
from ibis.common.exceptions import IbisError
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DataCatalog, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from omegaconf import OmegaConf
from rich.console import Console

from minirec.commands import kedro_run
from minirec.costs import Costs, counting
from minirec.datasets.table import TableDataset
from minirec.errors import InputError
from minirec.lineage.record import location, read
from minirec.parameters import Parameters, check_arms, check_parameters, try_choices
from minirec.pipeline_registry import ORDER, pipeline_of
from minirec.reporting import experiment, summary

# what makes `kedro run` take a part of a pipeline
PARTS = (
    "tags",
    "from_nodes",
    "to_nodes",
    "node_names",
    "from_inputs",
    "to_outputs",
    "namespaces",
)

# the tables that say how much was done
WORK = ("rollouts", "rewards", "consumed", "rankings")

# what to read when a pipeline has run that no other follows
GUIDES = {"export": "docs/export.md", "experiment": "docs/experiment.md"}

# a full disk, a quota, a limit of a file's size, a read-only disk
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

logger = logging.getLogger(__name__)


def peak_memory_gb() -> float:
    """Return the most memory that this process has held so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class InputHook:
    """Say what was wrong with the input in one sentence."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters, whichever pipeline runs, and hand on what was checked.

        Kedro itself would leave numbers as they were written, and refuses a group that
        one node takes whole and another in part, if it meets the whole one first.
        """
        given = context.config_loader["parameters"]
        self.checked: Parameters = check_parameters(given)
        arms = self.checked.experiment
        if arms.data is None:
            name = name_of(context.config_loader["catalog"].get("raw_interactions", {}))
            named = arms.model_copy(update={"data": name})
            self.checked = self.checked.model_copy(update={"experiment": named})
        context.config_loader["parameters"] = {**given, **dict(self.checked)}
        _tell_what_is_left_out(context)
        # Tables of one's own lie in the engine of all others, unless they say otherwise.
        engine = context.config_loader["globals"].get("connection")
        if engine:
            TableDataset.DEFAULT_CONNECTION_CONFIG = engine

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline
    ) -> None:
        """Refuse to be one of several processes that would all write the same tables.

        Check every arm of an experiment, if one runs, and before scoring try what
        chooses of its scores. Import transformers before several threads do at once:
        one would fail.
        """
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes != "1":
            raise InputError(
                f"this is one of {processes} processes that a launcher started "
                "(WORLD_SIZE), and each would write the same tables: run `kedro run` "
                "alone, with execution.accelerate: {num_processes: "
                f"{processes}}}; if the variable means something else, unset it"
            )
        parts = set().union(*(node.tags for node in pipeline.nodes))
        if "experiment" in parts:
            check_arms(self.checked)
        elif "score" in parts:
            try_choices(self.checked)
        if "ThreadRunner" in run_params["runner"]:
            import transformers  # noqa: F401

    @hook_impl(trylast=True)  # after CostHook, which saves what had finished
    def on_pipeline_error(self, error: Exception) -> None:
        """Raise an `InputError` for what a dataset refused, or a node's own."""
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        root = chain[-1]
        if isinstance(root, InputError):
            raise root from None
        if all(isinstance(link, DatasetError) for link in chain):
            raise InputError(str(error)) from None
        if isinstance(root, IbisError) and "Multiple backends" in str(root):
            raise InputError(
                "tables that a node joins are read by different connections: leave "
                "`connection` out of your catalog entries, or give all of them the same"
            ) from None
        # each engine wraps what the system said in an error of its own
        if any(os.strerror(number) in str(root) for number in NO_ROOM):
            name = "a file"
            if isinstance(error, DatasetError):
                name = str(error).partition(":")[0]
            elif isinstance(root, OSError) and root.filename:
                name = str(root.filename)
            said = root.strerror if isinstance(root, OSError) else root
            raise InputError(
                f"{name} cannot be written ({said}): make room, or let `data` in "
                "globals.yml name another folder; what had finished is kept, and the "
                "same `kedro run` with --only-missing-outputs goes on behind it"
            ) from None


def name_of(histories: Mapping[str, Any]) -> str:
    """Return what to call the data, by the entry of its histories in the catalog.

    Examples
    --------
    >>> name_of({"filepath": "data/01_raw/orders.csv"})
    'data/01_raw/orders.csv'
    >>> name_of({"filepath": "orders.csv", "metadata": {"name": "Our shop"}})
    'Our shop'
    """
    metadata = histories.get("metadata") or {}
    given = (metadata.get("name"), histories.get("filepath"), histories.get("package"))
    return next((str(name) for name in given if name), "raw_interactions")


def _tell_what_is_left_out(context: KedroContext) -> None:
    """Say that an environment takes the place of conf/local, if that holds something.

    Raises
    ------
    InputError
        If conf/local has a catalog, and the environment's tables would replace those
        that were made with it.
    """
    loader: Any = context.config_loader
    conf = Path(loader.conf_source)
    local = conf / "local"
    if context.env in (None, "local") or not _config_files(local, "**/*"):
        return
    data = OmegaConf.load(conf / "base" / "globals.yml").data
    tables = [
        each
        for pattern in loader.config_patterns["catalog"]
        for each in _config_files(local, pattern)
    ]
    if tables and loader["globals"]["data"] == data:
        raise InputError(
            f"conf/local has a catalog, which --env {context.env} does not read, and "
            f"the tables of both lie in {data}: leave --env out and copy what you need "
            f"of conf/{context.env} into conf/local, or name another `data` in "
            f"conf/{context.env}/globals.yml"
        )
    logger.warning("conf/local is not read: --env %s takes its place", context.env)


def _config_files(folder: Path, pattern: str) -> list[str]:
    """Return the files that Kedro's configuration loader finds by a pattern of its."""
    found = LocalFileSystem().glob(f"{folder.as_posix()}/{pattern}")
    return [path for path in found if path.endswith((".yml", ".yaml", ".json"))]


class CostHook:
    """Say which node runs; keep what it cost in the table ``costs``, if there is one.

    A node's seconds include loading its inputs and saving its outputs: tables of Ibis
    are computed while they are saved. What its models did is counted by
    `minirec.costs`, in the processes of Ray, too. The row of a node that runs again
    replaces its former one, so that the table covers every pipeline, whichever ran
    last. A run that fails or is stopped keeps what had finished. A node that reads the
    table is given what there is of it by then.
    """

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._costs: dict[str, Costs] = {}
        self._counting: dict[str, ExitStack] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._running: CatalogProtocol | None = None
        self._ran = False  # whether a node has begun, which may keep what it finishes
        # of a run that is stopped by Ctrl-C Kedro tells no hook
        atexit.register(self._save_stopped)

    @hook_impl
    def before_pipeline_run(self, catalog: CatalogProtocol) -> None:
        """Forget the last run of this process, once its costs are saved."""
        self._save_stopped()
        self._running, self._ran = catalog, False
        for stack in self._counting.values():  # of nodes that failed, or save in parts
            stack.close()
        for known in (self._started, self._costs, self._counting, self._rows):
            known.clear()

    @hook_impl
    def before_dataset_loaded(self, node: Node) -> None:
        """Start the clock at the first input."""
        self._start(node)

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: CatalogProtocol
    ) -> dict[str, Any] | None:
        """Count what the node's models do; tell it what others took so far.

        It is here that Kedro is in the thread in which the node runs.
        """
        self._start(node)
        self._counting[node.name] = stack = ExitStack()
        self._costs[node.name] = stack.enter_context(counting())
        self._ran = True
        return {"costs": self._so_far(catalog)} if "costs" in node.inputs else None

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Count no longer, unless the node is a generator, whose work comes now."""
        if not inspect.isgeneratorfunction(node.func):
            self._counting.pop(node.name).close()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Stop the clock at the last output; a generator's at its last part."""
        if dataset_name == node.outputs[-1]:
            self._rows[node.name] = {
                "pipeline": pipeline_of(node),
                "node": node.name,
                "datasets": ", ".join(node.outputs),
                "seconds": round(perf_counter() - self._started[node.name], 3),
                "peak_memory_gb": round(peak_memory_gb(), 3),
                **asdict(self._costs[node.name]),
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }

    @hook_impl
    def after_pipeline_run(self, catalog: CatalogProtocol) -> None:
        """Save the costs."""
        self._save(catalog)

    @hook_impl
    def on_pipeline_error(
        self, catalog: CatalogProtocol, run_params: dict[str, Any]
    ) -> None:
        """Say how to go on, and save the costs of what finished.

        If that fails too, the first error counts.
        """
        # processes of ParallelRunner have hooks of their own
        if self._ran or "Parallel" in run_params["runner"]:
            logger.info(
                "What had finished is kept: once what is told below is mended, the "
                "same `kedro run` with --only-missing-outputs goes on behind it"
            )
        self._running = catalog
        self._save_stopped()

    def _start(self, node: Node) -> None:
        if node.name not in self._started:
            self._started[node.name] = perf_counter()
            logger.info("%s: %s", pipeline_of(node), node.name)

    def _save_stopped(self) -> None:
        """Save the costs of a run that did not reach its end, if there is one."""
        if self._running is None:
            return
        try:
            self._save(self._running)
        except DatasetError as error:
            logger.warning("costs of what had finished are not kept: %s", error)

    def _save(self, catalog: CatalogProtocol) -> None:
        self._running = None
        if self._rows and "costs" in catalog:
            catalog.save("costs", self._so_far(catalog))

    def _so_far(self, catalog: CatalogProtocol) -> pd.DataFrame:
        """Return the costs of every node, of those that finished in this run its own."""
        known = catalog["costs"].load() if catalog.exists("costs") else pd.DataFrame()
        if not self._rows:
            return known
        costs = pd.DataFrame(list(self._rows.values()))
        columns = costs.columns
        # what another version kept has other columns, and its rows go
        if set(known.columns) == set(columns):
            costs = pd.concat([known, costs], ignore_index=True)
        # Each node keeps the place of its first row and the values of its last: of a
        # stopped run they may be saved after those of a later one, as a kernel ends.
        order = costs["node"].drop_duplicates()
        costs = costs.sort_values("finished_at", kind="stable")
        costs = costs.groupby("node", as_index=False).last(skipna=False)
        return costs.set_index("node").loc[order].reset_index()[columns]


class SummaryHook:
    """Print what a run found, what it wrote and what comes next."""

    @hook_impl(trylast=True)  # after CostHook, whose table it reads
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Print to stdout, at most 80 characters wide."""
        console = Console(highlight=False)
        console.width = min(console.width, 80)
        paths = paths_of(catalog, Path(run_params["project_path"]))
        if "metrics" in pipeline.all_outputs():
            # processes of ParallelRunner keep no costs: those there are another run's
            counted = "Parallel" not in run_params["runner"] and catalog.exists("costs")
            costs = catalog.load("costs") if counted else None
            if costs is not None:  # of the way here alone
                costs = costs[costs["pipeline"].isin(ORDER)]
            metrics = catalog.load("metrics")
            console.print(summary.metrics_table(metrics))
            if "comparisons" in catalog and catalog.exists("comparisons"):
                last = summary.first_metrics(metrics)[-1]
                compared = catalog.load("comparisons")
                console.print(summary.comparison_table(compared, last))
            if "candidates" in pipeline.all_outputs() & paths.keys():
                console.print(summary.pruning_table(catalog.load("candidates")))
            if all(name in catalog and catalog.exists(name) for name in WORK):
                probe = catalog.load("params:score.probe")
                most = probe.rollouts if probe.adaptive else None
                tables = {name: catalog.load(name) for name in WORK}
                console.print(summary.work_table(**tables, most=most))
            if "report" not in pipeline.all_outputs():
                paths.pop("report", None)
            console.print(summary.places_table(paths, costs, run_params["env"]))
        else:
            written = pipeline.all_outputs() & paths.keys()
            if run_params["only_missing_outputs"]:
                written = {n for n in written if saved_by(run_params, catalog, n)}
            if "experiment_metrics" in written:
                found = ("experiment_metrics", "experiment_comparisons")
                results = [catalog.load(n) for n in (*found, "experiment_runs")]
                console.print(experiment.summary_table(*results))
                console.print(f"report  {paths['experiment_report']}")
            if "candidates" in written:
                console.print(summary.pruning_table(catalog.load("candidates")))
            after, step = following(run_params), guide(run_params)
            if step is None and after:
                step = kedro_run([after], run_params)
            line = summary.what_comes_next(sorted(written), step)
            console.print(line, soft_wrap=True)


def paths_of(catalog: DataCatalog, project: Path) -> dict[str, str]:
    """Return the path of every dataset that has one, relative to the project."""
    config, *_ = catalog.to_config()
    paths = {name: entry.get("filepath") for name, entry in config.items()}
    return {
        name: str(path).removeprefix(f"{project.as_posix()}/")
        for name, path in paths.items()
        if path
    }


def saved_by(run_params: dict[str, Any], catalog: DataCatalog, name: str) -> bool:
    """Tell whether this run saved a dataset, in whichever process."""
    where = location(catalog[name])
    record = where and read(where)
    return record is not None and record.run_id == run_params["run_id"]


def following(run_params: dict[str, Any]) -> str | None:
    """Return the pipeline after the last that ran whole; None if there is none."""
    names = [name for name in ORDER if name in (run_params["pipeline_names"] or ())]
    if not names or any(run_params[part] for part in PARTS):
        return None
    return dict(pairwise(ORDER)).get(names[-1])


def guide(run_params: dict[str, Any]) -> str | None:
    """Return what to read about what a run made; None if there is nothing."""
    names = run_params["pipeline_names"] or ()
    return next((GUIDES[name] for name in names if name in GUIDES), None)
