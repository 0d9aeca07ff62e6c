from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from minirec.datasets.adapter import AdapterDataset
from minirec.errors import InputError
from minirec.execution.map_batches import map_batches
from minirec.execution.params import ExecutionParams
from minirec.execution.parts import in_order
from minirec.policy import gradients, item_tokens, item_workers, workers
from minirec.policy.adaptive import AdaptiveParams
from minirec.policy.item_tokens import (
    check_weights,
    get_weights,
    last_hidden,
    load_policy,
    reward_slates,
    sample_embeddings,
    sample_slates,
    seen_mask,
    slate_log_probs,
)
from minirec.policy.params import PolicyParams, RankingParams
from minirec.policy.rewards import Tasks
from minirec.ranking.rewards import slate_ndcg

RANKING = RankingParams(prior_weight=0, reward="minirec.ranking.rewards.slate_ndcg")
LOCAL = ExecutionParams(
    engine="local",
    workers=1,
    gpus_per_worker=0,
    address=None,
    checkpoint_steps=1,
    accelerate=None,
)


@pytest.fixture(scope="module")
def given(tiny, policy_params):
    return tiny.params(policy_params)


@pytest.fixture(scope="module")
def policy(tiny, given):
    return tiny.make(given)


@pytest.fixture(scope="module")
def tasks(tiny):
    return Tasks(tiny.POOL, tiny.ITEMS)


@pytest.fixture(scope="module")
def log_probs(tiny, policy, tasks):
    """Log-probabilities (3, 8) of the next item, as sampling and training have them."""
    tokens = policy.read(tiny.prompts()["prompt"].tolist())
    seen = seen_mask(tasks, tiny.POOL["sample_id"].to_numpy(), 8)
    return policy.log_probs(last_hidden(policy.lm, tokens), seen).detach()


def test_prompts_are_the_tokens_of_items(tiny):
    found = tiny.prompts()
    assert found["prompt"].tolist() == [
        "<s> 10 3%200",
        "<s> 20",
        "<s> 50 4%2F0 60 20",
    ]
    assert found["n_tokens"].tolist() == [3, 2, 5]


def test_log_probs_are_those_of_the_model_without_what_was_seen(
    tiny, policy, log_probs
):
    for row, found in enumerate(log_probs):
        torch.testing.assert_close(found, tiny.masked_by_hand(policy, row))


def test_recommending_is_the_distribution_of_the_next_item(tiny, policy):
    texts = tiny.prompts()["prompt"].tolist()
    scores, completions = policy.recommend(texts)
    assert completions is None
    rows = torch.tensor([policy.read(texts)[2]])
    expected = policy.lm(rows).logits[0, -1, :8].log_softmax(-1).detach()
    np.testing.assert_allclose(scores[2], expected)


def test_what_was_written_ranks_in_its_order(policy):
    scores = policy.ground(np.array([[5, 2], [0, 7]]))
    assert scores.tolist() == [[0, 0, 1, 0, 0, 2, 0, 0], [2, 0, 0, 0, 0, 0, 0, 1]]


def test_slates_have_the_probability_of_drawing_one_item_after_the_other():
    p = torch.tensor([[0.5, 0.3, 0.0, 0.2]], dtype=torch.float64)
    every = torch.tensor([list(permutations([0, 1, 3], 2))])
    found = slate_log_probs(p.log(), every).exp()[0]
    expected = [p[0, a] * p[0, b] / (1 - p[0, a]) for a, b in every[0]]
    torch.testing.assert_close(found, torch.stack(expected))
    assert found.sum() == pytest.approx(1)


