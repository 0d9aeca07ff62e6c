"""The one error that MiniRec raises on bad input."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from click import ClickException
from pydantic_core import ErrorDetails


class InputError(ClickException, ValueError):
    """What was given cannot be used; the message says what, where and the way out.

    As a ``ClickException``, ``kedro run`` prints it as one line, without a traceback.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question for the nearest known name, or nothing if none is near.

    Examples
    --------
    >>> did_you_mean("slect", ["score", "select"])
    'did you mean select? '
    >>> did_you_mean("anything", ["score", "select"])
    ''
    """
    near = get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}? " if near else ""


def what_is_wrong(place: Iterable[str | int], error: ErrorDetails) -> str:
    """Return the sentence for a value that pydantic refuses, in the words of a user.

    Parameters
    ----------
    place
        The names that lead to the value, as its file has them.
    error
        One of ``ValidationError.errors()``.

    Examples
    --------
    >>> from pydantic import TypeAdapter, ValidationError
    >>> try:
    ...     TypeAdapter(int).validate_python("x")
    ... except ValidationError as error:
    ...     print(what_is_wrong(["select", "size"], error.errors()[0]))
    select.size should be a valid integer (given 'x')
    """
    name = ".".join(str(one) for one in place if not _is_type(one))
    if error["type"] == "missing":
        return f"{name} is missing"
    given = f"(given {error['input']!r})"
    if error["type"] == "extra_forbidden":
        return f"{name} is unknown {given}"
    said = error["msg"].partition(", unable to parse")[0]
    said = said.replace(" after validation", "")
    if said.startswith("Input should"):
        return f"{name} {said.removeprefix('Input ')} {given}"
    return f"{name}: {said} {given}"


def _is_type(place: str | int) -> bool:
    """Tell whether pydantic speaks of one of several types there, not of a name."""
    return isinstance(place, str) and ("[" in place or place in ("str", "int", "float"))


@contextmanager
def loading(parameter: str, model: dict[str, str]) -> Iterator[None]:
    """Say in one sentence which model could not be loaded, and why.

    Parameters
    ----------
    parameter
        ``policy_model`` or ``encoder_model``.
    model
        Keyword arguments of ``from_pretrained``; none if there is no model.
    """
    if not model:
        raise InputError(
            f"{parameter} is null in globals.yml, which the policy.kind item_tokens "
            "alone can do without: name one, or run with --env item_tokens"
        )
    try:
        yield
    except (OSError, ValueError) as error:
        name = model["pretrained_model_name_or_path"]
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{parameter} {name} cannot be loaded ({first}): check the name, the "
            "revision and the network, or name a folder, in globals.yml or by "
            f"--params {parameter}=..."
        ) from error
