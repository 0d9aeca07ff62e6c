import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from minirec.policy import workers
from minirec.policy.adaptive import AdaptiveParams
from minirec.policy.loading import (
    attach_adapter,
    get_adapter,
    load_model,
    load_tokenizer,
    new_adapter,
)
from minirec.policy.params import RankingParams
from minirec.policy.rollouts import PROBING, prefill, sample, sample_completions
from minirec.policy.server import ServerParams
from minirec.ranking.encoder import encode, load_encoder

ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": ["The Amber Garden", "Paper", "The Velvet Orchard", "Winter"],
        "popularity": [3, 2, 1, 0],
    }
)
PROMPTS = pd.DataFrame(
    {
        "sample_id": [9, 4, 7],
        "prompt": ["The Golden Machine of", "Paper Machine", "A Machine"],
        "target_item_id": ["a", "b", "d"],
        "seen_item_id": [["b"], [], ["a", "c"]],
    }
)
RANKING = RankingParams(
    prior_weight=0.5, reward="minirec.ranking.rewards.ndcg_and_probability"
)

ADAPTIVE = AdaptiveParams(
    first=2,
    step=3,
    too_easy=0.8,
    too_hard=None,
    width=0.1,
    confidence=0.9,
    prior_std=0.05,
)


@pytest.fixture(scope="module")
def adapter(policy_model, policy_params):
    tokenizer = load_tokenizer(policy_model)
    lm = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    return get_adapter(new_adapter(lm, policy_params.lora, seed=0))


@pytest.fixture
def prober(policy_model, encoder_model, policy_params, adapter):
    def make(rollouts=3, server=None, adaptive=None, dtype="float32"):
        embeddings = encode(load_encoder(encoder_model), ITEMS["title"].tolist())
        return workers.make_prober(
            policy_model,
            adapter,
            encoder_model,
            ITEMS,
            {"matrix": embeddings},
            policy_params.model_copy(update={"dtype": dtype}),
            RANKING,
            rollouts,
            adaptive,
            server,
            seed=1,
        )

    return make


def test_a_batch_is_answered_and_rewarded_whatever_else_is_in_it(prober):
    probe = prober()
    whole = probe(PROMPTS).to_pandas()
    assert whole["sample_id"].tolist() == [9, 9, 9, 4, 4, 4, 7, 7, 7]
    assert whole["rollout"].tolist() == [0, 1, 2] * 3
    alone = pd.concat([probe(PROMPTS.iloc[[row]]).to_pandas() for row in range(3)])
    for name in ("completion", "rank", "failure"):
        assert alone[name].tolist() == whole[name].tolist()
    np.testing.assert_allclose(alone["reward"], whole["reward"], rtol=1e-5)


def test_rollouts_and_rewards_equal_the_plain_way(
    prober, policy_model, encoder_model, policy_params, adapter, by_a_plain_loop
):
    """One rollout after the other, ranked and rewarded by the formulas themselves."""
    found = prober(4, dtype="float64")(PROMPTS).to_pandas()
    tokenizer = load_tokenizer(policy_model)
    lm = load_model(policy_model, "float64", tokenizer, policy_params.prompt)
    lm = attach_adapter(lm, adapter)
    encoder = load_encoder(encoder_model)
    titles = encoder.encode(ITEMS["title"].tolist(), normalize_embeddings=True)
    prior = ITEMS["popularity"].to_numpy() / 3
    limit = policy_params.sampling.max_new_tokens
    for row in found.itertuples():
        task = PROMPTS[PROMPTS["sample_id"] == row.sample_id].iloc[0]
        seed = (1, PROBING, row.sample_id)
        plain = by_a_plain_loop(
            lm, tokenizer, task["prompt"], seed, row.rollout, limit
        ).tokens
        assert row.token_id.tolist() == plain
        text = tokenizer.decode(plain, skip_special_tokens=True)
        assert row.completion == text
        said = text.strip().split("\n")[0].split('"')[0].strip()
        assert said  # none of these is empty
        (own,) = encoder.encode([said], normalize_embeddings=True)
        score = titles @ own + 0.5 * prior
        target = ITEMS["item_id"].tolist().index(task["target_item_id"])
        left = ~ITEMS["item_id"].isin(task["seen_item_id"]).to_numpy()
        rank = int((score[left] >= score[target]).sum()) - 1
        assert row.rank == rank
        odds = np.exp(score / 0.02)
        reward = 0.95 / np.log2(rank + 2) + 0.05 * odds[target] / odds[left].sum()
        # the encoder is in float32: cosines to 1e-6, which exp(./0.02) multiplies by 50
        assert row.reward == pytest.approx(reward, rel=1e-4)


def test_more_rollouts_begin_with_the_fewer(prober):
    few, many = (prober(n)(PROMPTS).to_pandas() for n in (2, 3))
    kept = many[many["rollout"] < 2]
    assert kept["completion"].tolist() == few["completion"].tolist()


