import pytest
import torch

from minirec.policy import packed_rows
from minirec.policy.packed_rows import (
    logits_of,
    pack_rows,
    packed_log_probs,
    read_rows,
    transformer_blocks,
)

# Norms, softmax and rotary angles are computed in float32 whatever the model's dtype:
# 2^-24 each, over three blocks.
ROUNDING = 1e-6


def test_a_tree_by_hand():
    # behind the prompt 5 6: 7 8, 7 9 and 7 once more
    rows = pack_rows([[5, 6]], [[[7, 8], [7, 9], [7]]], pad_token_id=0)
    assert rows.ids.tolist() == [[5, 6, 7]]  # what was written last is not read
    assert rows.position.tolist() == [[0, 1, 2]]
    assert rows.column.tolist() == [1, 2]  # two places to predict from
    assert rows.token.tolist() == [7, 8, 7, 9, 7]
    assert rows.reading.tolist() == [0, 1, 0, 1, 0]
    assert rows.rollout.tolist() == [0, 0, 1, 1, 2]


def test_each_branch_sees_its_own_beginning_alone():
    rows = pack_rows([[5]], [[[7, 8, 1], [9, 8, 1]]], pad_token_id=0)
    assert rows.ids.tolist() == [[5, 7, 8, 9, 8]]
    assert rows.position.tolist() == [[0, 1, 2, 1, 2]]
    assert rows.sees[0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 1, 1],
    ]


def test_one_token_completions_need_no_column():
    rows = pack_rows([[5, 6], [7]], [[[1], [2], [3]], [[4]]], pad_token_id=0)
    assert rows.ids.shape == (2, 2)
    assert rows.column.tolist() == [1, 0]


def test_packed_rows_equal_separate_rows(any_policy, groups, apart):
    prompts, completions = groups
    completions[1] = completions[1][:2]  # there may be fewer for one prompt
    completions[2][1] = completions[2][0][:3]  # and one may begin another
    packed = packed_log_probs(any_policy, prompts, completions, pad_token_id=0)
    expected = [
        value
        for prompt, group in zip(prompts, completions, strict=True)
        for completion in group
        for value in apart(any_policy, prompt, completion)
    ]
    expected = torch.stack(expected)
    assert torch.allclose(packed.log_prob, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("frozen", [1, 3])
@pytest.mark.parametrize("shared", [[], [3, 8]])
def test_reading_the_common_beginning_once_changes_nothing(
    any_policy, groups, frozen, shared
):
    prompts, completions = groups
    rows = pack_rows([[*shared, *prompt] for prompt in prompts], completions, 0)
    assert rows.shared == len(shared)
    whole = read_rows(any_policy, rows)
    parts = read_rows(any_policy, rows, frozen)
    assert (parts - whole).abs().max() <= ROUNDING * whole.abs().max()


@pytest.mark.parametrize("frozen", [1, 2])
def test_gradients_end_above_the_frozen_blocks(any_policy, groups, frozen):
    hidden = read_rows(any_policy, pack_rows(*groups, 0), frozen)
    for number, block in enumerate(transformer_blocks(any_policy)):
        adapter = [p for p in block.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            hidden.sum(), adapter, allow_unused=True, retain_graph=True
        )
        assert all((g is not None) == (number >= frozen) for g in gradients)


def test_logits_of_last_hidden_states_are_those_of_the_model(any_policy):
    tokens = torch.tensor([[5, 9, 2]])
    rows = pack_rows([[5, 9, 2]], [[[1]]], 0)
    logits = logits_of(any_policy, read_rows(any_policy, rows))
    expected = any_policy(tokens).logits[0, -1:]
    assert torch.allclose(logits, expected, atol=ROUNDING, rtol=0)


def test_blocks_of_logits_change_nothing(float64_policy, groups, monkeypatch):
    adapter = [p for p in float64_policy.parameters() if p.requires_grad]

    def results():
        packed = packed_log_probs(float64_policy, *groups, pad_token_id=0)
        weight = torch.arange(len(packed.log_prob)).double()
        return packed, torch.autograd.grad(packed.log_prob @ weight, adapter)

    (whole, expected) = results()
    monkeypatch.setattr(packed_rows, "LOGITS_AT_ONCE", 3 * 50)  # three readings at once
    (cut, found) = results()
    # sums of at most 50 numbers in float64, over three blocks
    torch.testing.assert_close(cut.log_prob, whole.log_prob, rtol=0, atol=1e-12)
    torch.testing.assert_close(cut.entropy, whole.entropy, rtol=0, atol=1e-12)
    for own, its in zip(found, expected, strict=True):
        assert (own - its).abs().max() <= 1e-5 * its.abs().max()


def test_each_token_names_its_row_and_its_rollout(float64_policy, groups):
    packed = packed_log_probs(float64_policy, *groups, pad_token_id=0)
    assert packed.row.tolist() == [0] * 7 + [1] * 7 + [2] * 9
    assert packed.rollout[:7].tolist() == [0, 0, 1, 2, 2, 2, 2]


def test_what_fills_a_row_up_does_not_matter(float64_policy, groups):
    one = packed_log_probs(float64_policy, *groups, pad_token_id=0).log_prob
    other = packed_log_probs(float64_policy, *groups, pad_token_id=49).log_prob
    assert torch.equal(one, other)


def test_temperature_divides_the_logits(float64_policy, apart):
    packed = packed_log_probs(float64_policy, [[5, 9]], [[[20]]], 0, temperature=2.0)
    expected = apart(float64_policy, [5, 9], [20], temperature=2.0)
    assert torch.allclose(packed.log_prob, torch.stack(expected), atol=1e-12, rtol=0)
