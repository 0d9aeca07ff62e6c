import pytest

from minirec.datasets.atomic import replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with replacing(path) as written:
            written.write_text(text)
        assert path.read_text() == text
    assert names(path.parent) == ["file"]


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
