import numpy as np
import pandas as pd
import pytest
import torch

from minirec.errors import InputError
from minirec.execution.params import ExecutionParams
from minirec.policy.item_tokens import (
    get_weights,
    last_hidden,
    sample_slates,
    seen_mask,
)
from minirec.policy.params import (
    GRPOParams,
    PaceParams,
    PretrainingParams,
    RankingParams,
)
from minirec.policy.rewards import Tasks
from minirec.policy.rollouts import TRAINING
from minirec.schemas import TrainingLog
from minirec.training import checkpoints, item_grpo, item_pretraining, launched
from minirec.training.grpo import Checkpoints
from minirec.training.item_grpo import train_items
from minirec.training.item_settings import item_settings

CURRICULUM = pd.DataFrame({"sample_id": [9, 4, 7], "stage": [0, 0, 1]}).assign(
    mean_reward=0.1
)


def nth(ranks, scores, targets):
    """Earn more, the nearer what was written is to the last item."""
    return scores.argmax(axis=1) / 7


def settings(**given):
    params = {"learning_rate": 0.01, "num_generations": 6, "beta": 0.0}
    return item_settings(GRPOParams.model_validate({**params, **given}))


def train(tiny, policy, given, reward=nth, steps_of=2, seed=3, pace=None, kept=None):
    return train_items(
        policy,
        CURRICULUM,
        tiny.prompts(),
        Tasks(tiny.POOL, tiny.ITEMS),
        reward,
        given,
        steps_of,
        pace,
        seed,
        "test",
        kept,
    )


def weights_of(policy):
    return get_weights(policy.lm, policy.tokenizer)["tensors"]


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_a_step_is_the_formula_s(tiny, policy_params, beta):
    """One AdamW step on the gradient of the GRPO loss, written out sample by sample."""
    given = tiny.params(policy_params, slate_size=2, temperature=0.8)
    learner, expected = tiny.make(given), tiny.make(given)
    before = tiny.make(given)
    for policy in (learner, expected):  # away from the reference
        policy.lm.model.norm.weight.data *= 1.1
    own = settings(beta=beta, max_grad_norm=0.2)
    reference = item_grpo._Reference
    item_grpo._Reference = lambda policy, tokens: reference(before, tokens)
    try:
        train(tiny, learner, own, steps_of=3)
    finally:
        item_grpo._Reference = reference

    ids = CURRICULUM["sample_id"].to_numpy()
    pool = tiny.POOL.set_index("sample_id").loc[ids]
    place = [tiny.POOL["sample_id"].tolist().index(s) for s in ids]
    tokens = expected.read(tiny.prompts()["prompt"].iloc[place].tolist())
    seen = seen_mask(Tasks(tiny.POOL, tiny.ITEMS), ids, 8)
    drawn = sample_slates(
        expected.log_probs(last_hidden(expected.lm, tokens), seen),
        2,
        [(3, TRAINING, 0, int(s), 0) for s in ids],
        range(6),
    )
    total = torch.zeros((), dtype=torch.float64)
    for row, slates in zip(place, drawn, strict=True):
        log_p = tiny.masked_by_hand(expected, row, 0.8)
        rewards = slates[:, 0].double() / 7
        advantage = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for (first, second), weight in zip(slates, advantage, strict=True):
            p = log_p.exp()
            chosen = p[first] * p[second] / (1 - p[first])
            total = total - weight * chosen.log() / 6 / 3
        start = tiny.masked_by_hand(before, row, 0.8).detach()
        kept = torch.isfinite(log_p)
        total = total + beta / 3 * torch.sum(
            log_p[kept].exp() * (log_p[kept] - start[kept])
        )
    assert len(pool) == 3
    optimizer = torch.optim.AdamW(expected.lm.parameters(), lr=0.01, weight_decay=0.0)
    total.backward()
    torch.nn.utils.clip_grad_norm_(expected.lm.parameters(), 0.2)
    optimizer.step()
    after = dict(learner.lm.named_parameters())
    moved = 0.0
    start = dict(before.lm.named_parameters())
    for name, parameter in expected.lm.named_parameters():
        torch.testing.assert_close(after[name], parameter, rtol=0, atol=1e-9)
        moved = max(moved, (parameter - start[name]).abs().max().item())
    assert moved > 0.005


def test_the_order_is_the_curriculum_s_in_every_epoch(tiny, policy_params):
    policy = tiny.make(tiny.params(policy_params))
    log, seen = train(tiny, policy, settings(num_train_epochs=3))
    # nine draws in steps of two: the last is filled from the last stage
    assert seen == [9, 4, 7] * 3 + [7]
    assert log["step"].tolist() == [1, 2, 3, 4, 5]
    # prompts of 5 and 3 tokens, read once, and 6 answers of an item each
    assert log["num_tokens"].iloc[0] == 5 + 3 + 2 * 6
    assert log["reward"].between(0, 1).all()
    assert (log["entropy"] > 0).all()