def test_slates_are_drawn_with_their_probability():
    p = torch.tensor([[0.5, 0.3, 0.0, 0.2]], dtype=torch.float64)
    n = 4000
    drawn = sample_slates(p.log(), 3, [(1, 2)], range(n))[0]
    every = torch.tensor([list(permutations([0, 1, 3], 3))])
    expected = slate_log_probs(p.log(), every).exp()[0]
    share = torch.stack([(drawn == own).all(1).double().mean() for own in every[0]])
    assert share.sum() == 1  # no item twice, none of probability 0
    # five standard errors
    assert (share - expected).abs().max() < 5 * (0.25 / n) ** 0.5


def test_a_slate_is_the_same_whichever_others_are_drawn(log_probs):
    seeds = [(3, s) for s in (4, 7, 9)]
    every = sample_slates(log_probs, 2, seeds, range(6))
    later = sample_slates(log_probs[1:], 2, seeds[1:], range(2, 5))
    assert torch.equal(every[1:, 2:5], later)


def test_a_slate_longer_than_what_is_new_is_refused(log_probs):
    with pytest.raises(InputError, match="slate_size is 5, and a user has fewer"):
        sample_slates(log_probs, 5, [(0,)] * 3, range(2))


def test_a_policy_that_has_diverged_is_told(log_probs):
    with pytest.raises(InputError, match=r"has diverged; lower grpo.learning_rate"):
        sample_slates(log_probs * float("nan"), 1, [(0,)] * 3, range(2))


def test_rewards_are_those_of_each_answer_alone(policy, tasks):
    # sample 4 (target 1), sample 9 (target 0): first, second, not written; some twice
    slates = np.array(
        [[[1, 3], [3, 1], [3, 4], [1, 3]], [[7, 0], [6, 7], [0, 7], [7, 0]]]
    )
    rank, earned = reward_slates(policy, tasks, slate_ndcg, np.array([4, 9]), slates)
    second = 1 / np.log2(3)
    np.testing.assert_allclose(earned, [[1, second, 0, 1], [second, 0, 1, second]])
    # of 8 items less the seen ones, those not written tie with the target: it is last
    assert rank.tolist() == [[0, 1, 4, 0], [1, 3, 0, 1]]


def test_answers_are_judged_in_blocks(policy, tasks, monkeypatch):
    slates = np.random.default_rng(0).permuted(np.tile(np.arange(8), (2, 9, 1)), axis=2)
    given = (policy, tasks, slate_ndcg, np.array([4, 9]), slates[:, :, :2])
    whole = reward_slates(*given)
    # two answers to 8 items at once; then no single one would fit
    for most in (16, 1):
        monkeypatch.setattr(item_tokens, "_SCORES_AT_ONCE", most)
        np.testing.assert_array_equal(reward_slates(*given), whole)


def test_what_is_read_at_once_fits_into_the_memory(policy):
    weights = get_weights(policy.lm, policy.tokenizer)
    n_tokens = policy.lm.config.vocab_size
    assert item_workers.read_at_once(weights, 1) == item_tokens.AT_ONCE
    assert item_workers.read_at_once(weights, 3 * 40 * n_tokens / 1e9) == 3
    assert item_workers.rows_at_once(weights, "hidden", None, 1e-9) == 1


def test_a_saved_policy_opens_as_any_causal_lm(tiny, policy, given, tmp_path):
    dataset = AdapterDataset(filepath=str(tmp_path / "policy"))
    saved = get_weights(policy.lm, policy.tokenizer)
    dataset.save(saved)
    loaded = dataset.load()
    assert loaded["files"] == saved["files"]
    again = load_policy(loaded, given, tiny.ITEMS)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    prompt = tiny.prompts()["prompt"][2]
    ids = tokenizer(prompt, return_tensors="pt")
    assert ids["input_ids"].tolist() == policy.read([prompt])
    assert again.items["item_id"].tolist() == tiny.ITEMS["item_id"].tolist()
    expected = policy.recommend([prompt])[0]
    np.testing.assert_array_equal(again.recommend([prompt])[0], expected)
    with torch.no_grad():
        found = lm(**ids).logits[:, -1, :8].log_softmax(-1)
    np.testing.assert_allclose(found, expected)


