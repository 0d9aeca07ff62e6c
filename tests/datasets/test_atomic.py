import logging
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from minirec.datasets import atomic
from minirec.datasets.atomic import in_the_way, made_once, replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def child(script, *arguments, **options):
    """Start a script that has read what it replaces or makes into `path`."""
    head = """
import os, signal, sys
from pathlib import Path
from minirec.datasets.atomic import made_once, replacing

path = Path(sys.argv[1])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", head + script, *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)


def killed(script, *arguments):
    """Run a script that kills itself."""
    with child(script, *arguments) as process:
        assert process.wait() == -9


HALF_A_FILE = """
with replacing(path) as written:
    written.write_text("half")
    die()
"""

HALF_A_FOLDER = """
with replacing(path) as written:
    written.mkdir()
    (written / "half").touch()
    die()
"""


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with replacing(path) as written:
            written.write_text(text)
        assert path.read_text() == text
    assert names(path.parent) == ["file"]


def test_who_may_read_any_new_file_may_read_what_is_saved(tmp_path):
    umask = os.umask(0o022)
    os.umask(umask)
    (any_file := tmp_path / "any").touch()
    folder = tmp_path / "adapter"
    with replacing(folder) as new:
        (new / "inner").mkdir(parents=True, mode=0o700)
        (new / "inner" / "weights").touch(mode=0o600)
    weights = folder / "inner" / "weights"
    assert weights.stat().st_mode == any_file.stat().st_mode
    assert stat.S_IMODE(weights.parent.stat().st_mode) & 0o555 == 0o555 & ~umask


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with replacing(path) as written:
            written.mkdir()
            (written / name).touch()
        assert names(path) == [name]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, kind):
    path = tmp_path / kind
    if kind == "file":
        path.write_text("old")
    else:
        path.mkdir()
        (path / "old").touch()

    def fail():
        with replacing(path) as written:
            if kind == "file":
                written.write_text("half")
            else:
                written.mkdir()
                (written / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == [kind]
    assert path.read_text() == "old" if kind == "file" else names(path) == ["old"]


def test_a_block_that_writes_nothing_leaves_the_folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()

    def write_nothing():
        with replacing(path):
            pass

    with pytest.raises(FileNotFoundError):
        write_nothing()
    assert names(tmp_path) == ["folder"]
    assert names(path) == ["old"]


def test_a_file_and_a_folder_replace_each_other_if_allowed(tmp_path):
    path = tmp_path / "either"
    path.touch()
    with replacing(path, any_kind=True) as written:
        written.mkdir()
        (written / "new").touch()
    assert names(path) == ["new"]
    with replacing(path, any_kind=True) as written:
        written.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["either"]


def test_a_file_does_not_replace_a_folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()

    def write_file():
        with replacing(path) as written:
            written.touch()

    with pytest.raises(IsADirectoryError):
        write_file()
    assert names(tmp_path) == ["folder"]
    assert names(path) == ["old"]


@pytest.mark.parametrize("script", [HALF_A_FILE, HALF_A_FOLDER])
def test_what_a_killed_save_left_goes_with_the_next(tmp_path, script):
    path = tmp_path / "matrix[1].safetensors"
    killed(script, path)
    killed(script, path)
    left = names(tmp_path)
    assert len(left) == 2  # what was written and its lock; the first are gone
    assert all(name.startswith(".matrix[1].safetensors.") for name in left)
    with replacing(path) as written:
        written.touch()
    assert names(tmp_path) == [path.name]


def test_what_a_killed_save_left_of_another_file_stays(tmp_path):
    killed(HALF_A_FILE, tmp_path / "matrix.new")
    with replacing(tmp_path / "matrix") as written:
        written.touch()
    assert len(names(tmp_path)) == 3


def test_a_killed_version_goes_with_the_next(tmp_path):
    killed(HALF_A_FILE, tmp_path / "matrix" / "1" / "matrix")
    assert len(names(tmp_path / "matrix" / "1")) == 2
    with replacing(tmp_path / "matrix" / "2" / "matrix") as written:
        written.touch()
    assert names(tmp_path / "matrix" / "1") == []
    assert names(tmp_path / "matrix" / "2") == ["matrix"]


def test_what_another_process_is_writing_stays(tmp_path):
    path = tmp_path / "file"
    script = """
