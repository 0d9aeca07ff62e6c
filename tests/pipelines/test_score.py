import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file

from minirec.errors import InputError
from minirec.parameters import check_parameters
from minirec.pipelines.keys import work_key
from minirec.pipelines.score import create_pipeline, nodes
from minirec.pipelines.score.params import (
    GradientParams,
    LearnabilityParams,
    RepresentativenessParams,
    ValueParams,
)
from minirec.policy import gradients
from minirec.policy.loading import new_adapter, outline
from minirec.policy.server import ServerParams
from minirec.policy.workers import make_prober
from minirec.schemas import Learnability, Representativeness, Scores

REWARDS = pd.DataFrame(
    {
        "sample_id": [8, 8, 3, 3, 5, 5, 6, 6],  # 6 is of validation
        "rollout": [0, 1, 0, 1, 0, 1, 0, 1],
        "rank": [0, 0, 4, 9, 50, 50, 0, 0],
        "reward": [0.4, 0.6, 0.1, 0.3, 0.0, 0.0, 0.9, 0.7],
    }
)


PROMPTS = pd.DataFrame(
    {
        "sample_id": [8, 3, 5, 2, 6],
        "split": ["train", "train", "train", "test", "valid"],
        "n_tokens": [9, 9, 9, 9, 9],
    }
)


def test_learnability_peaks_at_mu():
    params = LearnabilityParams(mu=0.2, sigma=0.1)
    table = Learnability.validate(nodes.score_learnability(PROMPTS, REWARDS, params))
    assert table["sample_id"].tolist() == [3, 5, 8]
    np.testing.assert_allclose(table["mean_reward"], [0.2, 0.0, 0.5])
    np.testing.assert_allclose(table["std_reward"], [0.1, 0.0, 0.1], atol=1e-15)
    # exp(0), exp(-2) and exp(-4.5), then min-max
    low, middle = np.exp(-4.5), np.exp(-2)
    expected = [1.0, (middle - low) / (1 - low), 0.0]
    np.testing.assert_allclose(table["learnability"], expected, atol=1e-11)


def test_mu_of_the_pool_is_told(caplog):
    caplog.set_level("INFO", logger="minirec")
    auto = LearnabilityParams(mu="auto", sigma=0.1)
    table = nodes.score_learnability(PROMPTS, REWARDS, auto)
    # (0.2^2 + 0 + 0.5^2) / (0.2 + 0.5), without the validation sample
    assert caplog.messages == ["score_learnability: mu is 0.4143, by auto"]
    given = LearnabilityParams(mu=0.29 / 0.7, sigma=0.1)
    expected = nodes.score_learnability(PROMPTS, REWARDS, given)
    pd.testing.assert_frame_equal(table, expected)
    assert len(caplog.messages) == 1


def test_mu_is_a_number_or_auto():
    sentence = "score.learnability.mu is 'automatic': give a mean reward, or auto"
    with pytest.raises(ValidationError, match=sentence):
        LearnabilityParams(mu="automatic", sigma=None)


def test_samples_of_fewer_rollouts_are_scored_by_those():
    params = LearnabilityParams(mu=0.2, sigma=0.1)
    table = nodes.score_learnability(PROMPTS, REWARDS.drop([1, 4]), params)
    assert table["sample_id"].tolist() == [3, 5, 8]
    np.testing.assert_allclose(table["mean_reward"], [0.2, 0.0, 0.4])
    np.testing.assert_allclose(table["std_reward"], [0.1, 0.0, 0.0], atol=1e-15)


def test_value_weighs_learnability():
    learnability = nodes.score_learnability(
        PROMPTS, REWARDS, LearnabilityParams(mu=0.2, sigma=0.1)
    )
    representativeness = pd.DataFrame(
        {"sample_id": [8, 5, 3], "representativeness": [1.0, 0.5, 0.0]}
    )
    scores = nodes.join_scores(learnability, representativeness, ValueParams(alpha=2))
    assert Scores.validate(scores)["sample_id"].tolist() == [3, 5, 8]
    expected = 2 * learnability["learnability"] + [0.0, 0.5, 1.0]
    np.testing.assert_allclose(scores["value"], expected)


def test_scores_of_different_samples_are_refused():
    learnability = nodes.score_learnability(
        PROMPTS, REWARDS, LearnabilityParams(mu=0.2, sigma=0.1)
    )
    other = pd.DataFrame({"sample_id": [3, 5, 9], "representativeness": [0.0] * 3})
    with pytest.raises(InputError, match="hold different samples"):
        nodes.join_scores(learnability, other, ValueParams(alpha=1))


