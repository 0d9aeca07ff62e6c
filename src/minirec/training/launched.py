"""Training in several processes, which ``accelerate launch`` starts.

The process that runs the pipeline writes all that training takes into a folder, starts
the others and waits. They train together; one of them writes what comes out, and none
knows of a catalog. On several machines the folder must lie where all see it, and the
same command, with another ``--machine_rank``, is run on each.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from minirec import costs
from minirec.datasets.adapter import AdapterDataset
from minirec.datasets.atomic import replacing
from minirec.datasets.files import ParquetDataset
from minirec.datasets.matrix import MatrixDataset
from minirec.errors import InputError
from minirec.execution.params import ExecutionParams
from minirec.execution.processes import ending_with_parent
from minirec.policy.item_tokens import check_weights
from minirec.policy.loading import attach_adapter, outline
from minirec.policy.params import GRPOParams, PaceParams, PolicyParams, RankingParams
from minirec.policy.rewards import try_reward
from minirec.ranking.rewards import weighted_sum
from minirec.training import checkpoints
from minirec.training.curves import write_curves
from minirec.training.grpo import Checkpoints, Training, train_adapter
from minirec.training.item_grpo import train_item_tokens
from minirec.types import Adapter

TABLES = ("curriculum", "prompts", "items")
GROUPS: dict[str, type[BaseModel]] = {
    "policy": PolicyParams,
    "ranking": RankingParams,
    "grpo": GRPOParams,
    "pace": PaceParams,
}
# within the folder of a training
JOB, RESULT, ERROR, COSTS = "job", "result", "error.txt", "costs.json"

logger = logging.getLogger(__name__)


def train_in_processes(
    inputs: dict[str, Any], kept: Checkpoints, options: Mapping[str, int | str]
) -> tuple[Adapter, Training]:
    """Train as `train_adapter` does, in as many processes as ``options`` say.

    Parameters
    ----------
    inputs
        Arguments of `train_adapter`, but ``kept``.
    kept
        As there; the processes meet in its folder.
    options
        Those of ``accelerate launch``, by its own names.

    Raises
    ------
    InputError
        If a process failed.
    """
    import torch

    folder = kept.folder
    _write_job(inputs, kept, folder / JOB)
    given = {"num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    for name, value in {**given, **options}.items():
        command += [f"--{name}", str(value)]
    command += ["-m", __name__, str(folder)]
    if int(options.get("num_machines", 1)) > 1:
        logger.info(
            "on each other machine run, with its own --machine_rank: %s",
            shlex.join(command),
        )
    on_cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(  # noqa: S603 (options are the user's own)
        command,
        env={**os.environ, **on_cpu},
        preexec_fn=ending_with_parent(),
        check=False,
    )
    if (error := folder / ERROR).exists():
        raise InputError(error.read_text("utf-8"))
    if done.returncode:
        raise InputError(
            f"{inputs['label']}: a process of `{shlex.join(command)}` ended with "
            f"{done.returncode}: see above for what it said; the last checkpoint stays, "
            "and the same command goes on behind it"
        )
    result = folder / RESULT
    tables = [
        ParquetDataset(filepath=str(result / f"{name}.parquet")).load()
        for name in Training._fields
    ]
    adapter: Any = AdapterDataset(filepath=str(result / "adapter")).load()
    costs.add(**json.loads((result / COSTS).read_text("utf-8")))
    return adapter, Training(*tables)


def train(
    inputs: dict[str, Any], folder: Path, key: str, execution: ExecutionParams
) -> tuple[Adapter, Training]:
    """Train in this process or in several, with checkpoints.

    Parameters
    ----------
    inputs
        Arguments of `train_adapter`, but ``kept``.
    folder
        For the checkpoints of all trainings; there, one for each label, which keeps
        those of one training.
    key
        Hash of all that decides what comes out, by which a training knows its own.
    execution
        Parameters.

    Raises
    ------
    InputError
        Before a model is loaded, if the last checkpoint is damaged, the reward cannot
        be used or the adapter is another model's; if training fails.
    """
    kept = Checkpoints(
        folder / inputs["label"] / key,
        execution.checkpoint_steps,
        execution.tensorboard,
    )
    checkpoints.keep_only(kept.folder)
    _check(inputs, kept)
    if inputs["policy"].kind == "item_tokens":  # whose step is too small to share out
        adapter, training = train_item_tokens(**inputs, kept=kept)
        if execution.tensorboard:
            write_curves(training.log, execution.tensorboard, inputs["label"])
        return adapter, training
    if execution.accelerate:
        return train_in_processes(inputs, kept, execution.accelerate)
    return train_adapter(**inputs, kept=kept)


def _check(inputs: dict[str, Any], kept: Checkpoints) -> None:
    """Refuse what could not be trained, before a model is loaded."""
    checkpoints.last_of(kept.folder)
    reward = weighted_sum(inputs["ranking"].rewards, inputs["items"])
    try_reward(reward, len(inputs["items"]))
    if inputs["policy"].kind == "item_tokens":
        check_weights(inputs["adapter"], inputs["policy"], inputs["items"])
    else:
        lm = outline(inputs["policy_model"], inputs["policy"].dtype)
        attach_adapter(lm, inputs["adapter"])


def work(folder: Path) -> None:
    """Train in one of the processes; the first one writes the result.

    Parameters
    ----------
    folder
        Of the training, which holds its job.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(format="%(levelname)-8s %(message)s", level=logging.WARNING)
    logging.getLogger("minirec").setLevel(logging.INFO if first else logging.WARNING)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        inputs, kept = _read_job(folder / JOB)
        with costs.counting() as own:
            adapter, training = train_adapter(**inputs, kept=kept)
    except InputError as error:
        (folder / ERROR).write_text(error.message, "utf-8")
        sys.exit(1)  # so that no other process waits for this one
    every = gather_object([asdict(own)])
    spent = {name: sum(one[name] for one in every) for name in every[0]}
    if first:
        trained: Any = adapter
        with replacing(folder / RESULT) as result:
            AdapterDataset(filepath=str(result / "adapter")).save(trained)
            for name, table in training._asdict().items():
                ParquetDataset(filepath=str(result / f"{name}.parquet")).save(table)
            (result / COSTS).write_text(json.dumps(spent), "utf-8")
    # threads that still talk to the others would abort a process that ends
    PartialState().destroy_process_group()


