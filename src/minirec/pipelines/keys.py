"""By what unfinished work is known again: a hash of all that decides what comes out."""

from collections.abc import Callable
from typing import Any

from minirec.execution.fingerprint import fingerprint, of_model
from minirec.lineage.code import Code


def work_key(work: Callable[..., Any], init: dict[str, Any], *paths: str) -> str:
    """Hash all that decides what a function makes of its arguments.

    So does its code, and that of functions that parameters name by their `paths`. Where
    the model lies, which peft writes into the adapter, does not. Nor does how a server
    is reached, so that one that died may come back elsewhere.
    """
    source = Code()
    if init.get("server") is not None:
        served = init["server"].model_dump(include={"model", "protocol"})
        init = {**init, "server": served}
    if "adapter" in init:
        config = init["adapter"]["config"]
        plain = {k: v for k, v in config.items() if k != "base_model_name_or_path"}
        init = {**init, "adapter": {**init["adapter"], "config": plain}}
    return fingerprint(
        code=[source.of(work), *(source.at(path) for path in paths)],
        **{
            name: of_model(value) if name.endswith("_model") else value
            for name, value in init.items()
        },
    )