# the pool's mean points along the first axis, validation's along the second
GRADIENTS = {
    "sample_id": np.array([3, 5, 6, 8]),
    "matrix": np.array([[2.0, 0], [1, 1], [0, 3], [0, -1]], np.float32),
}
COSINES = {
    "mean": [1, 0.5**0.5, 0],
    "validation": [0, 0.5**0.5, -1],
    "proxy": [-1, -(0.5**0.5), 0],
}


@pytest.mark.parametrize("direction", COSINES)
def test_representativeness_is_the_cosine_with_a_direction(monkeypatch, direction):
    monkeypatch.setattr(gradients, "adapter_movement", lambda *_: np.array([-3.0, 0.0]))
    table = nodes.score_representativeness(
        PROMPTS,
        GRADIENTS,
        {},
        {},
        GradientParams(space="lora", last_blocks=1, dimensions=2, batch_size=1),
        RepresentativenessParams(direction=direction),
        seed=0,
    )
    assert Representativeness.validate(table)["sample_id"].tolist() == [3, 5, 8]
    cosine = np.array(COSINES[direction])
    expected = (cosine - cosine.min()) / np.ptp(cosine)
    np.testing.assert_allclose(table["representativeness"], expected, atol=1e-15)


def test_without_gradients_no_sample_is_more_representative():
    none = nodes.collect_gradients(
        PROMPTS,
        *[None] * 5,
        gradient=None,
        memory_gb=1,
        execution=None,
        finished_batches=None,
        seed=0,
    )
    assert none["matrix"].shape == (0, 0)
    table = nodes.score_representativeness(PROMPTS, none, {}, {}, None, None, seed=0)
    assert Representativeness.validate(table)["sample_id"].tolist() == [3, 5, 8]
    assert table["representativeness"].tolist() == [0, 0, 0]


@pytest.fixture
def prompts():
    return pd.DataFrame(
        {
            "sample_id": [1, 2, 3, 4, 5],
            "split": ["train", "test", "train", "train", "valid"],
            "draw": [2, 0, 0, 1, 0],
            "n_tokens": [10, 99, 30, 30, 20],
        }
    )


def test_scored_are_training_and_validation_longest_first(prompts):
    assert nodes._scored(prompts)["sample_id"].tolist() == [4, 3, 5, 1]


def test_the_proxy_trains_on_the_first_that_were_drawn(prompts):
    first = nodes._first_drawn(prompts, 2, "score.proxy.prompts")
    assert first["sample_id"].tolist() == [3, 4]


def test_a_proxy_larger_than_the_pool(prompts):
    with pytest.raises(InputError, match=r"score\.proxy\.prompts is 4, .* has 3"):
        nodes._first_drawn(prompts, 4, "score.proxy.prompts")


def test_sizes_are_found_and_told(test_run):
    said = " ".join(test_run.output.split())
    assert re.search(r"collect_gradients: \d+ prompts at once, within 1 GB", said)
    assert not re.search(r"probe_rewards: \d+ prompts at once", said)  # it was given


def test_an_adapter_that_does_not_fit_is_refused_before_a_model_is_loaded(
    prompts, parameters, policy_model, policy_params, tmp_path, monkeypatch
):
    lm = new_adapter(outline(policy_model, "float32"), policy_params.lora, seed=0)
    config = lm.peft_config["default"].to_dict()
    adapter = {"config": config, "tensors": {"any": torch.zeros(1)}}
    params = check_parameters(parameters)

    def map_batches(*_, **__):
        raise AssertionError("work has begun")

    monkeypatch.setattr(nodes, "map_batches", map_batches)
    everything = prompts.assign(prompt="", target_item_id="", seen_item_id=None)
    rollouts = pd.DataFrame({"sample_id": [1, 3, 4, 5], "rollout": 0, "reward": 0.0})
    rollouts["token_id"] = [[5]] * 4
    about = {"policy": policy_params, "policy_model": policy_model, "seed": 0}
    about |= {"proxy_adapter": adapter, "execution": params.execution, "memory_gb": 1}
    with pytest.raises(InputError, match="adapter does not fit policy_model"):
        nodes.probe_rewards(
            everything,
            pd.DataFrame({"item_id": ["a"]}),
            {},
            encoder_model={},
            ranking=params.ranking,
            probe=params.score.probe,
            finished_batches=tmp_path,
            **about,
        )
    with pytest.raises(InputError, match="adapter does not fit policy_model"):
        nodes.collect_gradients(
            everything,
            rollouts,
            rollouts,
            gradient=params.score.gradients,
            finished_batches=tmp_path,
            **about,
        )