def test_equal_seeds_give_equal_weights_and_other_seeds_others(tiny, policy_params):
    given = tiny.params(policy_params)
    found = []
    for seed in (3, 3, 4):
        policy = tiny.make(given)
        train(tiny, policy, settings(), seed=seed)
        found.append(get_weights(policy.lm, policy.tokenizer)["tensors"])
    one, same, other = found
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_what_was_cut_short_ends_as_if_it_had_not_been(tiny, policy_params, tmp_path):
    """At a pace, with a reference and momenta: all that a wrong state would show in."""
    given = tiny.params(policy_params, dtype="float32")
    own = settings(num_train_epochs=4, beta=0.3, weight_decay=0.1)
    pace = PaceParams(rise=0.1, window=2, max_passes=2)

    def failing(ranks, scores, targets):
        calls.append(1)
        if len(calls) >= 4:
            raise OSError("the lights went out")
        return nth(ranks, scores, targets)

    calls = []
    whole, cut, resumed, again = (tiny.make(given) for _ in range(4))
    expected, order = train(tiny, whole, own, pace=pace)
    assert len(expected) == 6
    kept = Checkpoints(tmp_path / "key", steps=2)
    with pytest.raises(InputError, match=r"failed for sample \d: OSError: the lights"):
        train(tiny, cut, own, failing, pace=pace, kept=kept)
    assert [path.name for path in kept.folder.iterdir()] == ["step-00000002"]
    log, consumed = train(tiny, resumed, own, pace=pace, kept=kept)
    one, other = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert consumed == order
    timed = ["step_time", "tokens_per_second"]
    pd.testing.assert_frame_equal(log.drop(columns=timed), expected.drop(columns=timed))
    # what is finished is not trained again
    train(tiny, again, own, failing, pace=pace, kept=kept)
    other = weights_of(again)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_trained_by_parameters_and_its_curves_go_to_tensorboard(
    tiny, policy_params, parameters, tmp_path
):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason='pip install "tensorboard~=2.21"',
    )
    given = tiny.params(policy_params)
    policy = tiny.make(given)
    curves = str(tmp_path / "curves")
    adapter, training = launched.train(
        {
            "adapter": get_weights(policy.lm, policy.tokenizer),
            "curriculum": CURRICULUM,
            "prompts": tiny.prompts(),
            "items": tiny.ITEMS,
            "policy": given,
            "ranking": RankingParams(
                prior_weight=0.0, reward="minirec.ranking.rewards.slate_ndcg"
            ),
            "grpo": GRPOParams(learning_rate=0.01, num_generations=6, beta=0.0),
            "prompts_per_step": 2,
            "pace": None,
            "seed": 3,
            "label": "test",
        },
        tmp_path / "checkpoints",
        "key",
        ExecutionParams.model_validate(
            {**parameters["execution"], "tensorboard": curves}
        ),
    )
    log = TrainingLog.validate(training.log)
    read = events.EventAccumulator(str(tmp_path / "curves" / "test")).Reload()
    rewards = [each.value for each in read.Scalars("train/reward")]
    np.testing.assert_allclose(rewards, log["reward"], rtol=2**-23)  # float32
    assert training.consumed["sample_id"].tolist() == [9, 4, 7, 7]
    assert training.consumed["padding"].tolist() == [False] * 3 + [True]
    (last,) = (tmp_path / "checkpoints" / "test" / "key").iterdir()
    kept = checkpoints.read_adapter(last)
    assert all(torch.equal(kept[n], t) for n, t in adapter["tensors"].items())


def test_training_raises_the_reward(tiny, policy_params):
    policy = tiny.make(tiny.params(policy_params))
    own = settings(num_train_epochs=20, num_generations=32)
    log, _ = train(tiny, policy, own, steps_of=3)
    # rewards lie in [0, 1]: standard errors of means over 480 and 192 slates are below
    # 0.5 / 13.8, and that of their difference below 0.043
    assert log["reward"].tail(5).mean() - log["reward"].head(2).mean() > 4 * 0.043


def test_a_weight_on_it_keeps_the_divergence_small(tiny, policy_params):
    apart = []
    for beta in (0.01, 1.0):
        policy = tiny.make(tiny.params(policy_params))
        own = settings(num_train_epochs=20, learning_rate=0.003, beta=beta)
        log, _ = train(tiny, policy, own, steps_of=3)
        assert log["kl"].iloc[0] == pytest.approx(0, abs=1e-12)
        apart.append(log["kl"].tail(5).mean())
    assert apart[0] > 2 * apart[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_iterations": 2}, r"grpo.num_iterations is not 1"),
        (
            {"epsilon": 0.1},
            r"grpo.epsilon has no meaning where policy.kind is item_tokens",
        ),
        ({"scale_rewards": "batch"}, r"'batch': give group or none"),
    ],
)
def test_settings_without_a_meaning_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        settings(**given)


@pytest.fixture
def interactions(tiny):
    """Twelve users who go round the catalogue, one item after the next."""
    ids = tiny.ITEMS["item_id"].tolist()
    rows = [
        (f"u{user:02}", ids[(user + step) % 8], step, split)
        for user in range(12)
        for step, split in enumerate(["pretrain"] * 4 + ["train", "valid", "test"])
    ]
    columns = ["user_id", "item_id", "position", "split"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)


