"""The environment ``item_tokens``: every pipeline, without a model of anybody's."""

import numpy as np
import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minirec.errors import InputError
from minirec.parameters import check_parameters
from minirec.pipelines.export import nodes as export
from minirec.policy.loading import load_tokenizer
from minirec.ranking.encoder import load_encoder

SMALL = {
    "policy": {
        "item_tokens": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "pretraining": {"epochs": 3, "patience": 1, "validation_windows": 30},
            "slate_size": 2,
        }
    },
    "preprocess": {"k_core": 2, "window": 6, "pool": {"train": 24, "test": 20}},
    "score": {
        "proxy": {"prompts": 8, "prompts_per_step": 4, "grpo": {"num_generations": 8}},
        "probe": {"rollouts": 8},
        "gradients": {"space": "weights", "dimensions": 64},
        "representativeness": {"direction": "proxy"},
    },
    "select": {"prune": {"min_spread": None}, "size": 10},
    "train_eval": {
        "train": {
            "prompts_per_step": 4,
            "grpo": {"num_generations": 8, "num_train_epochs": 2},
        },
        "evaluation": {"bootstrap_draws": 200, "sasrec": {"epochs": 2}},
    },
}


@pytest.fixture(scope="module")
def project(copy_project):
    """A copy of the project whose environment works on the fixtures."""
    path = copy_project()
    own = path / "conf" / "item_tokens"
    catalog = (path / "conf" / "test" / "catalog.yml").read_text()
    (own / "catalog.yml").write_text(catalog)
    merged = OmegaConf.merge(OmegaConf.load(own / "parameters.yml"), SMALL)
    OmegaConf.save(merged, own / "parameters.yml")
    return path


@pytest.fixture(scope="module")
def parameters_of_items(parameters, project):
    """All parameters of the environment."""
    base = OmegaConf.create(parameters)
    own = OmegaConf.load(project / "conf" / "item_tokens" / "parameters.yml")
    return OmegaConf.to_container(OmegaConf.merge(base, own))


def test_every_pipeline(project, kedro):
    done = kedro(project, "run", "--env", "item_tokens")
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "ranked 20 prompts by 2 policies" in said
    data = project / "data" / "item_tokens"
    prompts = pd.read_parquet(data / "03_primary" / "prompts.parquet")
    assert set(prompts["split"]) == {"train", "test"}  # none of `pretrain`
    folder = data / "06_models" / "policy_adapter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lm = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(prompts["prompt"][0])["input_ids"]
    assert len(ids) == prompts["n_tokens"][0]
    assert (
        tokenizer.convert_ids_to_tokens(ids)[1:]
        == prompts["history_item_id"][0].tolist()
    )
    assert lm.config.vocab_size == len(tokenizer)
    features = data / "04_feature"
    rollouts = pd.read_parquet(features / "rollouts.parquet")
    assert len(rollouts) == 24 * 8
    assert set(rollouts["token_id"].map(len)) == {2}
    seen = prompts.set_index("sample_id")["seen_item_id"]
    for sample_id, completion in zip(
        rollouts["sample_id"], rollouts["completion"], strict=True
    ):
        one, other = completion.split()
        assert one != other
        assert not {one, other} & set(seen[sample_id])
    embeddings = load_file(features / "embeddings.safetensors")["matrix"]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert load_file(features / "gradients.safetensors")["matrix"].shape == (24, 64)
    log = pd.read_parquet(data / "06_models" / "policy_log.parquet")
    assert len(log) == 5  # 10 prompts, twice, in steps of four
    metrics = pd.read_csv(data / "08_reporting" / "metrics.csv")
    baselines = {
        "popularity",
        "item_knn",
        "sasrec",
    }  # without an encoder none is nearest
    assert set(metrics["method"]) == {"trained", "untrained"} | baselines
    page = (data / "08_reporting" / "report.html").read_text()
    assert "item_tokens: made and pre-trained here, float32" in page
    assert "agrees with the way that the proxy moved" in page
    assert page.count("Chosen as pick ") == 10


def test_there_is_nothing_to_export():
    with pytest.raises(InputError, match="whose prompts are no texts"):
        export.export_chat_template({}, None, "item_tokens")
    with pytest.raises(InputError, match="whose prompts are no texts"):
        export.export_curriculum(None, None, None, {}, None, "item_tokens")


def test_another_kind_needs_a_model():
    with pytest.raises(InputError, match=r"policy_model is null .* --env item_tokens"):
        load_tokenizer({})
    with pytest.raises(InputError, match=r"encoder_model is null .* --env item_tokens"):
        load_encoder({})


SERVER = {
    "address": "http://localhost:1/v1",
    "model": "proxy",
    "protocol": "vllm",
    "api_key_env": None,
    "timeout_seconds": 1,
    "retries": 1,
    "concurrency": 1,
}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("policy.kind=text", "space is weights, which policy.kind text does not have"),
        ("score.gradients.space=lora", "take weights, hidden or hessian"),
        ("score.probe.server=given", "score.probe.server is for text"),
        ("train_eval.train.grpo.epsilon=0.1", "grpo.epsilon has no meaning"),
        ("policy.item_tokens.num_attention_heads=3", "no multiple of twice"),
        ("policy.dtype=bfloat16", "policy.dtype is bfloat16, .* take float32"),
    ],
)
def test_what_the_kind_does_not_have_is_refused(parameters_of_items, given, message):
    name, _, value = given.partition("=")
    changed = OmegaConf.create(parameters_of_items)
    OmegaConf.update(
        changed, name, SERVER if value == "given" else yaml.safe_load(value)
    )
    with pytest.raises(InputError, match=message):
        check_parameters(OmegaConf.to_container(changed))
