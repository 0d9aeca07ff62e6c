"""Plain functions named in parameters by their dotted path."""

import pkgutil
from collections.abc import Callable
from inspect import unwrap
from pathlib import Path
from traceback import extract_tb
from typing import Any

from minirec.errors import InputError, did_you_mean

# where those lie that come with MiniRec, by the parameter that names one
OWN = {
    "select.strategy": "minirec.selection.strategies",
    "select.compare": "minirec.selection.strategies",
    "select.curriculum.order": "minirec.selection.curriculum",
    "ranking.reward": "minirec.ranking.rewards",
}


def function_at(path: str, parameter: str) -> Callable[..., Any]:
    """Return the function at a dotted path.

    Parameters
    ----------
    path
        Module and name, such as ``minirec.ranking.metrics.ndcg``.
    parameter
        Full path of the parameter that names it, for messages.

    Raises
    ------
    InputError
        If the path cannot be imported, or leads to what cannot be called.

    Examples
    --------
    >>> float(function_at("minirec.ranking.metrics.ndcg", "ranking.reward")(0, k=10))
    1.0
    """
    try:
        found = pkgutil.resolve_name(path)
    except SyntaxError as error:
        raise InputError(
            f"{parameter} is {path!r}, which cannot be imported: {error.filename}, line "
            f"{error.lineno}: {error.msg}"
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{parameter} is {path!r}, which cannot be imported ({error}): "
            f"{_meant(path, parameter)}give the dotted path of a function, such as "
            "package.module.function; a module of your own lies in src/"
        ) from error
    if not callable(found):
        raise InputError(
            f"{parameter} is {path!r}, which is a {type(found).__name__} and no "
            f"function: {_meant(path, parameter)}give the dotted path of a function"
        )
    return found


def call(function: Callable[..., Any], name: str, *args: Any) -> Any:
    """Call a function that a parameter names; of one's own say in a sentence how it fails.

    Parameters
    ----------
    function
        As of `function_at`.
    name
        The parameter and the function's path, for messages.
    args
        What it takes.

    Raises
    ------
    InputError
        If a function fails that is not MiniRec's: its error, and where that arose.
    """
    try:
        return function(*args)
    except InputError:
        raise
    except Exception as error:  # whatever a function of the user's own may raise
        if is_ours(function):
            raise
        raise InputError(
            f"{name} failed: {type(error).__name__}: {error}{where(error, function)}"
        ) from error


def is_ours(function: Callable[..., Any]) -> bool:
    """Tell whether a function is MiniRec's, and not one's own or another package's.

    Parameters
    ----------
    function
        As of `function_at`.
    """
    return (getattr(function, "__module__", None) or "").startswith("minirec.")


def where(error: Exception, function: Callable[..., Any]) -> str:
    """Say in which line of a function's own file an error arose; "" if in none.

    Parameters
    ----------
    error
        As it was caught.
    function
        That was called, or any object.
    """
    own = unwrap(function)
    file = getattr(getattr(own, "__code__", None), "co_filename", None)
    frames = extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f" ({Path(file).name}, line {lines[-1]})" if file and lines else ""


def _meant(path: str, parameter: str) -> str:
    """Return a question for the one of MiniRec's own functions that may be meant."""
    module = OWN.get(parameter)
    # of a module of one's own that breaks nothing of ours is meant
    if module is None or ("." in path and not path.startswith("minirec.")):
        return ""
    known = vars(pkgutil.resolve_name(module))
    named = [
        name
        for name, found in known.items()
        if callable(found)
        and not name.startswith("_")
        and getattr(found, "__module__", "") == module
    ]
    near = did_you_mean(path.rpartition(".")[2], named)
    return near and near.replace("mean ", f"mean {module}.") + "Or "
