import torch

from minirec.policy.packed_rows import packed_log_probs


def test_packed_rows_equal_separate_rows(float64_policy, groups, apart):
    prompts, completions = groups
    packed = packed_log_probs(float64_policy, prompts, completions, pad_token_id=0)
    expected = [
        value
        for prompt, group in zip(prompts, completions, strict=True)
        for completion in group
        for value in apart(float64_policy, prompt, completion)
    ]
    # Rotary positions are computed in float32 whatever the model's dtype: 2^-24 an
    # angle, over three blocks.
    assert torch.allclose(packed.log_prob, torch.stack(expected), atol=1e-6, rtol=0)


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