def _write_job(inputs: dict[str, Any], kept: Checkpoints, job: Path) -> None:
    plain = dict(inputs)
    with replacing(job) as folder:
        folder.mkdir()
        for name in TABLES:
            path = str(folder / f"{name}.parquet")
            ParquetDataset(filepath=path).save(plain.pop(name))
        AdapterDataset(filepath=str(folder / "adapter")).save(plain.pop("adapter"))
        MatrixDataset(filepath=str(folder / "item_embeddings.safetensors")).save(
            plain.pop("item_embeddings")
        )
        for name in GROUPS:
            plain[name] = plain[name] and plain[name].model_dump(mode="json")
        plain |= {"steps": kept.steps, "tensorboard": kept.tensorboard}
        (folder / "rest.json").write_text(json.dumps(plain), "utf-8")
    job.with_name(ERROR).unlink(missing_ok=True)


def _read_job(job: Path) -> tuple[dict[str, Any], Checkpoints]:
    inputs = json.loads((job / "rest.json").read_text("utf-8"))
    kept = Checkpoints(job.parent, inputs.pop("steps"), inputs.pop("tensorboard"))
    for name, model in GROUPS.items():
        inputs[name] = inputs[name] and model.model_validate(inputs[name])
    for name in TABLES:
        inputs[name] = ParquetDataset(filepath=str(job / f"{name}.parquet")).load()
    inputs["adapter"] = AdapterDataset(filepath=str(job / "adapter")).load()
    path = str(job / "item_embeddings.safetensors")
    inputs["item_embeddings"] = MatrixDataset(filepath=path).load()
    return inputs, kept


if __name__ == "__main__":
    work(Path(sys.argv[1]))
