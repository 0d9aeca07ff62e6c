import numpy as np
import pandas as pd
import pytest
import torch

from minirec.errors import InputError
from minirec.parameters import check_parameters
from minirec.pipelines.export.reward import make_reward
from minirec.policy.head import HeadPolicy
from minirec.policy.loading import get_adapter, load_model, load_tokenizer, new_adapter
from minirec.policy.params import PolicyParams, RankingParams
from minirec.policy.rewards import Tasks, Written, reward_completions
from minirec.policy.rollouts import greedy_completions
from minirec.ranking.rewards import ndcg_and_probability

ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c"],
        "title": ["The Amber Garden", "Paper", "The <answer>Velvet Orchard"],
    }
)
# the same prompt twice, with another one between
PROMPTS = ["The Golden Machine", "Paper", "The Golden Machine"]
REASONING = ["Garden of Paper", "The", "Garden Orchard"]


@pytest.fixture(scope="module")
def params(parameters):
    head = {**parameters["policy"]["head"], "item": "About {title}"}
    head = {"kind": "policy_head", "dtype": "float64", "head": head}
    prompt = {"template": "conf/prompts/head.txt", "max_tokens": None}
    return PolicyParams.model_validate(
        {**parameters["policy"], **head, "prompt": prompt}
    )


@pytest.fixture(scope="module")
def tokenizer(policy_model):
    return load_tokenizer(policy_model)


@pytest.fixture
def policy(policy_model, params, tokenizer):
    base = load_model(policy_model, "float64", tokenizer, params.prompt)
    lm = new_adapter(base, params.lora, seed=0).double()
    move(lm, 0.1)
    return HeadPolicy(ITEMS, params, lm, tokenizer)


def move(lm, size):
    torch.manual_seed(0)
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)


def plain_vector(policy, *parts):
    """The last hidden state of texts or tokens in one row, at unit length."""
    ids = [
        token
        for part in parts
        for token in (
            tokens_of(policy.tokenizer, [part])[0] if isinstance(part, str) else part
        )
    ]
    with torch.no_grad():
        read = policy.lm(torch.tensor([ids]), output_hidden_states=True)
    vector = read.hidden_states[-1][0, -1].numpy()
    return vector / np.linalg.norm(vector)


def tokens_of(tokenizer, texts):
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def plain_items(policy):
    # what cannot stand in a title, such as the mark, is left out of it
    titles = ["The Amber Garden", "Paper", "The Velvet Orchard"]
    before = "<|start|>system\nYou recommend movies.<|end|>\n<|start|>user\nAbout "
    after = "<|end|>\n<|start|>assistant\n"
    return np.stack(
        [
            plain_vector(policy, f"{before}{title}{after}", "<answer>")
            for title in titles
        ]
    )


def test_scores_are_cosines_of_hidden_states_at_the_mark(policy, tokenizer):
    tokens = tokens_of(tokenizer, REASONING)
    # of a completion that ended by itself, the end token is no reasoning
    tokens[1] = [*tokens[1], tokenizer.eos_token_id]
    found = policy.ground(Written(REASONING, tokens, PROMPTS))
    users = np.stack(
        [
            plain_vector(policy, prompt, reasoning, "<answer>")
            for prompt, reasoning in zip(PROMPTS, REASONING, strict=True)
        ]
    )
    np.testing.assert_allclose(found.scores, users @ plain_items(policy).T, atol=1e-12)
    assert found.failure == [None] * 3


def test_rows_read_at_once_change_nothing(policy, params, tokenizer):
    written = Written(REASONING, tokens_of(tokenizer, REASONING), PROMPTS)
    together = policy.ground(written).scores
    one = params.head.model_copy(update={"batch_size": 1})
    policy.params = params.model_copy(update={"head": one})
    policy.refresh()
    np.testing.assert_allclose(policy.ground(written).scores, together, atol=1e-12)


@pytest.mark.parametrize(
    ("written", "reasoning"),
    [
        ("Garden", "Garden"),
        ("", ""),
        ("Garden <answer>Paper</answer>", "Garden "),
        ("Garden<answer><answer>Paper", "Garden"),
        ("<answer>", ""),
        ("Garden <answ", "Garden <answ"),
    ],
)
def test_a_mark_that_the_policy_wrote_ends_its_reasoning(
    policy, tokenizer, written, reasoning
):
    (tokens,) = tokens_of(tokenizer, [written])
    answered = policy.answered(tokens)
    assert tokenizer.decode(answered) == f"{reasoning}<answer>"


