from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface

from minirec.policy import attention
from minirec.policy.attention import attending_by, attention_in_cache

LEAST = torch.finfo(torch.float64).min


def given(n=5, heads=6, kept=2, q=4, t=7, size=8):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden = torch.rand(n, 1, q, t, generator=generator) < 0.5
    hidden[..., 0] = False
    mask = torch.zeros(n, 1, q, t, dtype=torch.float64).masked_fill(hidden, LEAST)
    return (
        random(n, heads, q, size),
        random(n, kept, t, size),
        random(n, kept, t, size),
        mask,
    )


def one_by_one(query, key, value, mask, scaling):
    """Attention by its definition, a head at a time."""
    n, heads, q, size = query.shape
    out = torch.zeros(n, q, heads, size, dtype=query.dtype)
    for row in range(n):
        for head in range(heads):
            own = head // (heads // key.shape[1])
            scores = scaling * query[row, head] @ key[row, own].T + mask[row, 0]
            out[row, :, head] = scores.softmax(-1) @ value[row, own]
    return out


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_equals_the_definition_however_many_rows_at_once(monkeypatch, at_once, scaling):
    query, key, value, mask = given()
    monkeypatch.setattr(attention, "SCORES_IN_CACHE", at_once * 6 * 4 * 7)
    out, weights = attention._by_rows(None, query, key, value, mask, scaling=scaling)
    expected = one_by_one(query, key, value, mask, scaling or 8**-0.5)
    assert weights is None
    # a dozen sums of a few numbers of size 1, each rounded to 2^-53
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-14)


def test_one_mask_serves_all_rows_and_gradients_flow():
    query, key, value, mask = given()
    inputs = [x.requires_grad_() for x in (query, key, value)]
    out, _ = attention._by_rows(None, *inputs, mask[:1])
    expected = one_by_one(*inputs, mask[:1].expand(5, -1, -1, -1), 8**-0.5)
    own = torch.autograd.grad(out.square().sum(), inputs)
    its = torch.autograd.grad(expected.square().sum(), inputs)
    for mine, theirs in zip(own, its, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_bfloat16_rounds_scores_and_weights_and_no_more():
    exact = given(n=3, heads=6, kept=2, q=20, t=30, size=64)
    rounded = [x.bfloat16() for x in exact[:3]]
    mask = torch.where(exact[3] < 0, torch.finfo(torch.bfloat16).min, 0).bfloat16()
    out, _ = attention._by_rows(None, *rounded, mask)
    query, key, value = (x.double() for x in rounded)
    expected = one_by_one(query, key, value, exact[3], 64**-0.5)
    # A score of at most s is off by s 2^-9, and so is its weight by that factor, twice
    # with their sum; weights and the result round by 2^-9 themselves.
    highest = (query.norm(dim=-1).max() * key.norm(dim=-1).max() / 8).item()
    bound = (2 * highest + 3) * 2.0**-9 * value.abs().max()
    assert (out.double() - expected).abs().max() <= bound


@pytest.mark.parametrize("case", ["too long", "no mask"])
def test_leaves_long_and_unmasked_rows_to_torch(monkeypatch, case):
    query, key, value, mask = given(q=7)
    if case == "too long":
        monkeypatch.setattr(attention, "SCORES_IN_CACHE", 6 * 7 * 7 - 1)
    else:
        mask = None
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True, training=False)
    out, _ = attention._by_rows(module, query, key, value, mask)
    assert len(calls) == 1
    causal = torch.ones(7, 7, dtype=torch.float64).triu(1) * LEAST
    seen = causal.expand(5, 1, 7, 7) if mask is None else mask
    expected = one_by_one(query, key, value, seen, 8**-0.5)
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-13)


def test_a_model_has_its_own_attention_back_whatever_happens(float64_policy):
    config = float64_policy.config
    for own, within in [("eager", "eager"), ("sdpa", "minirec")]:
        float64_policy.set_attn_implementation(own)
        with attention_in_cache(float64_policy):
            assert config._attn_implementation == within
        assert config._attn_implementation == own
    assert AttentionInterface()["minirec"] is attention._by_rows
    with pytest.raises(KeyError), attending_by(float64_policy, attention._by_rows):
        {}["broken"]
    assert config._attn_implementation == "sdpa"