def test_adaptive_probing_writes_the_first_rollouts_of_full_probing(prober):
    whole = prober(8)(PROMPTS).to_pandas()
    for width, counts in ((0.1, [2, 5, 2]), (0.01, [2, 8, 2])):
        adaptive = ADAPTIVE.model_copy(update={"width": width})
        found = prober(8, adaptive=adaptive)(PROMPTS).to_pandas()
        ids = PROMPTS["sample_id"].repeat(counts)
        assert found["sample_id"].tolist() == ids.tolist()
        assert found["rollout"].tolist() == ids.groupby(ids).cumcount().tolist()
        own = found[["sample_id", "rollout"]].merge(whole)
        for name in ("token_id", "completion", "rank", "failure"):
            assert own[name].map(str).tolist() == found[name].map(str).tolist()
        # texts are embedded beside others
        np.testing.assert_allclose(found["reward"], own["reward"], rtol=1e-5)


def test_a_sample_is_settled_whatever_else_is_in_its_batch(prober):
    probe = prober(8, adaptive=ADAPTIVE)
    whole = probe(PROMPTS).to_pandas()
    alone = pd.concat([probe(PROMPTS.iloc[[row]]).to_pandas() for row in range(3)])
    for name in ("sample_id", "rollout", "completion"):
        assert alone[name].tolist() == whole[name].tolist()


def test_a_server_answers_in_the_place_of_the_model(
    prober, policy_model, policy_params, adapter, monkeypatch
):
    tokenizer = load_tokenizer(policy_model)
    base = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    lm = attach_adapter(base, adapter)
    checked = []

    def served(server, tokenizer, prompts, *sampling):
        groups = sample(prefill(lm, tokenizer, prompts), *sampling[:-1])
        return [[each.tokens for each in group] for group in groups]

    monkeypatch.setattr(workers, "check_server", lambda *given: checked.append(given))
    monkeypatch.setattr(workers, "server_completions", served)
    monkeypatch.setattr(workers, "load_policy", None)
    server = ServerParams(
        address="http://localhost:1/v1",
        model="proxy",
        protocol="vllm",
        api_key_env=None,
        timeout_seconds=1,
        retries=0,
        concurrency=1,
    )
    probe = prober(server=server)
    found = [probe(PROMPTS), probe(PROMPTS)]
    in_rounds = prober(8, server, ADAPTIVE)(PROMPTS)
    assert len(checked) == 2
    monkeypatch.undo()
    for table in found:
        assert table.equals(prober()(PROMPTS))
    assert in_rounds.equals(prober(8, adaptive=ADAPTIVE)(PROMPTS))


@pytest.fixture
def rolled_out(policy_model, policy_params, adapter):
    """The prompts with what was written, one rollout of them without a token."""
    tokenizer = load_tokenizer(policy_model)
    base = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    groups = sample_completions(
        attach_adapter(base, adapter),
        tokenizer,
        PROMPTS["prompt"].tolist(),
        [(1, PROBING, sample_id) for sample_id in PROMPTS["sample_id"]],
        3,
        6,
        1.0,
    )
    tokens = [[each.tokens for each in group] for group in groups]
    tokens[1][0] = []
    rewards = [[0.1, 0.2, 0.6], [0.0, 0.3, 0.3], [0.5, 0.5, 0.5]]
    table = PROMPTS[["sample_id", "prompt"]].assign(token_id=tokens, reward=rewards)
    # as batches come, see `map_batches`
    return pa.Table.from_pandas(table, preserve_index=False).to_pandas()


@pytest.mark.parametrize(
    ("space", "width"), [("lora", 64), ("hidden", None), ("hessian", None)]
)
def test_gradients_of_each_space_are_rows_of_a_matrix(
    policy_model, policy_params, adapter, rolled_out, space, width
):
    hidden = load_model(
        policy_model,
        "float32",
        load_tokenizer(policy_model),
        policy_params.prompt,
    ).config.hidden_size
    differentiate = workers.make_differentiator(
        policy_model,
        adapter,
        policy_params,
        space,
        None,
        64,
        seed=0,
        direction=np.ones(hidden, np.float32) if space == "hessian" else None,
    )
    found = workers.matrix_of([differentiate(rolled_out)], rolled_out["sample_id"])
    assert found["sample_id"].tolist() == [4, 7, 9]
    assert found["matrix"].shape == (3, width or hidden)
    assert found["matrix"].dtype == np.float32
    # equal rewards teach nothing, but have curvature
    assert (np.abs(found["matrix"]).max(axis=1) > 0).tolist() == [
        True,
        space == "hessian",  # of 7
        True,
    ]
    alone = [
        workers.matrix_of(
            [differentiate(rolled_out.iloc[[row]].reset_index(drop=True))],
            rolled_out["sample_id"].iloc[[row]],
        )
        for row in (1, 2, 0)
    ]
    np.testing.assert_allclose(
        np.concatenate([each["matrix"] for each in alone]),
        found["matrix"],
        atol=1e-4 * np.abs(found["matrix"]).max(),
    )
