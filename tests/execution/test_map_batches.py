import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import batch_workers
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from batch_workers import double, given, make_doubler
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.execution.map_batches import map_batches
from minirec.execution.parts import in_order

KEY, OTHER_KEY = "0123abcd", "4567abcd"


@pytest.fixture
def run(tmp_path, local):
    """Work on a table, three rows at once, in a folder that stays."""

    def run(table, make=make_doubler, init=None, *, batch_size=3, key=KEY, label="run"):
        return in_order(
            map_batches(
                make,
                init or {},
                table,
                batch_size=batch_size,
                key=key,
                folder=tmp_path / "batches",
                label=label,
                execution=local,
            )
        )

    return run


@pytest.fixture
def parts(tmp_path):
    """Return a function that lists the files of finished batches."""
    return lambda: sorted((tmp_path / "batches" / "run" / KEY).iterdir())


def test_all_rows_come_back_by_sample_and_in_their_order(run, samples):
    found = run(samples(range(5)), batch_size=2)
    assert found["sample_id"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found["rollout"].to_pylist() == [0, 1] * 5
    assert found["text"].to_pylist()[:3] == ["prompt 0", "prompt 0", "prompt 1"]
    assert found["token_id"].to_pylist()[2:5] == [[0], [0], [0, 1]]
    batches = ["0", "2 1", "2 1", "4 3", "4 3"]
    assert found["batch"].to_pylist()[::2] == batches


def test_a_batch_comes_as_from_a_parquet_file(run):
    """Whichever engine has it: see the same test on Ray."""
    seen = []

    def make():
        def work(batch):
            seen.append(batch)
            return pa.table({"sample_id": batch["sample_id"]})

        return work

    table = pd.DataFrame(
        {
            "sample_id": [7, 8],
            "history": [["a", "b"], []],
            "rating": [None, 1.5],
            "name": ["x", None],
        },
        index=[3, 3],
    )
    run(table, make)
    (batch,) = seen
    assert batch.index.tolist() == [0, 1]
    assert isinstance(batch["history"][0], np.ndarray)
    assert batch.dtypes["rating"] == "float64"
    assert batch.dtypes["name"] == "str"


def test_what_is_finished_is_not_done_again(run, samples):
    table = samples(range(7))
    first = run(table)
    assert run(table, batch_workers.never).equals(first)
    # in another order, other columns first
    again = table.sample(frac=1, random_state=0)[["text", "token_id", "sample_id"]]
    assert run(again, batch_workers.never).equals(first)


def test_new_and_changed_rows_are_done_alone_and_gone_ones_left_out(
    run, samples, notes
):
    run(samples(range(7)))
    table = samples([*range(2, 7), 20, 21, 22, 23])
    table.loc[table["sample_id"] == 4, "text"] = "another prompt"
    found = run(table, init={"notes": str(notes)})
    assert given(notes) == ["[23, 22, 21]", "[20, 4]"]
    assert sorted(set(found["sample_id"].to_pylist())) == sorted(table["sample_id"])
    said = found.to_pandas().groupby("sample_id")["text"].first()
    assert said.to_dict() == table.set_index("sample_id")["text"].to_dict()
    # and back again: nothing of it has been lost
    run(samples(range(7)), batch_workers.never)


def test_an_error_ends_the_run_and_what_was_finished_stays(run, samples, notes):
    table = samples(range(9))
    with pytest.raises(OSError, match="No space left on device"):
        run(table, init={"fails_at": [4]})
    run(table, init={"notes": str(notes)})
    assert given(notes) == ["[5, 4, 3]", "[2, 1, 0]"]


@drawn(
    missing=st.sets(st.integers(0, 3)),
    ends=st.lists(st.sets(st.integers(0, 10), min_size=1, max_size=3), max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_ended_runs_leave_the_batches_of_one_that_was_not(
    samples, local, missing, ends
):
    """Also where batches were finished in another order, as on a cluster."""
    table = samples(range(11))

    def run(folder, fails_at=()):
        return in_order(
            map_batches(
                make_doubler,
                {"fails_at": fails_at},
                table,
                batch_size=3,
                key=KEY,
                folder=folder,
                label="run",
                execution=local,
            )
        )

    with tempfile.TemporaryDirectory() as clean, tempfile.TemporaryDirectory() as other:
        whole = run(clean)
        run(other)
        for place, part in enumerate(sorted(Path(other).rglob("*.parquet"))):
            if place in missing:
                part.unlink()
        for fails_at in ends:
            with suppress(OSError):
                run(other, fails_at)
        assert run(other).equals(whole)


pools = st.dictionaries(st.integers(0, 12), st.sampled_from("ab"), min_size=1)


@drawn(steps=st.lists(st.tuples(pools, st.integers(0, 4), st.integers(1, 4))))
@settings(max_examples=40, deadline=None)
def test_any_way_to_a_table_ends_as_a_clean_run(local, steps):
    """Rows are added, changed and removed, and runs end early."""

    def run(folder, texts, batches, size):
        def make():
            left = iter(range(batches))

            def work(batch):
                if next(left, None) is None:
                    raise OSError("killed")
                return double(batch).drop_columns("batch")

            return work

        table = pd.DataFrame({"sample_id": list(texts), "text": list(texts.values())})
        table["token_id"] = [[]] * len(table)
        return in_order(
            map_batches(
                make,
                {},
                table,
                batch_size=size,
                key=KEY,
                folder=folder,
                label="run",
                execution=local,
            )
        )

    last = {1: "a", 5: "b", 3: "a"}
    with tempfile.TemporaryDirectory() as clean, tempfile.TemporaryDirectory() as other:
        for texts, batches, size in steps:
            with suppress(OSError):
                run(other, texts, batches, size)
        assert run(other, last, 9, 2).equals(run(clean, last, 9, 3))


SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1]]
import pandas as pd
from batch_workers import make_doubler
from minirec.execution.map_batches import map_batches
from minirec.execution.params import ExecutionParams

local = ExecutionParams(engine="local", workers=1, gpus_per_worker=0, address=None)
map_batches(make_doubler, {"notes": sys.argv[3], "seconds": 0.02},
    pd.read_parquet(sys.argv[2]), batch_size=3, key="0123abcd", folder=sys.argv[4],
    label="run", execution=local)
"""


def test_a_process_that_is_killed_again_and_again_loses_only_what_was_under_way(
    run, samples, notes, tmp_path
):
    table = samples(range(60))
    table.to_parquet(tmp_path / "table.parquet")
    here = Path(batch_workers.__file__).parent
    command = [sys.executable, "-c", SCRIPT, here, tmp_path / "table.parquet", notes]
    moments = random.Random(0)
    kills = 0
    for _ in range(4):
        before = len(given(notes))
        with subprocess.Popen(
            [*map(str, command), str(tmp_path / "batches")], stderr=subprocess.DEVNULL
        ) as process:
            # as soon as it has begun, and a little later
            while len(given(notes)) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.1))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    resumed = run(table, init={"notes": str(notes)})
    assert kills >= 3
    assert 20 <= len(given(notes)) <= 20 + kills
    assert set(given(notes)) == {
        str(table["sample_id"].tolist()[start : start + 3]) for start in range(0, 60, 3)
    }
    assert resumed.equals(run(table, label="uninterrupted"))
    # what the kills left half-written is gone
    names = {path.suffix for path in (tmp_path / "batches" / "run" / KEY).iterdir()}
    assert names == {".parquet"}


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_short, emptied, flipped])
def test_a_damaged_file_is_done_again(run, parts, samples, notes, caplog, damage):
    table = samples(range(7))
    whole = run(table)
    damage(parts()[1])
    assert run(table, init={"notes": str(notes)}).equals(whole)
    assert len(given(notes)) == 1
    assert "1 damaged files removed" in caplog.text
    run(table, batch_workers.never)


def out_of_gpu_memory():
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def out_of_memory_of_torch():
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"
    )


@pytest.mark.parametrize(
    "error", [out_of_gpu_memory, out_of_memory_of_torch, MemoryError]
)
def test_a_batch_that_does_not_fit_is_done_in_halves(run, samples, caplog, error):
    def make():
        def work(batch):
            if len(batch) > 2:
                raise error()
            return double(batch)

        return work

    found = run(samples(range(10)), make, batch_size=5)
    assert found["batch"].to_pylist()[::2] == [
        *["1 0", "1 0", "2", "4 3", "4 3"],
        *["6 5", "6 5", "7", "9 8", "9 8"],
    ]
    assert caplog.text.count("5 rows at once do not fit the memory, and 1 do") == 1


def test_a_row_that_does_not_fit_is_named(run, samples):
    def make():
        def work(batch):
            if 3 in batch["sample_id"].tolist():
                raise MemoryError
            return double(batch)

        return work

    with pytest.raises(InputError, match="run: sample_id 3 alone does not fit"):
        run(samples(range(5)), make)


def test_torch_says_that_memory_ran_out_as_is_expected_here(run, samples):
    """The text is torch's own, and another version's may differ."""
    import torch

    def make():
        def work(batch):
            if len(batch) > 1:
                torch.empty(2**46)
            return double(batch)

        return work

    found = run(samples(range(2)), make)
    assert found["batch"].to_pylist() == ["0", "0", "1", "1"]


def test_another_error_of_torch_is_not_tried_again(run, samples, notes):
    note = notes / "1"
    note.touch()

    def make():
        def work(batch):
            note.write_text(f"{note.read_text()}tried\n")
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        return work

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(samples(range(3)), make)
    assert given(notes) == ["tried"]


def test_batches_of_another_key_go_once_all_is_done(run, samples, tmp_path):
    folder = tmp_path / "batches" / "run"
    table = samples(range(7))
    run(table)
    run(table, key=OTHER_KEY, label="other")
    (folder / "mine").mkdir()
    with pytest.raises(OSError, match="No space"):
        run(table, init={"fails_at": [2]}, key=OTHER_KEY)
    assert {path.name for path in folder.iterdir()} == {KEY, OTHER_KEY, "mine"}
    run(table, key=OTHER_KEY)
    assert {path.name for path in folder.iterdir()} == {OTHER_KEY, "mine"}
    run(table, batch_workers.never, key=OTHER_KEY, label="other")


def test_batches_without_a_value_fit_those_with_values(run, samples):
    def make():
        def work(batch):
            ids = batch["sample_id"].tolist()
            return pa.table(
                {
                    "sample_id": ids,
                    "reason": [None if each < 2 else "empty" for each in ids],
                    "token_id": [[] if each < 2 else [each] for each in ids],
                }
            )

        return work

    found = run(samples(range(4)), make, batch_size=2)
    assert found["reason"].to_pylist() == [None, None, "empty", "empty"]
    assert found["token_id"].to_pylist() == [[], [], [2], [3]]


def test_a_worker_that_leaves_out_a_sample_is_an_error(run, samples):
    def make():
        return lambda batch: double(batch.iloc[1:])

    with pytest.raises(ValueError, match="given 3 samples, and returned rows of 2"):
        run(samples(range(3)), make)


def test_a_worker_that_returns_a_foreign_sample_is_an_error(run, samples):
    def make():
        return lambda batch: double(batch.assign(sample_id=batch["sample_id"] + 1))

    with pytest.raises(ValueError, match="and 2 rows of no such sample"):
        run(samples(range(3)), make)


def test_a_table_without_rows_or_with_one_twice_is_refused(run, samples):
    table = samples(range(3))
    with pytest.raises(InputError, match="run: the table to work on is empty"):
        run(table.iloc[:0])
    with pytest.raises(InputError, match="has a sample_id twice"):
        run(pd.concat([table, table]))


def test_a_key_is_hexadecimal(run, samples):
    with pytest.raises(ValueError, match="hexadecimal"):
        run(samples(range(3)), key="../rollouts")


def test_the_log_says_how_much_is_finished(run, samples, caplog):
    caplog.set_level(logging.INFO)
    run(samples(range(3)))
    assert "finished already" not in caplog.text
    run(samples(range(5)))
    assert "run: 3 of 5 rows are finished already" in caplog.text


def test_a_full_disk_keeps_what_was_finished(run, samples, parts, notes, little_room):
    table = samples(range(5))
    random = np.random.default_rng(0)
    table.loc[table["sample_id"] == 2, "text"] = random.bytes(50_000).hex()
    init = {"notes": notes}
    with (
        little_room(50_000),
        pytest.raises(
            OSError, match=r"^\[Errno 27\] File too large: '.*/run/0123abcd'$"
        ),
    ):
        run(table, init=init, batch_size=1)
    assert [path.suffix for path in parts()] == [".parquet"] * 2
    found = run(table, init=init, batch_size=1)
    worked = [line for file in notes.iterdir() for line in file.read_text().split()]
    assert worked == ["[4]", "[3]", "[2]", "[2]", "[1]", "[0]"]
    assert found["sample_id"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
