import pickle

import pytest
import torch
from kedro.io import DataCatalog, DatasetError
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM

from minirec.datasets.adapter import AdapterDataset


@pytest.fixture
def dataset(tmp_path):
    return AdapterDataset(filepath=str(tmp_path / "adapter"))


def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )


def adapter(number):
    """Make an adapter whose tensors all hold one value."""
    lora = LoraConfig(r=2, target_modules={"v_proj", "q_proj"}, task_type="CAUSAL_LM")
    policy = get_peft_model(model(), lora)
    tensors = get_peft_model_state_dict(policy)
    return {
        "config": policy.peft_config["default"].to_dict(),
        "tensors": {name: torch.full_like(t, number) for name, t in tensors.items()},
    }


def value(adapter):
    """Return the value that all tensors of an adapter hold."""
    (number,) = torch.cat([t.flatten() for t in adapter["tensors"].values()]).unique()
    return number.item()


def test_an_adapter_comes_back(dataset):
    assert not dataset.exists()
    saved = adapter(0.5)
    dataset.save(saved)
    assert dataset.exists()
    loaded = dataset.load()
    assert loaded["config"]["r"] == 2
    assert loaded["config"]["target_modules"] == ["q_proj", "v_proj"]
    assert loaded["tensors"].keys() == saved["tensors"].keys()
    for name, tensor in saved["tensors"].items():
        assert torch.equal(loaded["tensors"][name], tensor)


def test_what_was_loaded_can_be_saved(dataset, tmp_path):
    dataset.save(adapter(0.5))
    again = AdapterDataset(filepath=str(tmp_path / "again"))
    again.save(dataset.load())
    assert again.load()["config"] == dataset.load()["config"]


def test_peft_reads_the_folder(dataset, tmp_path):
    saved = adapter(0.5)
    dataset.save(saved)
    policy = PeftModel.from_pretrained(model(), tmp_path / "adapter")
    for name, tensor in get_peft_model_state_dict(policy).items():
        assert torch.equal(tensor, saved["tensors"][name])


def test_the_old_folder_is_replaced_as_a_whole(dataset, tmp_path):
    for number in (0.5, 0.25):
        dataset.save(adapter(number))
    assert value(dataset.load()) == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_failed_save_leaves_the_old_adapter(dataset, tmp_path):
    dataset.save(adapter(0.5))
    broken = adapter(0.25)
    (name, *_) = broken["tensors"]
    broken["tensors"][name] = None
    with pytest.raises(DatasetError):
        dataset.save(broken)
    assert value(dataset.load()) == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(dataset, tmp_path, name):
    dataset.save(adapter(0.5))
    (tmp_path / "adapter" / name).unlink()
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=f"adapter holds no {name}: run"):
        dataset.load()


@pytest.fixture
def versioned(tmp_path):
    """Return a function that makes the catalog of one run."""
    entry = {
        "type": "minirec.datasets.adapter.AdapterDataset",
        "filepath": (tmp_path / "adapter").as_posix(),
        "versioned": True,
    }

    def catalog(**versions):
        return DataCatalog.from_config({"adapter": entry}, **versions)

    return catalog


def test_versions_lie_side_by_side(versioned, tmp_path):
    assert not versioned().exists("adapter")
    for version, number in (("2026-01-01", 0.5), ("2026-01-02", 0.25)):
        versioned(save_version=version).save("adapter", adapter(number))
        folder = tmp_path / "adapter" / version / "adapter"
        policy = PeftModel.from_pretrained(model(), folder)
        assert value({"tensors": get_peft_model_state_dict(policy)}) == number
    assert versioned().exists("adapter")
    assert value(versioned().load("adapter")) == 0.25
    old = versioned(load_versions={"adapter": "2026-01-01"})
    assert value(old.load("adapter")) == 0.5
    none = versioned(load_versions={"adapter": "2026-01-03"})
    assert not none.exists("adapter")
    with pytest.raises(DatasetError, match=r"2026-01-03/adapter holds no adapter_conf"):
        none.load("adapter")


def test_a_version_is_saved_once(versioned):
    catalog = versioned(save_version="2026-01-01")
    catalog.save("adapter", adapter(0.5))
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        catalog.save("adapter", adapter(0.25))
    assert value(catalog.load("adapter")) == 0.5


def test_an_adapter_does_not_replace_its_versions(versioned, dataset):
    versioned(save_version="2026-01-01").save("adapter", adapter(0.5))
    with pytest.raises(DatasetError, match="adapter holds versions of the adapter"):
        dataset.save(adapter(0.25))
    assert value(versioned().load("adapter")) == 0.5


def test_a_versioned_adapter_goes_to_another_process(versioned):
    catalog = versioned(save_version="2026-01-01")
    pickle.loads(pickle.dumps(catalog["adapter"])).save(adapter(0.5))
    assert value(pickle.loads(pickle.dumps(catalog["adapter"])).load()) == 0.5


def test_the_catalog_tells_where_the_adapter_lies(versioned, tmp_path):
    catalog = versioned()
    for _ in range(2):  # before and after the dataset was made of its entry
        config, *_ = catalog.to_config()
        assert config["adapter"]["filepath"] == (tmp_path / "adapter").as_posix()
        assert config["adapter"]["versioned"]
        assert catalog["adapter"]
