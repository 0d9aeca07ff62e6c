"""Parameters of execution, as `params:execution` holds them."""

from importlib.util import find_spec
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from minirec.errors import InputError
from minirec.policy.params import Params


class ExecutionParams(Params):
    """Where batches are worked on, and training; it changes nothing but rounding."""

    engine: Literal["local", "ray"]
    """``local`` is this process; ``ray`` shares batches out among processes of Ray."""
    workers: int = Field(ge=1)
    """Processes of Ray, each with a model of its own."""
    gpus_per_worker: float = Field(ge=0)
    """GPUs of each of them, or less than 1 for a part of one; 0: none."""
    address: str | None
    """Of a Ray cluster, or ``auto``; None starts a Ray of its own on this machine."""
    checkpoint_steps: int = Field(10, ge=1)
    """Steps of training from one checkpoint to the next."""
    accelerate: dict[str, int | str] | None = None
    """Options of ``accelerate launch``, by its own names; None trains in this process."""
    processes: int = Field(1, ge=1)
    """That train arms of an experiment side by side, each with its share of the
    cores."""
    tensorboard: str | None = None
    """Folder to which training sends its curves for TensorBoard; None: to none."""

    @field_validator("tensorboard")
    @classmethod
    def find_tensorboard(cls, folder: str | None) -> str | None:
        """Refuse a folder that nothing could write to."""
        if folder is not None and find_spec("tensorboard") is None:
            raise InputError(
                f"execution.tensorboard is {folder}, and TensorBoard is not installed: "
                'pip install "tensorboard~=2.21", or set execution.tensorboard: null'
            )
        return folder

    @property
    def train_processes(self) -> int:
        """How many processes train together."""
        return int((self.accelerate or {}).get("num_processes", 1))

    @model_validator(mode="after")
    def count_processes(self) -> Self:
        """Refuse to launch fewer processes than could share anything out."""
        if self.accelerate is not None and self.train_processes < 2:
            raise InputError(
                "execution.accelerate: num_processes is to be 2 or more: give the "
                "number of processes, or set execution.accelerate to null to train in "
                "this one"
            )
        return self

    @model_validator(mode="after")
    def check_engine(self) -> Self:
        """Refuse what the engine would pass over."""
        if self.engine == "local" and (
            self.workers > 1 or self.gpus_per_worker or self.address
        ):
            raise InputError(
                "execution.engine is local, which is one process and takes neither "
                "workers, gpus_per_worker nor address: leave them as in "
                "conf/base/parameters.yml, or set engine: ray"
            )
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise InputError(
                f"execution.gpus_per_worker is {self.gpus_per_worker}: Ray shares one "
                "GPU among workers, not several: give a whole number or less than 1"
            )
        return self
