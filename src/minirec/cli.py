"""Commands that look into a run: `kedro trace ...`, and `minirec trace ...` by itself.

Kedro is imported where it is used: it says to stdout which logging it found, by the
folder it was imported in.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.utils import find_kedro_project

from minirec.errors import InputError

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext


def __getattr__(name: str) -> Any:
    """Return Kedro's ``run``, which a packaged project takes from this module."""
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kedro.framework.cli.project import run

    return run


@click.group(name="minirec")
def cli() -> None:
    """Look into what a run of MiniRec has made."""


@cli.group()
def trace() -> None:
    """Follow one thing through every table."""


ENV = click.option("--env", "-e", help="Configuration environment, as of `kedro run`.")


@trace.command()
@click.argument("sample_id", type=int)
@ENV
def sample(sample_id: int, env: str | None) -> None:
    """Print the whole way of one sample.

    History, prompt, rollouts and rewards, scores, why it was kept or pruned, its place
    in the curriculum, the steps that trained on it; of a test sample how each method
    ranked its target.
    """
    with _context(env) as context:
        from minirec.lineage.describe import describe_sample

        text = describe_sample(context.catalog, sample_id, context.env)
    click.echo(text)


@trace.command()
@click.argument("name")
@ENV
def table(name: str, env: str | None) -> None:
    """Print how one table was made, from what, and whether that still holds."""
    with _context(env) as context:
        from minirec.lineage.describe import describe_table

        text = describe_table(context.catalog, name, context.env)
    click.echo(text)


@contextmanager
def _context(env: str | None) -> "Iterator[KedroContext]":
    """Give the context of the project around the working folder."""
    project = find_kedro_project(Path.cwd())
    if project is None:
        raise InputError(
            f"{Path.cwd()} is not in a Kedro project: go to the folder of MiniRec, or "
            "to one below it"
        )
    os.chdir(project)  # where Kedro looks for conf/logging.yml
    with redirect_stdout(sys.stderr):  # the answer alone goes to stdout
        from kedro.config import MissingConfigException
        from kedro.framework.session import KedroSession
        from kedro.framework.startup import bootstrap_project

        bootstrap_project(project)
        try:
            context = KedroSession.create(project, env=env).load_context()
        except MissingConfigException as error:
            raise InputError(str(error)) from error
        yield context
