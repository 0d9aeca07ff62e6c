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
        One line for a shell. Parameters that ``--params`` cannot take, such as texts
        with a comma, are named behind it in a comment.

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
    if pairs := [f"{name}={text}" for name, text in given.items() if text is not None]:
        words += ["--params", ",".join(pairs)]
    command = shlex.join(words)
    if untold := [name for name, text in given.items() if text is None]:
        command += f" # and with {', '.join(untold)} as it was given"
    return command


def _leaves(
    params: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, str | None]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", _told(value)


def _told(value: Any) -> str | None:
    """Write a value as ``--params`` reads it, several words with blanks between.

    None if it cannot take it: it cuts at every comma, also at one within quotes.
    """
    if isinstance(value, list) and len(value) > 1:
        # each a word that is read as itself, such as a path or a number
        words = [str(one) for one in value]
        same = [_told(one) for one in value] == words
        return (
            " ".join(words) if same and all(w.split() == [w] for w in words) else None
        )
    texts = [value] if isinstance(value, str) else []
    for text in (*texts, json.dumps(value, ensure_ascii=False)):
        if "," not in text and _read(text) == {"value": value}:
            return text
    return None


def _read(text: str) -> Any:
    """Return what ``--params`` makes of ``value=<text>``; None where it fails."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}".strip()]))
    except (YAMLError, OmegaConfBaseException):
        return None
