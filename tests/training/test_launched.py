import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from minirec.costs import counting
from minirec.errors import InputError
from minirec.execution.params import ExecutionParams
from minirec.policy.loading import get_adapter
from minirec.policy.params import GRPOParams, PaceParams, PolicyParams, RankingParams
from minirec.ranking.encoder import encode, load_encoder
from minirec.training import checkpoints, launched
from minirec.training.grpo import Checkpoints, train_adapter
from minirec.training.launched import train_in_processes


@pytest.fixture
def inputs(learner, prompts, items, policy_model, encoder_model, policy_params):
    """Arguments of a training of three steps, whose stages give way at a pace.

    Steps are those of plain descent, in which rounding stays what it is: Adam divides
    a gradient by its size, and would make one of rounding errors as large as any.
    """
    encoder = load_encoder(encoder_model)
    return {
        "adapter": get_adapter(learner().lm),
        "curriculum": pd.DataFrame(
            {
                "sample_id": [12, 4, 9, 15, 7],
                "stage": [0, 0, 1, 1, 1],
                "mean_reward": [0.5, 0.4, 0.3, 0.2, 0.1],
            }
        ),
        "prompts": prompts,
        "items": items.assign(popularity=1),
        "item_embeddings": {"matrix": encode(encoder, items["title"].tolist())},
        "policy_model": policy_model,
        "encoder_model": encoder_model,
        "policy": policy_params,
        "ranking": RankingParams(
            prior_weight=0.0, reward="minirec.ranking.rewards.ndcg_and_probability"
        ),
        "grpo": GRPOParams(
            learning_rate=10.0, num_generations=2, beta=0.0, optim="sgd"
        ),
        "prompts_per_step": 2,
        "pace": PaceParams(rise=0.0, window=2, max_passes=2),
        "seed": 3,
        "label": "test",
    }


BAD_REWARDS = """
import numpy as np

def nowhere(ranks, scores, targets):
    return np.full(len(ranks), np.nan)

def too_few(ranks, scores, targets):
    return np.ones(len(ranks) - 1)

def of_all_scores(ranks, scores, targets):
    return scores.mean(axis=1)  # those of seen items are -inf

def by_name(ranks, scores, targets, items):
    return items["name"].str.len()[targets]
"""


