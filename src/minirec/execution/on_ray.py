"""Work on batches in processes of Ray Data, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from minirec import costs
from minirec.errors import InputError
from minirec.execution.params import ExecutionParams
from minirec.execution.parts import ROW

if TYPE_CHECKING:
    import ray.data

    from minirec.execution.map_batches import Finished, Work

# Ray reads them when it starts: nothing is sent to its makers, and what it logs
# goes to its own files alone.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}

# How often a batch may end the process that has it. Ray tries again without end.
DEATHS = 4


class _Worker:
    """A process of Ray: works on batches and writes them."""

    def __init__(self, sent: Any, folder: Path, label: str) -> None:
        self._sent, self._folder, self._label = sent, folder, label
        self._work: Work | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return a row that says what was finished, or the error that was raised.

        An error that left this method would reach the driver as text alone.
        """
        import ray

        from minirec.execution.map_batches import finish

        try:
            if self._work is None:
                make_worker, init = ray.get(self._sent)
                self._work = make_worker(**init)
            with _counted(self._folder / f".{batch[ROW][0]}.tries", self._label):
                found = finish(self._work, batch, self._folder, self._label)
        except Exception as error:
            said = traceback.format_exc()
            return pa.table({"error": [_sendable(error)], "said": [said]})
        return pa.table({name: [value] for name, value in found._asdict().items()})


def _sendable(error: Exception) -> bytes:
    """Return an error as bytes; one that does not come back from them, as its text."""
    from ray import cloudpickle

    try:
        sent: bytes = cloudpickle.dumps(error)
        cloudpickle.loads(sent)
    except Exception:  # whatever the error's own class raises
        return cast("bytes", cloudpickle.dumps(RuntimeError(repr(error))))
    return sent


@contextmanager
def _counted(tries: Path, label: str) -> Iterator[None]:
    """Refuse a batch that has ended one process after another.

    It is counted on the disk, which outlives the processes.
    """
    tries.parent.mkdir(parents=True, exist_ok=True)
    with tries.open("a") as file:
        if file.tell() >= DEATHS:
            raise InputError(
                f"{label}: one batch has ended {DEATHS} processes of Ray, one after "
                "the other, as the system does to what takes too much memory: lower "
                "score.memory_gb (or batch_size) or execution.workers"
            )
        file.write(".")
    yield
    tries.unlink(missing_ok=True)


@contextmanager
def on_ray(
    make_worker: Callable[..., Work],
    init: Mapping[str, Any],
    batches: list[pa.Table],
    folder: Path,
    label: str,
    execution: ExecutionParams,
) -> Iterator[Iterator[Finished]]:
    """Give what is finished, in any order, while workers of Ray work on it.

    A Ray that runs already is used and left; one that is started here is ended.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            f"execution.engine is ray, and Ray cannot be imported ({error}): "
            'pip install "ray[data]~=2.60", or set execution.engine: local'
        ) from None
    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            start(execution)
        log = logging.getLogger("ray.data")  # of how it plans
        stack.callback(log.setLevel, log.level)
        log.setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        stack.enter_context(ray.data.DataContext.current(context))
        for tries in folder.glob(".*.tries"):  # of a run that was ended
            tries.unlink()
        sent = ray.put((make_worker, dict(init)))
        dataset = ray.data.from_arrow(batches).map_batches(
            _Worker,
            batch_size=None,  # a block as it is
            batch_format="pyarrow",
            fn_constructor_args=[sent, folder, label],
            compute=ray.data.ActorPoolStrategy(
                size=min(execution.workers, len(batches))
            ),
            num_cpus=_cpus_per_worker(execution),
            num_gpus=execution.gpus_per_worker or None,
        )
        yield _results(dataset)


def start(execution: ExecutionParams) -> None:
    """Start a Ray on this machine, or join one.

    Raises
    ------
    InputError
        If none answers, or this machine has too few GPUs.
    """
    import ray

    os.environ.update(_QUIET)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if execution.address is not None:
        try:
            ray.init(address=execution.address, **quiet)
        except (ConnectionError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise InputError(
                f"execution.address is {execution.address}, and no Ray answers there "
                f"({first}): `ray start --head` starts one, and address: null one of "
                "our own"
            ) from None
        return
    with _path_for_children():
        ray.init(num_cpus=_own_cpus(execution), include_dashboard=False, **quiet)
    wanted = execution.workers * execution.gpus_per_worker
    found = ray.cluster_resources().get("GPU", 0)
    if wanted > found:  # would be waited for without end
        raise InputError(
            f"execution asks for {wanted:g} GPUs ({execution.workers} workers, "
            f"{execution.gpus_per_worker:g} each), and Ray finds {found:g} here: lower "
            "workers or gpus_per_worker, or name a cluster's address"
        )


@contextmanager
def _path_for_children() -> Iterator[None]:
    """Let processes find the modules that this one finds, as Kedro's `src`."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _own_cpus(execution: ExecutionParams) -> int:
    return max(execution.workers, os.cpu_count() or 1)


def _cpus_per_worker(execution: ExecutionParams) -> int:
    """Return the cores of a worker, which are also its threads.

    Of a cluster it is not known how its cores lie on its machines.
    """
    own = execution.address is None
    return _own_cpus(execution) // execution.workers if own else 1


def _results(dataset: ray.data.Dataset) -> Iterator[Finished]:
    from ray import cloudpickle

    from minirec.execution.map_batches import Finished

    for row in dataset.iter_rows():
        if "error" in row:
            error = cloudpickle.loads(row["error"])
            error.add_note(f"In a worker of Ray:\n{row['said']}")
            raise error
        finished = Finished(**row)
        costs.add(**finished.costs)
        yield finished
