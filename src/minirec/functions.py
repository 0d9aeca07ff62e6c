"""Plain functions named in parameters by their dotted path."""

import pkgutil
from collections.abc import Callable
from typing import Any

from minirec.errors import InputError


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
            f"{parameter} is {path!r}, which cannot be imported ({error}): give the "
            "dotted path of a function, such as package.module.function; a module of "
            "your own lies in src/"
        ) from error
    if not callable(found):
        raise InputError(
            f"{parameter} is {path!r}, which is a {type(found).__name__} and no "
            "function: give the dotted path of a function"
        )
    return found