with replacing(path) as written:
    written.write_text("slow")
    print("writing", flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with child(script, path, **pipes) as process:
        assert process.stdout.readline() == "writing\n"
        with replacing(path) as written:
            written.write_text("fast")
        assert path.read_text() == "fast"
        process.communicate("\n")
        assert process.returncode == 0
    assert path.read_text() == "slow"
    assert names(tmp_path) == ["file"]


def test_what_the_same_process_is_writing_stays(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as slow:
        slow.write_text("slow")
        with replacing(path) as fast:
            fast.write_text("fast")
        assert path.read_text() == "fast"
    assert path.read_text() == "slow"
    assert names(tmp_path) == ["file"]


def test_a_folder_killed_between_its_two_renames_is_missing(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    script = """
with replacing(path) as written:
    written.mkdir()
    rename = Path.rename
    Path.rename = lambda self, target: die() if target == path else rename(self, target)
"""
    killed(script, path)
    assert not path.exists()
    left = names(tmp_path)
    assert [name.rpartition(".")[2] for name in left] == ["lock", "new", "old"]
    with replacing(path) as written:
        written.mkdir()
        (written / "new").touch()
    assert names(tmp_path) == ["folder"]
    assert names(path) == ["new"]


def make_folder(path):
    (path / "parts").mkdir(parents=True)
    (path / "config").write_text("{}")
    (path / "parts" / "one").write_text("1111")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "made" / "folder"
    made_once(path, make_folder)
    return path


def refuse(path):
    raise AssertionError(f"{path} was made or hashed again")


def test_what_is_as_it_was_made_is_not_even_hashed(folder, monkeypatch):
    monkeypatch.setattr(atomic, "sha256_of", refuse)
    made_once(folder, refuse)


def test_a_single_file_is_made_once_too(tmp_path):
    path = tmp_path / "file"
    for make in (lambda new: new.write_text("1"), refuse):
        made_once(path, make)
    path.write_text("")
    made_once(path, lambda new: new.write_text("1"))
    assert path.read_text() == "1"


def edit(folder):
    (folder / "parts" / "one").write_text("2222")
    os.utime(folder / "parts" / "one", (1, 1))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(edit, id="edited"),
        pytest.param(lambda f: os.truncate(f / "parts" / "one", 3), id="truncated"),
        pytest.param(lambda f: (f / "parts" / "one").unlink(), id="file deleted"),
        pytest.param(lambda f: (f / "more").touch(), id="file added"),
        pytest.param(
            lambda f: (f.parent / ".folder.json").unlink(), id="record deleted"
        ),
        pytest.param(
            lambda f: os.truncate(f.parent / ".folder.json", 9), id="record truncated"
        ),
    ],
)
def test_what_is_not_as_it_was_made_is_made_again(folder, damage, caplog, monkeypatch):
    damage(folder)
    made_once(folder, make_folder)
    said = [record for record in caplog.records if record.name == atomic.__name__]
    assert [(record.levelno, record.message) for record in said] == [
        (logging.WARNING, f"{folder} is not as it was made: making it again")
    ]
    assert names(folder) == ["config", "parts"]
    assert (folder / "parts" / "one").read_text() == "1111"
    monkeypatch.setattr(atomic, "sha256_of", refuse)
    made_once(folder, refuse)


def test_what_was_deleted_is_made_again(folder):
    shutil.rmtree(folder)
    made_once(folder, make_folder)
    assert names(folder) == ["config", "parts"]


def test_files_with_another_time_alone_are_hashed_once(folder, monkeypatch):
    os.utime(folder / "config", (1, 1))
    made_once(folder, refuse)
    monkeypatch.setattr(atomic, "sha256_of", refuse)
    made_once(folder, refuse)


def test_hidden_files_in_a_folder_are_not_looked_at(folder):
    (folder / ".DS_Store").touch()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "file").touch()
    made_once(folder, refuse)


def test_what_could_not_be_made_again_is_made_when_it_can(folder):
    edit(folder)

    def fail(new):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(folder, fail)
    made_once(folder, make_folder)
    assert (folder / "parts" / "one").read_text() == "1111"


def test_of_several_threads_one_makes_and_the_others_wait(tmp_path):
    path, calls, start = tmp_path / "folder", [], Barrier(4)

    def make(new):
        calls.append(new)
        make_folder(new)

    def load(_):
        start.wait()
        made_once(path, make)
        return (path / "parts" / "one").read_text()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == ["1111"] * 4
    assert len(calls) == 1


def test_of_several_processes_one_makes_and_the_others_wait(folder, tmp_path):
    edit(folder)
    script = """
def make(new):
    with Path(sys.argv[2]).open("a") as calls:
        calls.write("made\\n")
    (new / "parts").mkdir(parents=True)
    (new / "config").write_text("{}")
    (new / "parts" / "one").write_text("1111")

input()
made_once(path, make)
assert (path / "parts" / "one").read_text() == "1111"
"""
    calls = tmp_path / "calls"
    started = [child(script, folder, calls, stdin=subprocess.PIPE) for _ in range(3)]
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        with process:
            assert process.wait() == 0
    assert calls.read_text() == "made\n"
    made_once(folder, refuse)


def test_nothing_is_in_the_way_of_what_can_be_made(tmp_path):
    for path in (tmp_path / "a", tmp_path / "a" / "b" / "c"):
        assert in_the_way(path) is None
    assert names(tmp_path) == []


def test_a_file_is_in_the_way_of_what_would_lie_in_it(tmp_path):
    (tmp_path / "file").touch()
    assert in_the_way(tmp_path / "file" / "a" / "b") == tmp_path / "file"
    (tmp_path / "link").symlink_to("nowhere")
    assert in_the_way(tmp_path / "link") is None  # it can be made where that leads


def test_a_folder_without_leave_to_write_is_in_the_way(tmp_path, monkeypatch):
    def access(path, mode):  # of root, too, on a disk that is read only
        assert mode == os.W_OK | os.X_OK
        return path != tmp_path

    monkeypatch.setattr(os, "access", access)
    assert in_the_way(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "a").mkdir()
    assert in_the_way(tmp_path / "a" / "b") is None