def test_what_does_not_fit_is_told(tiny, policy, given, policy_params):
    saved = get_weights(policy.lm, policy.tokenizer)
    with pytest.raises(InputError, match="made for another catalogue"):
        check_weights(saved, given, tiny.ITEMS[::-1])
    with pytest.raises(InputError, match="an adapter of another kind of policy"):
        check_weights({"config": {"peft_type": "LORA"}, "tensors": {}}, given)
    group = given.item_tokens.model_copy(update={"num_hidden_layers": 3})
    deeper = given.model_copy(update={"item_tokens": group})
    with pytest.raises(InputError, match=r"num_hidden_layers is 3, and the saved .* 2"):
        check_weights(saved, deeper)
    without = {**policy_params.model_dump(), "kind": "item_tokens"}
    with pytest.raises(ValidationError, match="run with --env item_tokens"):
        PolicyParams.model_validate(without)


def test_samples_are_embedded_by_the_last_hidden_state(tiny, policy):
    texts = tiny.prompts()["prompt"].tolist()
    found = sample_embeddings(get_weights(policy.lm, policy.tokenizer), texts)
    for row, ids in enumerate(policy.read(texts)):
        state = policy.lm.model(torch.tensor([ids])).last_hidden_state[0, -1]
        expected = (state / state.norm()).detach()
        np.testing.assert_allclose(found[row], expected, atol=1e-5)  # in float32


@pytest.mark.parametrize(("size", "temperature"), [(1, 1.0), (3, 0.7)])
def test_gradients_are_those_of_autograd(tiny, policy_params, tasks, size, temperature):
    """Of each sample alone, with its loss written out, through the whole model."""
    own = tiny.make(tiny.params(policy_params, size, temperature))
    ids = tiny.POOL["sample_id"].to_numpy()
    tokens = own.read(tiny.prompts()["prompt"].tolist())
    seen = seen_mask(tasks, ids, 8)
    base = own.log_probs(last_hidden(own.lm, tokens), seen)
    slates = [
        s.numpy() for s in sample_slates(base, size, [(s,) for s in ids], range(4))
    ]
    slates[1] = slates[1][:3]  # one that adaptive probing stopped early
    advantages = [np.array([1.0, -0.5, 0.25, -0.75])[: len(s)] for s in slates]
    saved = get_weights(own.lm, own.tokenizer)
    names = gradients.linear_names(saved, 1)
    assert len(names) == 7
    at_weights = item_workers.weight_gradients(
        own, tokens, seen, slates, advantages, names
    )
    at_hidden = item_workers.hidden_gradients(own, tokens, seen, slates, advantages)
    towards = np.arange(16) / 7
    products = item_workers.hessian_products(own, tokens, seen, slates, towards)
    parameters = dict(own.lm.named_parameters())
    head = own.lm.get_output_embeddings().weight[:8]
    for row in range(3):

        def chosen(logits, row=row, weights=advantages):
            free = torch.isfinite(tiny.masked_by_hand(own, row))
            total = torch.zeros((), dtype=torch.float64)
            for slate, weight in zip(slates[row], weights[row], strict=True):
                left = free.clone()
                for item in slate:
                    part = logits[left] / temperature
                    total = total - weight * (
                        logits[item] / temperature - part.logsumexp(0)
                    )
                    left = left.clone()
                    left[item] = False
            return total

        hidden = own.lm.model(torch.tensor([tokens[row]])).last_hidden_state[0, -1]
        loss = chosen(head @ hidden)
        expected = torch.autograd.grad(
            loss, [parameters[n] for n in names], retain_graph=True
        )
        for name, gradient in zip(names, expected, strict=True):
            torch.testing.assert_close(at_weights[name][row], gradient)
        (slope,) = torch.autograd.grad(loss, hidden)
        np.testing.assert_allclose(at_hidden[row], slope, atol=1e-12)
        ones = [np.ones(len(s)) for s in slates]
        hessian = torch.autograd.functional.hessian(
            lambda h, row=row, ones=ones: chosen(head.detach() @ h, row, ones),
            hidden.detach(),
        )
        np.testing.assert_allclose(products[row], hessian.numpy() @ towards, atol=1e-10)
        if size == 1:  # the closed form
            p = tiny.masked_by_hand(own, row, temperature).exp().detach()
            w = head.detach()
            weights = torch.zeros(8, dtype=torch.float64)
            for (item,), weight in zip(slates[row], advantages[row], strict=True):
                weights[item] += weight
            closed = -(weights - weights.sum() * p) @ w / temperature
            np.testing.assert_allclose(at_hidden[row], closed, atol=1e-12)
            fisher = w.T @ (torch.diag(p) - torch.outer(p, p)) @ w
            curved = fisher.numpy() @ towards
            curved *= len(slates[row]) / temperature**2
            np.testing.assert_allclose(products[row], curved, atol=1e-10)


