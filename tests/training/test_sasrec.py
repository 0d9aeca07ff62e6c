import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from minirec.costs import counting
from minirec.errors import InputError
from minirec.training import item_pretraining, sasrec
from minirec.training.sasrec import SasrecParams, train_sasrec

pytest.importorskip("recbole")

ITEMS = pd.DataFrame({"item_id": [f"i{column}" for column in range(10)]})
PARAMS = SasrecParams(
    hidden_size=16,
    inner_size=32,
    n_layers=1,
    n_heads=2,
    hidden_dropout_prob=0.1,
    attn_dropout_prob=0.1,
    epochs=20,
    patience=20,
    validation_windows=50,
    batch_size=4,
    learning_rate=0.01,
)


@pytest.fixture
def interactions():
    """Twenty users who go round the catalogue, one item after the next."""
    splits = ["pretrain"] * 3 + ["train"] * 2 + ["valid", "test"]
    rows = [
        (f"u{user:02}", f"i{(user + step) % 10}", step, split)
        for user in range(20)
        for step, split in enumerate(splits)
    ]
    columns = ["user_id", "item_id", "position", "split"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)


def train(interactions, seed=0, **changed):
    params = PARAMS.model_copy(update=changed)
    return train_sasrec(interactions, ITEMS, params, 4, seed, "test")


def test_it_learns_what_comes_next(interactions, monkeypatch):
    better = itertools.count()  # so that the last epoch is kept
    monkeypatch.setattr(sasrec, "mean_ndcg", lambda *_: next(better))
    found = train(interactions)
    histories = [np.array([column, (column + 1) % 10]) for column in range(10)]
    scores = found.scores(histories)
    assert scores.shape == (10, 10)
    assert scores.dtype == np.float32
    assert scores.argmax(axis=1).tolist() == [(c + 2) % 10 for c in range(10)]
    assert found.log["loss"].iloc[-1] < 0.5 < found.log["loss"].iloc[0]


def test_equal_seeds_give_equal_scores_and_other_seeds_others(interactions):
    history = [np.array([3, 4])]
    one, same, other = (
        train(interactions, seed, epochs=3).scores(history) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_history_counts_by_its_last_window_and_by_itself_alone(interactions):
    found = train(interactions, epochs=2)
    long, short = np.array([9, 8, 0, 1, 2, 3]), np.array([5])
    together = found.scores([long, short, np.array([], int)])
    # beside others a row is padded, and sums are taken in another order
    np.testing.assert_allclose(together[:1], found.scores([long[-4:]]), atol=1e-6)
    np.testing.assert_allclose(together[1:2], found.scores([short]), atol=1e-6)
    assert np.isfinite(together).all()
    assert found.scores([]).shape == (0, 10)


def test_the_loss_is_over_every_position_of_a_piece(interactions):
    """That of RecBole's own loss, asked for one position at a time."""
    import torch
    from recbole.model.abstract_recommender import SequentialRecommender

    plain = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    model = sasrec.new_model(10, PARAMS.model_copy(update=plain), 4, seed=0)
    own = np.array([2, 7, 1, 0])
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    found = sasrec._epoch(model, still, [own], 4, batch_size=2, seed=[0, 1])

    pieces = item_pretraining.cut([own], 5, 2, np.random.default_rng([0, 1]))
    model.gather_indexes = SequentialRecommender.gather_indexes.__get__(model)
    losses = []
    for piece in pieces[0]:
        for end in range(1, len(piece)):
            batch = {
                "item_id_list": torch.tensor(piece[None, :end] + 1),
                "item_length": torch.tensor([end]),
                "item_id": torch.tensor(piece[end : end + 1] + 1),
            }
            losses.append(model.calculate_loss(batch).item())
    assert len(losses) > 1
    assert found == pytest.approx(np.mean(losses), abs=1e-6)


def test_training_learns_pretrain_and_train_and_stops_at_its_best(
    interactions, monkeypatch
):
    measured, models = iter([0.1, 0.3, 0.2, 0.3, 0.9]), []

    def mean_ndcg(scores, data):
        # ten users' validation windows of twenty, seen up to the target
        assert [len(own) for own in data.sequences] == [5] * 20
        assert [len(past) for past in data.past] == [5] * 10
        models.append(scores([np.array([3, 4])]))
        return next(measured)

    monkeypatch.setattr(sasrec, "mean_ndcg", mean_ndcg)
    found = train(interactions, patience=2, validation_windows=10)
    assert found.log["ndcg@10"].tolist() == [0.1, 0.3, 0.2, 0.3]
    assert np.array_equal(found.scores([np.array([3, 4])]), models[1])


def test_costs_are_counted(interactions):
    with counting() as trained:
        found = train(interactions, epochs=1)
    # of 5 items the first cannot be foretold, nor the first of a second piece
    assert 20 * 3 <= trained.tokens_trained <= 20 * 4
    assert trained.tokens_read == 20 * 4  # of validation, the last 4 of 5
    with counting() as read:
        found.scores([np.array([1, 2, 3]), np.array([4])])
    assert read.tokens_read == 4
    weights = 4 * 16 * 16 + 2 * 16 * 32
    attention, logits = 4 * 16 * 2 * 3**2, 2 * 11 * 16 * 2
    assert read.flops == 2 * weights * 6 + attention + logits


def test_recbole_does_not_slow_down_the_process():
    """Of its own accord, it makes torch look for NaN in every gradient."""
    code = """
import runpy, torch
from minirec.training.sasrec import new_model
tests = runpy.run_path(%r)
new_model(10, tests["PARAMS"], 4, seed=0)
assert not torch.is_anomaly_enabled()
"""
    subprocess.run([sys.executable, "-c", code % __file__], check=True)


def test_a_missing_recbole_is_said(interactions, monkeypatch):
    name = "recbole.model.sequential_recommender.sasrec"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        InputError,
        match=r"train_eval\.evaluation\.baselines names sasrec.*"
        r"pip install --no-deps -r requirements-sasrec\.lock",
    ):
        train(interactions)


def test_what_cannot_be_trained_is_refused(interactions):
    with pytest.raises(InputError, match="no user has two interactions to learn"):
        train(interactions[interactions["position"] > 4])
    with pytest.raises(ValidationError, match=r"hidden_size is 16, .* n_heads \(3\)"):
        SasrecParams(**{**PARAMS.model_dump(), "n_heads": 3})
