import pytest
import torch
from kedro.io import DatasetError
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


def adapter(value):
    """Make an adapter whose tensors all hold one value."""
    lora = LoraConfig(r=2, target_modules={"v_proj", "q_proj"}, task_type="CAUSAL_LM")
    policy = get_peft_model(model(), lora)
    tensors = get_peft_model_state_dict(policy)
    return {
        "config": policy.peft_config["default"].to_dict(),
        "tensors": {name: torch.full_like(t, value) for name, t in tensors.items()},
    }


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
    for value in (0.5, 0.25):
        dataset.save(adapter(value))
    (tensor, *_) = dataset.load()["tensors"].values()
    assert torch.equal(tensor, torch.full_like(tensor, 0.25))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_failed_save_leaves_the_old_adapter(dataset, tmp_path):
    dataset.save(adapter(0.5))
    broken = adapter(0.25)
    (name, *_) = broken["tensors"]
    broken["tensors"][name] = None
    with pytest.raises(DatasetError):
        dataset.save(broken)
    (tensor, *_) = dataset.load()["tensors"].values()
    assert torch.equal(tensor, torch.full_like(tensor, 0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(dataset, tmp_path, name):
    dataset.save(adapter(0.5))
    (tmp_path / "adapter" / name).unlink()
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=f"adapter holds no {name}: run"):
        dataset.load()
