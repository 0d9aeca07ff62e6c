import hashlib
import os
import pickle

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from minirec.lineage.content import Hashes

LOCAL = LocalFileSystem()


@pytest.fixture
def reads(monkeypatch):
    """The paths that are read, in order."""
    paths = []
    plain = LocalFileSystem.open

    def open_and_note(self, path, *args, **kwargs):
        paths.append(os.path.basename(path))
        return plain(self, path, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "open", open_and_note)
    return paths


def write_long_ago(path, text, seconds=0):
    """Write a file with a time before the last tick of any clock."""
    path.write_text(text)
    os.utime(path, (1e9 + seconds, 1e9 + seconds))
    return str(path)


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    path = write_long_ago(tmp_path / "a", "text")

    assert Hashes().of(LOCAL, path) == hashlib.sha256(b"text").hexdigest()


def test_what_is_not_there_has_none(tmp_path):
    assert Hashes().of(LOCAL, str(tmp_path / "a")) is None


def test_a_file_is_read_again_only_if_it_looks_another(tmp_path, reads):
    path = write_long_ago(tmp_path / "a", "text")
    hashes = Hashes(tmp_path / "hashes.json")
    first = hashes.of(LOCAL, path)
    hashes.save()
    again = Hashes(tmp_path / "hashes.json")
    assert again.of(LOCAL, path) == first
    assert reads == ["a"]

    write_long_ago(tmp_path / "a", "text")  # by its times as before, but not by ctime
    assert again.of(LOCAL, path) == first
    write_long_ago(tmp_path / "a", "next", seconds=1)
    assert again.of(LOCAL, path) != first
    assert reads == ["a", "a", "a"]


def test_a_file_of_this_moment_is_not_trusted_to_look_another_next_time(tmp_path):
    path = tmp_path / "a"
    hashes = Hashes()
    path.write_text("text")
    first = hashes.of(LOCAL, str(path))
    info = path.stat()
    path.write_text("next")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    assert hashes.of(LOCAL, str(path)) != first


def test_a_folder_is_its_files_and_their_names(tmp_path):
    def made(name, files):
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return Hashes().of(LOCAL, str(tmp_path / name))

    one = made("one", {"x": "1", "in/y": "2"})
    assert made("same", {"x": "1", "in/y": "2"}) == one
    assert made("renamed", {"x": "1", "in/z": "2"}) != one
    assert made("edited", {"x": "1", "in/y": "3"}) != one
    assert made("less", {"x": "1"}) != one


def test_a_link_looks_as_what_it_leads_to(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    target = tmp_path / "target"
    write_long_ago(target, "text")
    (folder / "link").symlink_to(target)
    hashes = Hashes()
    first = hashes.of(LOCAL, str(folder))

    write_long_ago(target, "next", seconds=1)  # as long as before
    assert hashes.of(LOCAL, str(folder)) != first


def test_hidden_files_and_dangling_links_are_no_part_of_a_folder(tmp_path):
    (tmp_path / "x").write_text("1")
    first = Hashes().of(LOCAL, str(tmp_path))
    (tmp_path / ".DS_Store").write_text("2")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_text("3")
    (tmp_path / ".#x").symlink_to("nowhere")

    assert Hashes().of(LOCAL, str(tmp_path)) == first


@pytest.mark.parametrize("text", ['{"file:///', "[]"])
def test_a_damaged_file_of_hashes_costs_reading_alone(tmp_path, reads, text):
    path = write_long_ago(tmp_path / "a", "text")
    (tmp_path / "hashes.json").write_text(text)

    assert Hashes(tmp_path / "hashes.json").of(LOCAL, path)
    assert reads == ["a"]


def test_two_processes_add_to_one_file(tmp_path):
    one, two = (Hashes(tmp_path / "hashes.json") for _ in range(2))
    for hashes, name in ((one, "a"), (two, "b")):
        hashes.of(LOCAL, write_long_ago(tmp_path / name, name))
        hashes.save()

    text = (tmp_path / "hashes.json").read_text()
    assert "/a" in text
    assert "/b" in text


def test_another_process_gets_the_path_alone(tmp_path):
    hashes = Hashes(tmp_path / "hashes.json")
    path = write_long_ago(tmp_path / "a", "text")

    assert pickle.loads(pickle.dumps(hashes)).of(LOCAL, path) == hashes.of(LOCAL, path)


def test_an_object_store_works_alike():
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/a", b"text")
    hashes = Hashes()

    assert hashes.of(store, "/bucket/a") == hashlib.sha256(b"text").hexdigest()
    store.pipe("/bucket/a", b"next")
    assert hashes.of(store, "/bucket/a") == hashlib.sha256(b"next").hexdigest()
    assert hashes.of(store, "/bucket") != hashes.of(store, "/bucket/a")
