"""How a table was made and what became of a sample, as text, and whether it holds."""

import json
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from textwrap import fill
from typing import Any

import pandas as pd
from kedro.io import CatalogProtocol
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from minirec.commands import kedro_run
from minirec.errors import InputError, did_you_mean
from minirec.functions import function_at
from minirec.lineage.graph import Doubt, Graph, is_parameter, listed
from minirec.lineage.project import graph_of, pipelines_of
from minirec.reporting.picks import why_not_chosen
from minirec.reporting.trace import OF_USER, load_tables, trace_sample, trace_user

WIDTH = 80
OF_PARAMS = (
    "If a run with --params made it, name the same --params here, or keep them in "
    "conf/local/parameters.yml: that command goes by conf, and replaces it."
)


def describe_sample(
    catalog: CatalogProtocol,
    sample_id: int,
    env: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> str:
    """Tell one sample's whole way, and which of the tables it stands in are not fresh.

    Parameters
    ----------
    catalog
        Of the project.
    sample_id
        A sample that ``prompts`` holds.
    env, params
        The configuration environment and ``--params``, for the commands that are told.

    Returns
    -------
    str
        `minirec.reporting.trace.trace_sample`, with a note for each doubt.

    Raises
    ------
    InputError
        If no table knows the sample, or one cannot be read.
    """
    tables = load_tables(catalog, env)
    graph = graph_of(catalog)
    notes = _notes(graph, tables, env, params)
    needed = ("candidates", "selection", "embeddings")
    if all(catalog.exists(name) for name in needed) and not graph.doubts(needed):
        strategy = catalog.load("params:select.strategy")
        try:
            reason = why_not_chosen(
                sample_id,
                tables["candidates"],
                tables["selection"],
                catalog.load("embeddings"),
                function_at(strategy, "select.strategy"),
            )
        except InputError as error:
            notes.append(f"Why it was not chosen cannot be said: {error}.")
        else:
            said = f"Not chosen, since {reason}."
            notes[:0] = [fill(said, WIDTH)] if reason else []
    return "\n".join([trace_sample(tables, sample_id, env), *notes])


def describe_user(
    catalog: CatalogProtocol,
    user_id: str,
    env: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> str:
    """List one user's samples, and which of the tables they stand in are not fresh.

    Parameters
    ----------
    catalog, env, params
        As of `describe_sample`.
    user_id
        A user of ``prompts``.

    Returns
    -------
    str
        `minirec.reporting.trace.trace_user`, with a note for each doubt.

    Raises
    ------
    InputError
        As of `describe_sample`.
    """
    tables = load_tables(catalog, env, OF_USER)
    notes = _notes(graph_of(catalog), tables, env, params)
    return "\n".join([trace_user(tables, user_id, env), *notes])


def describe_table(
    catalog: CatalogProtocol,
    name: str,
    env: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> str:
    """Tell how a dataset was made, from what, and whether that still holds.

    Parameters
    ----------
    catalog
        Of the project.
    name
        A dataset that a node makes.
    env, params
        The configuration environment and ``--params``, for the commands that are told.

    Returns
    -------
    str
        At most 80 columns wide: its record, and every dataset before it as a tree,
        those that are not fresh with the reason; ``…`` stands for what is told above.

    Raises
    ------
    InputError
        If no node makes the dataset, or it has not been made.
    """
    graph = graph_of(catalog)
    if name not in graph.makers:
        raise InputError(
            f"no pipeline makes `{name}`: {did_you_mean(name, graph.makers)}There are "
            + ", ".join(graph.makers)
        )
    record = graph.record(name)
    if record is None:
        doubt = graph.doubt(name)
        raise InputError(
            f"{doubt.sentence(name) if doubt else name}: run "
            f"`{_command(pipelines_of(graph, [name]), env, params)}`"
        )
    own = list(_leaves(record.own.params))
    before = [leaf for leaf in _leaves(record.upstream.params) if leaf not in own]
    rows = Table.grid(padding=(0, 2))
    doubt = graph.doubt_whole_way(name)
    state = "is fresh"
    if doubt:
        again = _command(pipelines_of(graph, [name]), env, params)
        state = f"{doubt.all}. Run `{again}`."
        state += f" {OF_PARAMS}" if _of_params(doubt) else ""
    rows.add_row("state", Text(state))
    where = graph.location(name)
    rows.add_row("lies in", Text(where.path if where else ""))
    rows.add_row("made by", f"{record.node} ({record.function})")
    rows.add_row("saved at", f"{record.saved_at} by run {record.run_id}")
    rows.add_row("commit", record.git_commit or "not in a git repository")
    rows.add_row("key", f"{record.key}, content {record.content[:16]}")
    for label, found in (
        ("models", [f"{each} {what}" for each, what in record.models.items()]),
        ("parameters", own),
        ("before it", list(dict.fromkeys(before))),
        ("with", [f"{each} {what}" for each, what in record.versions.items()]),
    ):
        rows.add_row(label, Text(", ".join(found) or "none"))
    console = Console(file=StringIO(), width=WIDTH, highlight=False)
    console.print(Text(name, style="bold"), rows, _tree(graph, name, set()), sep="\n")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def describe_stale(
    lineage: pd.DataFrame, names: Iterable[str], env: str | None = None
) -> str:
    """Say which of some datasets a run would make anew, and by what command.

    Parameters
    ----------
    lineage
        The table of `minirec.datasets.lineage.LineageDataset`.
    names
        Datasets that it has a row for.
    env
        The configuration environment, for the command that is told.

    Returns
    -------
    str
        One sentence; empty if all are fresh.
    """
    state = lineage.set_index("dataset")["state"]
    stale = [name for name in names if state[name] != "is fresh"]
    if not stale:
        return ""
    command = _command(["__default__"], env, None)
    return (
        f"{listed(*stale)} not fresh, and tables may not fit together: `{command}` "
        "makes anew what has to be, by conf without the --params of earlier runs; "
        'catalog.load("lineage") says why.'
    )


def _notes(
    graph: Graph,
    tables: Iterable[str],
    env: str | None,
    params: Mapping[str, Any] | None,
) -> list[str]:
    """Say of each table that is not fresh why, and what makes it so."""
    doubts = graph.doubts(tables)
    notes = [
        f"Note that {doubt.sentence(*names)}. "
        f"Run `{_command(pipelines_of(graph, names), env, params)}`."
        for doubt, names in doubts.items()
    ]
    if any(_of_params(doubt) for doubt in doubts):
        notes.append(OF_PARAMS)
    return notes


def _command(
    pipelines: Iterable[str], env: str | None, params: Mapping[str, Any] | None
) -> str:
    """Return the command that makes anew what is not fresh."""
    settings = {"env": env, "runtime_params": params}
    return kedro_run(pipelines, settings, "--only-missing-outputs")


def _of_params(doubt: Doubt) -> bool:
    return any(why.startswith("params:") for why in doubt.why)


def _tree(graph: Graph, name: str, seen: set[str]) -> Tree:
    tree = Tree(Text(name))
    for each in graph.makers[name].inputs if name in graph.makers else ():
        if is_parameter(each):
            continue
        if each in seen:
            tree.add(Text(f"{each} …"))
            continue
        seen.add(each)
        branch = _tree(graph, each, seen)
        if doubt := graph.doubt(each) if each in graph.makers else None:
            branch.label = Text(f"{each} {doubt.all}")
        tree.add(branch)
    return tree


def _leaves(params: Any, path: str = "") -> Iterator[str]:
    if isinstance(params, dict):
        for name, value in params.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    else:
        yield f"{path.removeprefix('params:')} {json.dumps(params)}"
