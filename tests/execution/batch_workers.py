"""Workers of the tests: in a module of their own, which other processes can import."""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa

from minirec import costs
from minirec.errors import InputError


def make_doubler(
    notes=None, seconds=0.0, fits=99, fails_at=(), kills_at=(), kills_once=()
):
    """Return a worker that gives two rows for each sample."""

    def work(batch):
        ids = batch["sample_id"].tolist()
        time.sleep(seconds)
        if len(batch) > fits:
            raise MemoryError
        if notes:
            with Path(notes, f"{os.getpid()}").open("a") as file:
                file.write(f"{ids}\n")
        for each in ids:
            if each in fails_at:
                raise OSError(28, "No space left on device")
            once = notes and Path(notes, f".killed at {each}")
            if each in kills_at or (each in kills_once and not once.exists()):
                if once:
                    once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        costs.add(tokens_read=len(batch), flops=0.5)
        return double(batch)

    return work


def double(batch):
    """Say of each sample twice its text and which batch it was in."""
    rows = batch.loc[batch.index.repeat(2)]
    return pa.table(
        {
            "sample_id": rows["sample_id"].to_numpy(),
            "rollout": [0, 1] * len(batch),
            "text": rows["text"].tolist(),
            "token_id": [tokens.tolist() for tokens in rows["token_id"]],
            # As rounding does, it depends on what else is in the batch.
            "batch": [" ".join(map(str, batch["sample_id"]))] * len(rows),
        }
    )


def make_witness():
    """Return a worker that says as what its batch came."""

    def work(batch):
        types = " ".join([*map(str, batch.dtypes), type(batch["history"][0]).__name__])
        return pa.table(
            {
                "sample_id": batch["sample_id"].to_numpy(),
                "index": batch.index.to_numpy(),
                "types": [types] * len(batch),
            }
        )

    return work


def given(notes):
    """Return each batch that any worker was given."""
    files = [path for path in Path(notes).iterdir() if path.name.isdigit()]
    return [line for path in files for line in path.read_text().splitlines()]


def never(**_):
    """Stand for a worker that must not be made."""
    raise AssertionError("a worker was made, and nothing was left to do")


def times(given, job):
    costs.add(tokens_read=job)
    if job == 99:
        os._exit(1)
    if job < 0:
        raise InputError(f"job is {job}")
    return given * job, os.getpid(), os.environ.get("OMP_NUM_THREADS")


def waits(given, job):
    """Leave a file of the job's name beside a path; a slow job when the path is there."""
    if job == "failing":
        raise ValueError("no such job")
    until = time.monotonic() + 30
    while job == "slow" and not given.exists():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.01)
    given.with_name(job).touch()
