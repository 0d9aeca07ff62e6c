"""Commands to tell the user, under the settings of the run that tells them."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from minirec.pipeline_registry import APART, ORDER


def kedro_run(
    pipelines: Iterable[str], run_params: Mapping[str, Any], *options: str
) -> str:
    """Return the command that runs pipelines as a run before it did.

    Parameters
    ----------
    pipelines
        Names; one that is neither of `ORDER` nor of `APART` stands for all.
    run_params
        Kedro's, of the run before.
    options
        Further ones, such as ``--only-missing-outputs``.

    Returns
    -------
    str
        One line for a shell. Parameters that hold a comma, which ``--params`` cannot
        take, are named behind it in a comment.

    Examples
    --------
    >>> kedro_run(["score"], {"env": "test", "runtime_params": {"select": {"size": 8}}})
    'kedro run --pipelines score --env test --params select.size=8'
    """
    wanted = set(pipelines)
    words = ["kedro", "run"]
    known = (*ORDER, *APART)
    if wanted <= set(known):
        words += ["--pipelines", ",".join(name for name in known if name in wanted)]
    words += options
    if run_params["env"] not in (None, "local"):
        words += ["--env", run_params["env"]]
    if versions := run_params.get("load_versions"):
        pairs = [f"{name}:{version}" for name, version in versions.items()]
        words += ["--load-versions", ",".join(pairs)]
    given = dict(_leaves(run_params["runtime_params"] or {}))
    # `--params` cuts at every comma, also one within quotes
    if pairs := [f"{name}={text}" for name, text in given.items() if "," not in text]:
        words += ["--params", ",".join(pairs)]
    command = shlex.join(words)
    if untold := [name for name, text in given.items() if "," in text]:
        command += f" # and with {', '.join(untold)} as it was given"
    return command


def _leaves(params: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", _as_read(value)


def _as_read(value: Any) -> str:
    """Write a value as ``--params`` reads it: null, true, several with blanks between."""
    if isinstance(value, list) and len(value) > 1 and all(map(_is_word, value)):
        return " ".join(map(str, value))
    if isinstance(value, str) and _is_read_back(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _is_word(value: Any) -> bool:
    if isinstance(value, str):
        return value.split() == [value] and _is_read_back(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_read_back(text: str) -> bool:
    """Tell whether a text without quotes is read as itself, and not as a number."""
    try:
        return bool(OmegaConf.from_dotlist([f"text={text}"])["text"] == text)
    except (YAMLError, OmegaConfBaseException):
        return False
