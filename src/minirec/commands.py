"""Commands to tell the user, under the settings of the run that tells them."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from minirec.pipeline_registry import ORDER


def kedro_run(
    pipelines: Iterable[str], run_params: Mapping[str, Any], *options: str
) -> str:
    """Return the command that runs pipelines as a run before it did.

    Parameters
    ----------
    pipelines
        Names; one of no pipeline of `ORDER` stands for all.
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
    if wanted <= set(ORDER):
        words += ["--pipelines", ",".join(name for name in ORDER if name in wanted)]
    words += options
    if run_params["env"] not in (None, "local"):
        words += ["--env", run_params["env"]]
    if run_params["runtime_params"]:
        pairs = _leaves(run_params["runtime_params"])
        words += ["--params", ",".join(f"{name}={value}" for name, value in pairs)]
    return shlex.join(words)


def _leaves(params: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in params.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{path}{name}.")
        else:
            found.append((path + name, value))
    return found
