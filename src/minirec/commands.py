"""Commands to tell the user, under the settings of the run that tells them."""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf
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
    if pairs := _leaves(run_params["runtime_params"] or {}):
        words += ["--params", ",".join(pairs)]
    return shlex.join(words)


def _leaves(params: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for name, value in params.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{path}{name}.")
        else:
            found.append(f"{path}{name}={_as_read(value)}")
    return found


def _as_read(value: Any) -> str:
    """Write a value as `--params` reads it: null, true, a list's parts with blanks."""
    if isinstance(value, list) and not any(" " in str(one) for one in value):
        return " ".join(map(str, value))
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        same = OmegaConf.from_dotlist([f"text={value}"])["text"] == value
    except YAMLError:
        same = False
    return value if same else json.dumps(value, ensure_ascii=False)