@pytest.mark.parametrize("group", ["policy", "score.proxy"])
def test_the_start_takes_only_a_part_of_what_the_proxy_takes(group):
    part = create_pipeline().from_inputs(f"params:{group}")
    touched = {node.name for node in part.nodes}
    assert "train_proxy" in touched
    assert "warm_start_policy" not in touched


def test_adaptive_probing_through_every_pipeline(test_run, kedro, tmp_path):
    path = tmp_path / "project"
    shutil.copytree(test_run.path, path)
    adaptive = {
        "first": 2,
        "step": 2,
        "too_easy": "null",
        "too_hard": "null",
        "width": 0.1,
        "confidence": 0.9,
        "prior_std": 0.05,
    }
    given = [f"score.probe.adaptive.{name}={value}" for name, value in adaptive.items()]
    params = ",".join(["score.probe.rollouts=8", *given])
    done = kedro(
        path, "run", "--env", "test", "--only-missing-outputs", "--params", params
    )
    assert done.returncode == 0, done.stdout + done.stderr

    features = "data/test/04_feature/rewards.parquet"
    full, found = (pd.read_parquet(at / features) for at in (test_run.path, path))
    counts = found["sample_id"].value_counts()
    assert set(counts.index) == set(full["sample_id"])
    assert counts.min() < counts.max()
    assert set(counts) <= {2, 4, 6, 8}
    both = found.merge(full, on=["sample_id", "rollout"], suffixes=("", "_full"))
    assert len(both) == counts.clip(upper=4).sum()
    assert both["rank"].tolist() == both["rank_full"].tolist()
    possible = 8 * len(counts)
    saved = (
        f"{len(found)} of {possible} rollouts written: {possible - len(found)} saved"
    )
    assert saved in " ".join(done.stdout.split())


def test_a_server_that_comes_back_elsewhere_finds_what_it_wrote(policy_model):
    config = {"base_model_name_or_path": "anywhere", "r": 4}
    init = {"adapter": {"config": config, "tensors": {}}, "policy_model": policy_model}
    server = ServerParams(
        address="http://localhost:1/v1",
        model="proxy",
        protocol="vllm",
        api_key_env=None,
        timeout_seconds=1,
        retries=1,
        concurrency=1,
    )
    keys = [
        work_key(make_prober, {**init, "server": server.model_copy(update=other)})
        for other in ({}, {"address": "http://b:2/v1", "retries": 9}, {"model": "two"})
    ]
    assert keys[0] == keys[1] != keys[2]


GROWING = "preprocess.pool.valid=4,score.representativeness.direction=validation"


def test_a_larger_pool_scores_the_new_prompts_alone(copy_project, kedro):
    path = copy_project()

    def score(n, space):
        params = f"{GROWING},preprocess.pool.train={n},score.gradients.space={space}"
        done = kedro(
            path,
            *("run", "--env", "test", "--pipelines", "preprocess,score"),
            *("--only-missing-outputs", "--params", params),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        features = path / "data" / "test" / "04_feature"
        tables = {
            name: pd.read_parquet(features / f"{name}.parquet")
            for name in ("rewards", "representativeness")
        }
        gradients = load_file(features / "gradients.safetensors")
        return " ".join(done.stdout.split()), tables, gradients

    _, before, few = score(20, "hidden")
    said, after, many = score(24, "hidden")
    # validation prompts are scored beside those of training, and never chosen
    assert said.count("24 of 28 rows are finished already") == 2
    assert [len(t["representativeness"]) for t in (before, after)] == [20, 24]
    old = after["rewards"]["sample_id"].isin(before["rewards"]["sample_id"])
    pd.testing.assert_frame_equal(
        after["rewards"][old].reset_index(drop=True), before["rewards"]
    )
    kept = np.isin(many["sample_id"], few["sample_id"])
    np.testing.assert_array_equal(many["matrix"][kept], few["matrix"])
    _, _, curved = score(24, "hessian")
    assert curved["matrix"].shape == many["matrix"].shape
    assert not np.allclose(curved["matrix"], many["matrix"])
