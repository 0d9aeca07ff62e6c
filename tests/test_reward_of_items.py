"""A reward that reads the table of items, through scoring and training."""

import shutil

import pandas as pd
import pytest

REWARD = """
def by_title(ranks, scores, targets, items):
    return 10.0 + items["title"].str.len().to_numpy()[targets]
"""
# as small as the other test runs of these environments
SMALL = {
    "test": [],
    "item_tokens": [
        "preprocess.k_core=2",
        "preprocess.pool.train=24",
        "preprocess.pool.test=20",
        "policy.item_tokens.pretraining.epochs=1",
        "score.proxy.prompts=8",
        "score.proxy.prompts_per_step=4",
        "train_eval.train.prompts_per_step=4",
        "select.size=10",
    ],
}


@pytest.mark.parametrize("env", SMALL)
def test_it_is_asked_wherever_something_is_rewarded(test_run, kedro, tmp_path, env):
    project = tmp_path / "project"
    shutil.copytree(test_run.path, project)
    (project / "src" / "mine.py").write_text(REWARD)
    catalog = (project / "conf" / "test" / "catalog.yml").read_text()
    (project / "conf" / env / "catalog.yml").write_text(catalog)
    asked = ("--env", env, "--only-missing-outputs", "--to-nodes", "train_policy")
    # it says nothing of the answer, so that no sample has spread
    params = ["ranking.reward=mine.by_title", "select.prune.min_spread=null"]
    done = kedro(project, "run", *asked, "--params", ",".join([*params, *SMALL[env]]))
    assert done.returncode == 0, done.stdout + done.stderr

    data = project / "data" / env
    items = pd.read_parquet(data / "02_intermediate" / "items.parquet")
    prompts = pd.read_parquet(data / "03_primary" / "prompts.parquet")
    length = items.set_index("item_id")["title"].str.len()
    expected = 10.0 + prompts.set_index("sample_id")["target_item_id"].map(length)
    rewards = pd.read_parquet(data / "04_feature" / "rewards.parquet")
    answered = rewards[rewards["reward"] != 0]
    assert len(answered) > len(rewards) / 2
    assert (answered["reward"] == answered["sample_id"].map(expected)).all()
    # the mean of a step, in which some may hold no answer
    for name in ("proxy_log", "policy_log"):
        log = pd.read_parquet(data / "06_models" / f"{name}.parquet")
        assert (log["reward"] > 2).all()