def test_what_is_learned_and_what_validates(tiny, interactions):
    data = item_pretraining.histories(interactions, tiny.ITEMS, 5, seed=0)
    assert data.sequences[1].tolist() == [1, 2, 3, 4]
    assert len(data.past) == len(data.target) == 5
    for past, target in zip(data.past, data.target, strict=True):
        assert len(past) == 5
        assert target == (past[-1] + 1) % 8
    without = interactions[interactions["split"] != "pretrain"]
    without = without.assign(position=without["position"] - 4)
    with pytest.raises(
        InputError,
        match=r"^policy\.kind is item_tokens, and no user has two interactions in train",
    ):
        item_pretraining.histories(without, tiny.ITEMS, 5, seed=0)
    without = interactions[interactions["split"] != "valid"]
    with pytest.raises(
        InputError, match=r"^policy\.kind is item_tokens, and no interaction in valid"
    ):
        item_pretraining.histories(without, tiny.ITEMS, 5, seed=0)
    both = interactions.replace({"split": {"pretrain": "train"}})
    data = item_pretraining.histories(both, tiny.ITEMS, 50, seed=0)
    assert data.sequences[1].tolist() == [1, 2, 3, 4, 5]


def test_pretraining_learns_what_comes_next_and_is_repeatable(
    tiny, policy_params, interactions
):
    data = item_pretraining.histories(interactions, tiny.ITEMS, 50, seed=0)
    params = PretrainingParams.model_validate({**tiny.PRETRAINING, "epochs": 30})
    found = []
    for _ in range(2):
        policy = tiny.make(tiny.params(policy_params))
        before = item_pretraining.validation_ndcg(policy, data, 4)
        log = item_pretraining.pretrain(policy, data, 4, params, 0, "test")
        after = item_pretraining.validation_ndcg(policy, data, 4)
        assert after == log["ndcg@10"].max() > before
        found.append(after)
    # of 8 items 5 are seen: a guess has the target first, second or third
    assert found[0] == found[1] > (1 + 1 / np.log2(3) + 0.5) / 3


def test_pretraining_that_was_cut_short_ends_as_if_it_had_not_been(
    tiny, policy_params, interactions, tmp_path, monkeypatch
):
    """The second epoch is the best, the third is cut; two more, and patience ends."""
    data = item_pretraining.histories(interactions, tiny.ITEMS, 50, seed=0)
    params = PretrainingParams.model_validate({**tiny.PRETRAINING, "epochs": 9})
    measure = {0: 0.1, 1: 0.3, 2: 0.2, 3: 0.3}

    def pretrain(cut_in=None, folder=None):
        policy = tiny.make(tiny.params(policy_params, dtype="float32"))
        epoch = item_pretraining._epoch

        def one_epoch(*args):
            numbers.append(args[-1])
            if args[-1] == cut_in:
                raise KeyboardInterrupt
            return epoch(*args)

        with monkeypatch.context() as changed:
            changed.setattr(item_pretraining, "_epoch", one_epoch)
            changed.setattr(
                item_pretraining, "validation_ndcg", lambda *_: measure[numbers[-1]]
            )
            log = item_pretraining.pretrain(policy, data, 4, params, 0, "test", folder)
        return weights_of(policy), log

    numbers = []
    whole, expected = pretrain()
    assert numbers == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        pretrain(cut_in=2, folder=tmp_path / "key")
    numbers.clear()
    resumed, log = pretrain(folder=tmp_path / "key")
    assert numbers == [2, 3]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    pd.testing.assert_frame_equal(log, expected)
    numbers.clear()
    again, _ = pretrain(folder=tmp_path / "key")
    assert numbers == []
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_pretraining_that_diverges_is_told(tiny, policy_params, interactions):
    data = item_pretraining.histories(interactions, tiny.ITEMS, 50, seed=0)
    params = PretrainingParams.model_validate(
        {**tiny.PRETRAINING, "learning_rate": 1e30}
    )
    policy = tiny.make(tiny.params(policy_params, dtype="float32"))
    with pytest.raises(InputError, match="loss of epoch 1 is not finite: lower policy"):
        item_pretraining.pretrain(policy, data, 4, params, 0, "test")


def test_pretraining_stops_when_it_no_longer_helps(
    tiny, policy_params, interactions, monkeypatch
):
    data = item_pretraining.histories(interactions, tiny.ITEMS, 50, seed=0)
    found = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    weights = []

    def measured(policy, *_):
        weights.append(get_weights(policy.lm, policy.tokenizer)["tensors"])
        return next(found)

    monkeypatch.setattr(item_pretraining, "validation_ndcg", measured)
    policy = tiny.make(tiny.params(policy_params))
    params = PretrainingParams.model_validate({**tiny.PRETRAINING, "epochs": 9})
    log = item_pretraining.pretrain(policy, data, 4, params, 0, "test")
    assert log["ndcg@10"].tolist() == [0.1, 0.3, 0.2, 0.3]
    kept = get_weights(policy.lm, policy.tokenizer)["tensors"]
    assert all(torch.equal(kept[name], weights[1][name]) for name in kept)
