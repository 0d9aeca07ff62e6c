import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from minirec.costs import counting
from minirec.errors import InputError
from minirec.training import sasrec
from minirec.training.sasrec import SasrecParams, train_sasrec

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
    steps=100,
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


def train(interactions, seed=0, folder=None, **changed):
    params = PARAMS.model_copy(update=changed)
    return train_sasrec(interactions, ITEMS, params, 4, seed, "test", folder)


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
    found = sasrec._epoch(model, still, [own], 2, PARAMS, seed=[0, 1])

    (pieces,) = sasrec._batches([own], 2, 4, 100, np.random.default_rng([0, 1]))
    model.gather_indexes = SequentialRecommender.gather_indexes.__get__(model)
    losses = []
    for read, target in (piece.T for piece in pieces):
        for end in range(1, len(read) + 1):
            batch = {
                "item_id_list": torch.tensor(read[None, :end] + 1),
                "item_length": torch.tensor([end]),
                "item_id": torch.tensor(target[end - 1 : end] + 1),
            }
            losses.append(model.calculate_loss(batch).item())
    assert len(losses) == 3
    assert found == pytest.approx(np.mean(losses), abs=1e-6)


@pytest.mark.parametrize("window", [1, 3, 4, 20])
def test_every_item_but_a_history_s_first_is_a_target_once(window):
    sequences = [np.arange(own, own + n) for own, n in [(0, 2), (10, 5), (20, 16)]]
    batches = sasrec._batches(sequences, window, 4, 100, np.random.default_rng(0))
    pieces = [piece for batch in batches for piece in batch]
    # one after the other, so that the first of a piece is the last of the one before
    assert all((target - read == 1).all() for read, target in (p.T for p in pieces))
    assert all(1 <= len(piece) <= window for piece in pieces)
    found = np.sort(np.concatenate([piece[:, 1] for piece in pieces]))
    expected = np.concatenate([own[1:] for own in sequences])
    assert found.tolist() == expected.tolist()


def test_users_with_two_items_alone_are_learned(interactions):
    short = interactions["position"].isin([0, 1, 5])
    found = train(interactions[short], epochs=2)
    assert np.isfinite(found.log["loss"]).all()


def test_an_epoch_takes_no_more_than_its_steps_and_draws_users_anew():
    sequences = [np.arange(own, own + 10) for own in range(0, 1000, 10)]
    read = []
    for epoch in range(2):
        noise = np.random.default_rng([0, epoch])
        batches = sasrec._batches(sequences, 4, batch_size=2, steps=6, noise=noise)
        assert [len(batch) for batch in batches] == [2] * 6
        read.append({piece[0, 0] // 10 for batch in batches for piece in batch})
    assert len(read[0]) < 12
    assert read[0] != read[1]


def test_what_was_cut_short_ends_as_if_it_had_not_been(
    interactions, tmp_path, monkeypatch
):
    """The second epoch is the best, the third is cut; two more, and patience ends."""
    measure = {0: 0.1, 1: 0.3, 2: 0.2, 3: 0.3}
    epoch = sasrec._epoch

    def one_epoch(*args):
        numbers.append(args[-1][-1])
        if numbers[-1] == cut_in:
            raise KeyboardInterrupt
        return epoch(*args)

    monkeypatch.setattr(sasrec, "_epoch", one_epoch)
    monkeypatch.setattr(sasrec, "mean_ndcg", lambda *_: measure[numbers[-1]])
    history, numbers, cut_in = [np.array([3, 4])], [], None
    whole = train(interactions, patience=2, steps=7)
    assert numbers == [0, 1, 2, 3]
    cut_in = 2
    with pytest.raises(KeyboardInterrupt):
        train(interactions, patience=2, steps=7, folder=tmp_path / "key")
    cut_in = None
    for expected in ([2, 3], []):
        numbers.clear()
        resumed = train(interactions, patience=2, steps=7, folder=tmp_path / "key")
        assert numbers == expected
        assert np.array_equal(resumed.scores(history), whole.scores(history))
        pd.testing.assert_frame_equal(resumed.log, whole.log)


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
    assert trained.tokens_trained == 20 * 4  # of 5 items the first has no past
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


def test_a_weight_that_nobody_draws_is_refused(monkeypatch):
    import torch
    from recbole.model.sequential_recommender.sasrec import SASRec

    made = SASRec.__init__

    def with_another(self, *args):
        made(self, *args)
        self.scale = torch.nn.Parameter(torch.ones(3))

    monkeypatch.setattr(SASRec, "__init__", with_another)
    with pytest.raises(InputError, match=r"how to draw \(scale\): install the release"):
        sasrec.new_model(10, PARAMS, 4, seed=0)


def test_what_cannot_be_trained_is_refused(interactions):
    names = r"^train_eval\.evaluation\.baselines names sasrec, and no "
    way_out = r": change preprocess\.split, or take sasrec out of that list$"
    for left, message in (
        (
            interactions["position"].isin([0, 5]),
            r"user has two .* in pretrain and train",
        ),
        (interactions["split"] != "valid", r"interaction in valid has one before it"),
    ):
        with pytest.raises(InputError, match=f"{names}{message}.*{way_out}"):
            train(interactions[left])
    with pytest.raises(ValidationError, match=r"hidden_size is 16, .* n_heads \(3\)"):
        SasrecParams(**{**PARAMS.model_dump(), "n_heads": 3})
