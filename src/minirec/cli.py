"""Commands that look into a run: `kedro trace ...`, and `minirec trace ...` by itself.

Beside them ``kedro run``, which tells slips of its command line in one sentence. Kedro
is imported where it is used: it says to stdout which logging it found, by the folder it
was imported in.
"""

import copy
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import click
from kedro.utils import find_kedro_project

from minirec.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext


def __getattr__(name: str) -> Any:
    """Return Kedro's ``run``, which a packaged project takes from this module."""
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _run()


class _Commands(click.Group):
    """Our own commands; and to Kedro, which asks for it, its ``run``.

    A plugin that brings a ``run`` of its own would not be asked.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "run" and ctx.command is not self:
            return _run()
        return super().get_command(ctx, cmd_name)


@click.group(name="minirec", cls=_Commands)
def cli() -> None:
    """Look into what a run of MiniRec has made."""


@cli.group()
def trace() -> None:
    """Follow one thing through every table."""


MISSING = "--only-missing-outputs"
ENV = click.option("--env", "-e", help="Configuration environment, as of `kedro run`.")
PARAMS = click.option(
    "--params", default="", help="Those that the run was given, as of `kedro run`."
)


@trace.command()
@click.argument("sample_id", type=int)
@ENV
@PARAMS
def sample(sample_id: int, env: str | None, params: str) -> None:
    """Print the whole way of one sample.

    History, prompt, rollouts and rewards, scores, why it was kept or pruned, its place
    in the curriculum, the steps that trained on it; of a test sample how each method
    ranked its target.
    """
    with _context(env, params) as (context, given):
        from minirec.lineage.describe import describe_sample

        text = describe_sample(context.catalog, sample_id, context.env, given)
    click.echo(text)


@trace.command()
@click.argument("user_id")
@ENV
@PARAMS
def user(user_id: str, env: str | None, params: str) -> None:
    """List the samples of one user, and which of them were chosen."""
    with _context(env, params) as (context, given):
        from minirec.lineage.describe import describe_user

        text = describe_user(context.catalog, user_id, context.env, given)
    click.echo(text)


@trace.command()
@click.argument("name")
@ENV
@PARAMS
def table(name: str, env: str | None, params: str) -> None:
    """Print how one table was made, from what, and whether that still holds."""
    with _context(env, params) as (context, given):
        from minirec.lineage.describe import describe_table

        text = describe_table(context.catalog, name, context.env, given)
    click.echo(text)


@contextmanager
def _context(
    env: str | None, params: str
) -> "Iterator[tuple[KedroContext, dict[str, Any]]]":
    """Give the context of the project around the working folder, and the parameters."""
    project = find_kedro_project(Path.cwd())
    if project is None:
        raise InputError(
            f"{Path.cwd()} is not in a Kedro project: go to the folder of MiniRec, or "
            "to one below it"
        )
    os.chdir(project)  # where Kedro looks for conf/logging.yml
    with redirect_stdout(sys.stderr):  # the answer alone goes to stdout
        from kedro.config import MissingConfigException
        from kedro.framework.cli.utils import _split_params
        from kedro.framework.session import KedroSession
        from kedro.framework.startup import bootstrap_project

        bootstrap_project(project)
        command = click.get_current_context()
        (option,) = (p for p in command.command.params if p.name == "params")
        given = _split_params(command, option, params)
        try:
            session = KedroSession.create(project, env=env, runtime_params=given)
            context = session.load_context()
        except MissingConfigException as error:
            raise _not_there(env, error) from error
        yield context, given


def _run() -> click.Command:
    """Return Kedro's ``run`` with slips told in one sentence."""
    from kedro.framework.cli.project import run

    command = copy.copy(run)
    assert run.callback is not None
    command.callback = _in_a_sentence(run.callback)
    return command


def _in_a_sentence(run: Callable[..., Any]) -> Callable[..., Any]:
    from kedro.config import MissingConfigException
    from yaml.parser import ParserError

    @wraps(run)
    def told(**options: Any) -> Any:
        try:
            return run(**options)
        except KeyboardInterrupt:
            click.echo(
                f"Stopped. What had finished is kept: `{_going_on()}` goes on behind it.",
                err=True,
            )
            raise
        except MissingConfigException as error:
            conf = options["conf_source"] or "conf"
            raise _not_there(options["env"], error, conf) from error
        except ParserError as error:
            raise InputError(
                f"{error} Check colons, brackets and indentation there"
            ) from error
        except (ImportError, ValueError) as error:
            if slip := _slip(options, error):
                raise InputError(slip) from error
            raise

    return told


def _going_on() -> str:
    """Return this command with what lets it go on, also where `make` had called it."""
    name, *given = sys.argv
    path = Path(name).absolute()
    more = [] if MISSING in given else [MISSING]
    if path.name == "__main__.py":
        return shlex.join(["python", "-m", path.parent.name, *given, *more])
    if shutil.which(path.name) == str(path):
        path = Path(path.name)
    elif path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.join([str(path), *given, *more])


def _slip(options: Mapping[str, Any], error: Exception) -> str | None:
    """Return what is wrong with a name that was given, if that is what the error is."""
    import minirec.pipelines as parts

    known = [module.name for module in iter_modules(parts.__path__) if module.ispkg]
    wanted = [*options["pipelines"], options["pipeline"]]
    for name in (name for name in wanted if name and name not in known):
        if f"{parts.__name__}.{name}'" in str(error):
            return f"--pipelines {_unknown(name, known)}"
    # as Kedro's own errors begin that name nodes, tags or tables
    if isinstance(error, InputError) or not str(error).startswith("Pipeline "):
        return None
    said = str(error).partition(". ")[0].rstrip(".")
    return (
        f"{said}: `kedro registry describe NAME` lists a pipeline's nodes, `kedro "
        "catalog describe-datasets` the datasets"
    )


def _not_there(env: str | None, error: Exception, source: str = "conf") -> InputError:
    """Return the error of an environment without a folder, or else what was missing."""
    conf = Path(source)
    if env is None or not conf.is_dir() or (conf / env).is_dir():
        return InputError(str(error))
    known = sorted(each.name for each in conf.iterdir() if any(each.glob("*.yml")))
    return InputError(f"--env {_unknown(env, known)}")


def _unknown(name: str, known: list[str]) -> str:
    return f"{name} is unknown: {did_you_mean(name, known)}There are {', '.join(known)}"