def test_recommend_reads_behind_the_most_likely_reasoning(policy, params, tokenizer):
    scores, completions = policy.recommend(PROMPTS[:2])
    limit = params.sampling.max_new_tokens
    greedy = greedy_completions(policy.lm, tokenizer, PROMPTS[:2], limit)
    tokens = [each.tokens for each in greedy]
    assert completions == tokenizer.batch_decode(tokens, skip_special_tokens=True)
    for prompt, written, own in zip(PROMPTS, tokens, scores, strict=False):
        assert written[-1] != tokenizer.eos_token_id
        user = plain_vector(policy, prompt, written, "<answer>")
        np.testing.assert_allclose(own, plain_items(policy) @ user, atol=1e-12)


def test_items_are_read_by_the_adapter_that_is_set(policy):
    before, adapter = policy.item_vectors, get_adapter(policy.lm)
    move(policy.lm, 0.3)
    policy.refresh()
    assert np.abs(policy.item_vectors - before).max() > 1e-3
    policy.set_adapter(adapter)
    np.testing.assert_array_equal(policy.item_vectors, before)


def test_cosines_are_rewarded(policy, tokenizer):
    """The reward's own temperature divides them, and nothing else does."""
    prompts = pd.DataFrame({"sample_id": [4], "target_item_id": ["b"]})
    prompts["seen_item_id"] = [["a"]]
    written = Written(["Garden"], tokens_of(tokenizer, ["Garden"]), ["Paper"])
    outcome = reward_completions(
        policy, Tasks(prompts, ITEMS), ndcg_and_probability, [4], written
    )
    cosines = plain_items(policy) @ plain_vector(policy, "Paper", "Garden", "<answer>")
    rank = int(cosines[2] >= cosines[1])
    probability = 1 / (1 + np.exp((cosines[2] - cosines[1]) / 0.02))
    expected = 0.95 / np.log2(rank + 2) + 0.05 * probability
    assert outcome.rank.tolist() == [rank]
    assert outcome.reward == pytest.approx([expected])


def test_a_state_that_is_not_finite_is_no_answer(policy, tokenizer):
    assert np.isfinite(policy.item_vectors).all()
    (token,) = set(tokens_of(tokenizer, ["Q"])[0])
    embedding = policy.lm.get_input_embeddings()
    with torch.no_grad():
        embedding.weight[token] = torch.nan
    written = Written(["Q", "B"], tokens_of(tokenizer, ["Q", "B"]), PROMPTS[:2])
    found = policy.ground(written)
    assert found.failure == ["not_finite", None]
    assert np.isfinite(found.scores).all()
    policy.item_ids[1] = [token]
    policy.refresh()
    with pytest.raises(InputError, match="at item 'Q' is not finite"):
        policy.ground(written)


def test_a_row_beyond_the_model_s_context_is_refused(policy, tokenizer):
    (word,) = tokens_of(tokenizer, ["Garden"])
    written = Written([""], [word * 600], ["Paper"])
    with pytest.raises(InputError, match="and policy_model reads 512: lower"):
        policy.ground(written)


def changed(parameters, group, **values):
    return {**parameters, group: {**parameters[group], **values}}


@pytest.fixture
def with_a_head(parameters):
    prompt = {"template": "conf/prompts/head.txt", "max_tokens": None}
    return changed(parameters, "policy", kind="policy_head", prompt=prompt)


def test_a_template_without_reasoning_is_refused(parameters):
    with pytest.raises(InputError, match=r"no \{reasoning\}: name conf/prompts/head"):
        check_parameters(changed(parameters, "policy", kind="policy_head"))


@pytest.mark.parametrize("item", ["an item", "{title} {title}", "{title} {year}"])
def test_an_item_s_text_holds_its_title_once(with_a_head, item):
    head = {**with_a_head["policy"]["head"], "item": item}
    with pytest.raises(InputError, match=r"write \{title\} into it once"):
        check_parameters(changed(with_a_head, "policy", head=head))


def test_what_teaches_or_serves_titles_is_refused(with_a_head):
    with pytest.raises(InputError, match=r"warm_start.steps is 1, which would"):
        check_parameters(with_a_head)
    server = {"address": "http://localhost:1/v1", "model": "proxy", "protocol": "vllm"}
    server |= {"api_key_env": None, "timeout_seconds": 1, "retries": 0}
    probe = {**with_a_head["score"]["probe"], "server": {**server, "concurrency": 1}}
    with pytest.raises(InputError, match="whose hidden states no server gives"):
        check_parameters(changed(with_a_head, "score", probe=probe))


def test_no_reward_is_exported(params, encoder_model):
    ranking = RankingParams(
        prior_weight=0, reward="minirec.ranking.rewards.ndcg_and_probability"
    )
    with pytest.raises(InputError, match=r"policy.kind is policy_head, whose answers"):
        make_reward(ITEMS, {}, encoder_model, params, ranking)