@pytest.mark.parametrize("accelerate", [None, {"num_processes": 2}])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adapter", "the adapter does not fit policy_model"),
        ("checkpoint", "step-00000002 is not as it was written: delete this folder"),
        ("nowhere", r"made up: ranking.reward \(bad_rewards.nowhere\) .* not finite"),
        ("too_few", r"array of shape \(1,\) for 2 completions: return one number"),
        ("by_name", r"targets, items\), failed .*'name' \(bad_rewards.py, line 14\)"),
        ("of_all_scores", r"bad_rewards.of_all_scores\) .* is not finite"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_training(
    inputs, parameters, tmp_path, monkeypatch, name, sentence, accelerate
):
    def begin(*_, **__):
        raise AssertionError("training has begun")

    monkeypatch.setattr(launched, "train_adapter", begin)
    monkeypatch.setattr(launched, "train_in_processes", begin)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bad_rewards.py").write_text(BAD_REWARDS)
    folder = tmp_path / "checkpoints" / "test" / "key"
    if name == "adapter":
        inputs["adapter"] = {**inputs["adapter"], "tensors": {}}
    elif name == "checkpoint":
        (folder / "step-00000002").mkdir(parents=True)
    else:
        reward = f"bad_rewards.{name}"
        inputs["ranking"] = RankingParams(prior_weight=0.0, reward=reward)
    execution = {**parameters["execution"], "accelerate": accelerate}
    with pytest.raises(InputError, match=sentence):
        launched.train(
            inputs,
            tmp_path / "checkpoints",
            "key",
            ExecutionParams.model_validate(execution),
        )


OPTIONS = {"num_processes": 2, "main_process_port": 0}


def train_both(inputs, tmp_path):
    """Train in this process and in two others; they come to the same adapter."""
    with counting() as own:
        alone, one = train_adapter(**inputs, kept=None)
    kept = Checkpoints(tmp_path / "key", steps=2)
    with counting() as theirs:
        together, two = train_in_processes(inputs, kept, OPTIONS)
    assert theirs.tokens_generated == own.tokens_generated
    assert_alike(inputs["adapter"], alone, together)
    rewards = one.log["reward"].to_numpy(), two.log["reward"].to_numpy()
    np.testing.assert_allclose(*rewards, rtol=1e-6)
    pd.testing.assert_frame_equal(one.consumed, two.consumed)
    return one, two, own, theirs


def assert_alike(start, alone, together):
    before = start["tensors"]
    moved, error = (
        torch.cat([(a[name] - b[name]).flatten() for name in before]).norm()
        for a, b in [
            (alone["tensors"], before),
            (together["tensors"], alone["tensors"]),
        ]
    )
    # a gradient is a sum of some 2^12 products of float32
    assert moved > 0
    assert error < 2**12 * np.finfo(np.float32).eps * moved


# what a process opens, by its rank: notes are written to a file that is already open
NOTING = """
import os, sys
if "RANK" in os.environ:
    name = os.path.join({folder!r}, f"{{os.environ['RANK']}}-{{os.getpid()}}")
    notes = os.open(name, os.O_WRONLY | os.O_CREAT)

    def note(event, given):
        if event == "open" and isinstance(given[0], str):
            writes = given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            kind = "writes" if writes else "reads"
            os.write(notes, f"{{kind}} {{os.path.abspath(given[0])}}\\n".encode())

    sys.addaudithook(note)
"""


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Return a function that says what launched processes opened: (rank, what, path)."""
    folder, site = tmp_path / "notes", tmp_path / "site"
    folder.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(NOTING.format(folder=str(folder)))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)

    def read():
        return [
            (file.name.partition("-")[0], *line.split(" ", 1))
            for file in folder.iterdir()
            for line in file.read_text().splitlines()
        ]

    return read


def test_two_processes_consume_the_curriculum_and_one_writes(
    inputs, tmp_path, opened, capfd
):
    """Five prompts in steps of two: one of the last stage again fills the third."""
    one, two, own, theirs = train_both({**inputs, "pace": None}, tmp_path)
    expected = [*inputs["curriculum"]["sample_id"], 9]
    for training in (one, two):
        assert training.consumed["sample_id"].tolist() == expected
        assert training.consumed["stage"].tolist() == [0, 0, 1, 1, 1, 1]
        assert training.consumed["padding"].tolist() == [False] * 5 + [True]
    said = "test: the last step is filled by 1 more of the last stage"
    assert capfd.readouterr().err.count(said) == 1  # by one of the two
    assert theirs.tokens_trained == own.tokens_trained > 0
    assert theirs.flops > 0  # padding is not the same

    notes = opened()
    assert {rank for rank, *_ in notes} == {"0", "1"}
    key = str(tmp_path / "key")
    writers = {rank for rank, what, path in notes if what == "writes" and key in path}
    assert writers == {"0"}
    assert not [path for *_, path in notes if Path(path).name == "catalog.yml"]


OWN_REWARD = """
from pathlib import Path

def nearest(ranks, scores, targets):
    if 2 in targets.tolist() and Path({dark!r}).exists():
        raise KeyError("the lights went out")
    return 1 / (1 + ranks)
"""


def test_two_processes_go_on_behind_their_checkpoint(inputs, tmp_path, monkeypatch):
    """A reward fails in one of them; at a pace, which what was earned decides."""
    dark = tmp_path / "dark"
    (tmp_path / "own_reward.py").write_text(OWN_REWARD.format(dark=str(dark)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    inputs["ranking"] = RankingParams(prior_weight=0.0, reward="own_reward.nearest")
    alone, one = train_adapter(**inputs, kept=None)
    kept = Checkpoints(tmp_path / "key", steps=1)
    dark.touch()
    with pytest.raises(
        InputError, match="failed for sample 9: KeyError: 'the lights went out'"
    ):
        train_in_processes(inputs, kept, OPTIONS)
    (last,) = kept.folder.glob("step-*")
    assert checkpoints.last_of(kept.folder) == last
    dark.unlink()
    together, two = train_in_processes(inputs, kept, OPTIONS)
    assert_alike(inputs["adapter"], alone, together)
    pd.testing.assert_frame_equal(one.consumed, two.consumed)
    assert two.log["step"].tolist() == one.log["step"].tolist()


def test_two_processes_rank_the_same_items(inputs, tmp_path):
    """The kind ``policy_head``: four prompts are one another's negatives in both."""
    prompt = {"template": "conf/prompts/head.txt", "max_tokens": None}
    policy = {**inputs["policy"].model_dump(), "kind": "policy_head", "prompt": prompt}
    head = {**policy["head"], "item_loss_weight": 1.0, "refresh": 2}
    changed = {
        "policy": PolicyParams.model_validate({**policy, "head": head}),
        "grpo": inputs["grpo"].model_copy(update={"learning_rate": 0.1}),
        "prompts_per_step": 4,
        "pace": None,
    }
    one, two, *_ = train_both(inputs | changed, tmp_path)
    losses = one.log["item_loss"].to_numpy(), two.log["item_loss"].to_numpy()
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0].min() > 0.1
