import numpy as np
import pandas as pd
import pytest
import torch

from minirec.costs import counting
from minirec.errors import InputError
from minirec.policy.loading import get_adapter
from minirec.policy.params import GRPOParams, PaceParams, RankingParams
from minirec.ranking.encoder import encode, load_encoder
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


def test_two_processes_train_as_one_does(inputs, tmp_path):
    with counting() as own:
        alone, one = train_adapter(**inputs, kept=None)
    kept = Checkpoints(tmp_path / "key", steps=2)
    options = {"num_processes": 2, "main_process_port": 0}
    with counting() as theirs:
        together, two = train_in_processes(inputs, kept, options)
    assert theirs.tokens_trained == own.tokens_trained > 0
    assert theirs.tokens_generated == own.tokens_generated
    assert theirs.flops > 0  # padding is not the same
    pd.testing.assert_frame_equal(one.consumed, two.consumed)
    before = inputs["adapter"]["tensors"]
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
    rewards = one.log["reward"].to_numpy(), two.log["reward"].to_numpy()
    np.testing.assert_allclose(*rewards, rtol=1e-6)


def test_what_fails_in_a_process_is_told_in_one_sentence(inputs, tmp_path):
    other = {**inputs["adapter"], "tensors": {}}
    kept = Checkpoints(tmp_path / "key", steps=2)
    options = {"num_processes": 2, "main_process_port": 0}
    with pytest.raises(InputError, match="the adapter does not fit policy_model"):
        train_in_processes({**inputs, "adapter": other}, kept, options)
