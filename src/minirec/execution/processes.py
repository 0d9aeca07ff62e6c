"""Jobs that do not depend on one another, one after the other or side by side."""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from minirec import costs
from minirec.errors import InputError
from minirec.progress import Progress

# of Linux' prctl.h: which signal a process gets when the one that started it is gone
_PR_SET_PDEATHSIG = 1

Given = TypeVar("Given")
Job = TypeVar("Job")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

# in a process that was started: what the jobs have in common
_GIVEN: list[Any] = []


def run_jobs(
    work: Callable[[Given, Job], Result],
    given: Given,
    jobs: Sequence[Job],
    processes: int,
    label: str,
) -> list[Result]:
    """Return ``work(given, job)`` of every job, in the order of the jobs.

    Parameters
    ----------
    work
        A function at the top of a module.
    given
        What all jobs read; it is sent to each process once.
    jobs
        What each of them is about.
    processes
        How many work side by side, each with its share of the cores unless
        ``OMP_NUM_THREADS`` says otherwise. 1: this process alone.
    label
        What the progress bar says.

    Raises
    ------
    InputError
        If a process dies.

    Whatever a job raises ends the rest. What models cost counts here
    (`minirec.costs`), in whichever process they are.
    """
    with Progress(total=len(jobs), desc=label, unit=" jobs") as bar:
        if processes == 1 or len(jobs) < 2:
            results = []
            for job in jobs:
                results.append(work(given, job))
                bar.update(1)
            return results
        workers = min(processes, len(jobs))
        with (
            _environment(workers),
            ProcessPoolExecutor(
                workers,
                multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(given,),
            ) as pool,
        ):
            left = iter(jobs)
            # no more than work: of what a pool is given, it begins some even after
            # another has failed
            futures = [
                pool.submit(_counted, work, job) for job in islice(left, workers)
            ]
            running = set(futures)
            try:
                while running:
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        costs.add(**future.result()[1])
                        bar.update(1)
                    more = [
                        pool.submit(_counted, work, job)
                        for job in islice(left, len(ended))
                    ]
                    futures += more
                    running |= set(more)
            except BrokenProcessPool:
                raise InputError(
                    f"{label}: a process died at work, as it does where memory runs "
                    f"out: lower execution.processes, which is {processes}; what had "
                    "finished is kept"
                ) from None
            except Exception as error:
                # at once: what is at work, and will be kept, may take an hour to end
                logger.error(
                    "%s: a job failed: %s. Those at work go on to their end, and the "
                    "rest is left",
                    label,
                    error if isinstance(error, InputError) else repr(error),
                )
                raise
            return [future.result()[0] for future in futures]


def ending_with_parent() -> Callable[[], Any] | None:
    """Let a process be ended when the one that started it is, as by a kill -9."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGTERM)


def _begin(given: Any) -> None:
    if ending := ending_with_parent():
        ending()
    _GIVEN[:] = [given]


def _counted(work: Callable[[Any, Any], Any], job: Any) -> tuple[Any, dict[str, Any]]:
    with costs.counting() as spent:
        result = work(_GIVEN[0], job)
    return result, asdict(spent)


@contextmanager
def _environment(processes: int) -> Iterator[None]:
    """Let processes that start now share the cores, and draw no bars over ours."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    share = max(1, (cores or os.cpu_count() or 1) // processes)
    wanted = {
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(share)),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