@pytest.mark.parametrize("adaptive", [False, True])
def test_probing_in_other_batches_gives_the_same_tables(
    tiny, policy, policy_params, adaptive, tmp_path
):
    given = tiny.params(policy_params, slate_size=2)
    stop = AdaptiveParams(
        first=2,
        step=2,
        too_easy=None,
        too_hard=None,
        width=0.5,
        confidence=0.9,
        prior_std=0.2,
    )
    init = {
        "policy_model": {},
        "adapter": get_weights(policy.lm, policy.tokenizer),
        "encoder_model": {},
        "items": tiny.ITEMS,
        "item_embeddings": {},
        "policy": given,
        "ranking": RANKING,
        "rollouts": 8,
        "adaptive": stop if adaptive else None,
        "server": None,
        "seed": 5,
    }
    table = tiny.prompts()[["sample_id", "prompt", "target_item_id", "seen_item_id"]]

    def probe(part, size, folder):
        work = map_batches(
            workers.make_prober,
            init,
            part,
            batch_size=size,
            key="0123456789abcdef",
            folder=folder,
            label="probe_rewards",
            execution=LOCAL,
        )
        return in_order(work).to_pandas()

    whole = probe(table, 3, tmp_path / "one")
    probe(table.head(1), 1, tmp_path / "two")  # and then goes on
    parts = probe(table, 2, tmp_path / "two")
    pd.testing.assert_frame_equal(whole, parts)
    counts = whole["sample_id"].value_counts()
    assert (counts.min() < 8) if adaptive else (set(counts) == {8})
    row = whole.iloc[0]
    rows = [tiny.ITEMS["item_id"][i] for i in row["token_id"]]
    assert row["completion"] == " ".join(
        own.replace(" ", "%20").replace("/", "%2F") for own in rows
    )


@pytest.mark.parametrize(
    ("space", "d"), [("weights", 32), ("hidden", 16), ("hessian", 16)]
)
def test_gradients_of_a_table(tiny, policy, given, space, d):
    saved = get_weights(policy.lm, policy.tokenizer)
    towards = np.ones(16) if space == "hessian" else None
    work = workers.make_differentiator({}, saved, given, space, 1, 32, 3, towards)
    table = tiny.prompts().assign(
        token_id=[[[1], [3]], [[0], [4]], [[0], [0]]], reward=[[1, 0], [0, 1], [1, 1]]
    )
    found = workers.matrix_of([work(table)], table["sample_id"])
    assert found["matrix"].shape == (3, d)
    norm = np.linalg.norm(found["matrix"], axis=1)
    assert np.all(norm[:2] > 0)
    assert (norm[2] > 0) == (space == "hessian")  # equal rewards teach nothing
    if space == "weights":
        after = {**saved, "tensors": {n: t * 0.9 for n, t in saved["tensors"].items()}}
        assert gradients.adapter_movement(saved, after, 1, 32, 3).shape == (32,)
