"""Work on a table in batches that are never lost, here or on a Ray cluster."""

import gc
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from minirec.columns import SAMPLE_ID
from minirec.costs import counting
from minirec.errors import InputError
from minirec.execution import parts
from minirec.execution.params import ExecutionParams
from minirec.progress import Progress

Work = Callable[[pd.DataFrame], pa.Table]

_KEY = re.compile("[0-9a-f]{8,64}")

logger = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A batch that lies on disk."""

    part: str
    """Name of its file."""
    rows: int
    at_once: int
    """Rows that were worked on at once: fewer where they did not fit the memory."""
    costs: dict[str, Any]
    """`minirec.costs.Costs` of the work on it."""


def map_batches(
    make_worker: Callable[..., Work],
    init: Mapping[str, Any],
    table: pd.DataFrame,
    *,
    batch_size: int,
    key: str,
    folder: Path,
    label: str,
    execution: ExecutionParams,
) -> Iterator[pa.Table]:
    """Work on the rows of a table, and keep each finished batch on disk.

    What lies there is not worked on again: a run that was killed goes on with the
    batch that was under way, and rows that are new or have changed are worked on
    alone. The rows that are left are cut into batches in the order of the table, each
    but the last of the full size, whichever of them were finished before: a run that
    was killed and goes on with the same table has the very batches of one that was
    not, also in arithmetic that rounds by what else is in a batch.

    Batches lie in ``<folder>/<label>/<key>/`` and stay there, so that rows can be
    added later. Once all is done those of other keys are deleted; a run that fails or
    is killed deletes nothing but files that are damaged.

    Parameters
    ----------
    make_worker
        Function at the top of a module; ``make_worker(**init)`` loads what is needed,
        once in each process, and returns the function that turns a batch, B rows of
        `table`, into any number of rows, at least one for each ``sample_id``. A batch
        comes as it would from a Parquet file: lists as arrays, rows numbered from 0.
        It is not called if nothing is left to do.
    init
        Its arguments; with Ray they are sent to each process.
    table
        N rows of ``sample_id``, each once, and what the worker reads, and no more: a
        row is done again if anything in it has changed. In the order in which it is
        worked on: the longest first, so that memory runs out at once or never.
    batch_size
        Rows at once. A batch that does not fit the memory is worked on in halves.
    key
        8 to 64 hexadecimal digits: a hash of all else that decides what comes out,
        such as the model, the adapter, the parameters and the code.
    folder
        On a disk that every worker sees by this path.
    label
        Of the progress bar and the batches, such as the node's name.
    execution
        Where to work.

    Returns
    -------
    iterator of pyarrow.Table
        What the workers returned of all rows of `table`, read from the disk a batch
        after another, in no order; the rows of one sample stay in theirs. See
        `minirec.execution.parts.in_order`.

    Raises
    ------
    InputError
        If `table` is empty or has a sample twice, if a single row does not fit the
        memory, if a process of Ray dies again and again, or if Ray is not there.
    OSError
        If a batch cannot be written.
    ValueError
        If a worker leaves out a sample.

    Whatever a worker raises ends the run; what was finished is kept. What the workers'
    models cost counts here (`minirec.costs`), in whichever process they are; batches
    that lie finished cost nothing.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"key is {key!r}: give 8 to 64 hexadecimal digits")
    if table.empty or not table[SAMPLE_ID].is_unique:
        wrong = "is empty" if table.empty else f"has a {SAMPLE_ID} twice"
        raise InputError(f"{label}: the table to work on {wrong}: check what made it")
    here = Path(folder).resolve() / label / key
    rows = parts.with_hashes(table)
    known = parts.index(here, parts.names_in(here))
    todo = rows.filter(pc.is_null(parts.parts_of(rows, known)))
    done = len(rows) - len(todo)
    if done:
        logger.info("%s: %d of %d rows are finished already", label, done, len(rows))
    if len(todo):
        batches = [
            todo.slice(start, batch_size) for start in range(0, len(todo), batch_size)
        ]
        with (
            _engine(execution)(make_worker, init, batches, here, label) as finished,
            Progress(total=len(rows), initial=done, desc=label, unit=" prompts") as bar,
        ):
            new, halved = [], False
            for each in finished:
                new.append(each.part)
                bar.update(each.rows)
                if each.at_once < each.rows and not halved:
                    halved = True
                    logger.warning(
                        "%s: %d rows at once do not fit the memory, and %d do: a "
                        "lower score.memory_gb, or batch_size, spares the attempts "
                        "that fail",
                        label,
                        each.rows,
                        each.at_once,
                    )
        known = pa.concat_tables([known, parts.index(here, new)])
    found = parts.parts_of(rows, known)
    if found.null_count:
        raise InputError(
            f"{label}: {found.null_count} rows were worked on, and {here} does not "
            "hold them: let `data` in globals.yml name a folder that every worker sees"
        )
    _tidy(here)
    return parts.collect(here, rows, found)


def finish(work: Work, batch: pa.Table, folder: Path, label: str) -> Finished:
    """Work on a batch, in halves if need be, and write what came of it."""
    with counting() as costs:
        result, at_once = _within_memory(work, batch.drop_columns(parts.ROW), label)
    # In one file: with half of it known, what is left would be cut elsewhere.
    part = parts.write(folder, batch, result)
    return Finished(part, len(batch), at_once, asdict(costs))


def _engine(execution: ExecutionParams) -> Any:
    if execution.engine == "local":
        return _locally
    from minirec.execution.on_ray import on_ray

    return partial(on_ray, execution=execution)


@contextmanager
def _locally(
    make_worker: Callable[..., Work],
    init: Mapping[str, Any],
    batches: list[pa.Table],
    folder: Path,
    label: str,
) -> Iterator[Iterator[Finished]]:
    work = make_worker(**init)
    yield (finish(work, batch, folder, label) for batch in batches)


def _within_memory(work: Work, batch: pa.Table, label: str) -> tuple[pa.Table, int]:
    """Work on a batch, in halves where memory runs out; return how many rows it took.

    The next batch is tried whole again: what is remembered would be forgotten by a
    run that is killed, and other batches round otherwise.
    """
    try:
        return work(batch.to_pandas()), len(batch)
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        said = str(error).strip().partition("\n")[0] or type(error).__name__
    # Here the error is gone, and with its traceback what the attempt had allocated.
    if len(batch) == 1:
        raise InputError(
            f"{label}: {SAMPLE_ID} {batch[SAMPLE_ID][0].as_py()} alone does not fit the "
            f"memory ({said}): take a smaller model or shorter prompts "
            "(policy.prompt.max_tokens), or a machine with more memory"
        )
    gc.collect()
    half = (len(batch) + 1) // 2
    halves = batch.slice(0, half), batch.slice(half)
    (one, at_once), (other, fewer) = (_within_memory(work, h, label) for h in halves)
    whole = pa.concat_tables([one, other], promote_options="permissive")
    return whole, min(at_once, fewer)


def _is_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out, the GPU's or the machine's."""
    torch = sys.modules.get("torch")  # not loaded, not the one that raised it
    return (
        isinstance(error, MemoryError)
        or (torch is not None and isinstance(error, torch.OutOfMemoryError))
        or "DefaultCPUAllocator: " in str(error)
    )


def _tidy(here: Path) -> None:
    """Remove the batches of other keys, and what processes left that were killed."""
    for other in here.parent.iterdir():
        if other != here and _KEY.fullmatch(other.name):
            shutil.rmtree(other)
    for left in here.glob(".*"):
        left.unlink(missing_ok=True)
