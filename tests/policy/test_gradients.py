import numpy as np
import pytest
import torch

from minirec.errors import InputError
from minirec.policy.gradients import (
    CountSketch,
    group_advantages,
    sample_gradients,
    trainable_parameters,
)


def test_advantages_by_hand():
    # mean 0.5, sample standard deviation sqrt(0.5)
    advantages = group_advantages(np.array([[0.0, 1.0], [0.3, 0.3]]))
    expected = 0.5 / (np.sqrt(0.5) + 1e-4)
    np.testing.assert_allclose(advantages, [[-expected, expected], [0, 0]])


def test_gradients_equal_those_of_single_samples(float64_policy, groups, apart):
    prompts, completions = groups
    advantages = np.random.default_rng(0).normal(size=(3, 3))
    parameters = trainable_parameters(float64_policy, last_blocks=None)
    batch = sample_gradients(
        float64_policy, prompts, completions, advantages, 0, 1.0, parameters
    )
    for row in range(3):
        loss = -sum(
            advantages[row, i] * sum(apart(float64_policy, prompts[row], completion))
            for i, completion in enumerate(completions[row])
        )
        alone = torch.autograd.grad(loss, [p for _, p in parameters])
        for (name, _), expected in zip(parameters, alone, strict=True):
            # as in test_packed_rows, the float32 angles bound the agreement
            scale = expected.abs().max()
            assert (batch[name][row] - expected).abs().max() <= 1e-5 * scale, name


def test_only_the_last_blocks_are_differentiated(float64_policy):
    names = [name for name, _ in trainable_parameters(float64_policy, last_blocks=2)]
    # seven linear layers a block, A and B each
    assert len(names) == 2 * 7 * 2
    assert all(".layers.1." in name or ".layers.2." in name for name in names)


def test_more_blocks_than_the_model_has(float64_policy):
    with pytest.raises(InputError, match=r"score\.gradients\.last_blocks is 4"):
        trainable_parameters(float64_policy, last_blocks=4)


def test_sketch_by_hand():
    sketch = CountSketch([3], dimensions=2, seed=0)
    (bucket, sign), *_ = sketch._maps
    expected = np.zeros(2)
    for place, value in enumerate([1.0, 2.0, 4.0]):
        expected[bucket[place]] += sign[place] * value
    np.testing.assert_array_equal(
        sketch([torch.tensor([[1.0, 2.0, 4.0]])])[0], expected
    )


def test_sketch_is_linear_and_keeps_cosines():
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5_000, generator=random)
    b = 0.6 * a + 0.8 * b
    sketch = CountSketch([2_000, 3_000], dimensions=1_024, seed=1)
    rows = torch.stack([a, b, a + b])
    x, y, both = sketch([rows[:, :2_000], rows[:, 2_000:]])
    np.testing.assert_allclose(both, x + y, atol=1e-3)
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    exact = float(a @ b / a.norm() / b.norm())
    # its standard error is below sqrt(2 / dimensions); three of them
    assert abs(cosine - exact) < 3 * np.sqrt(2 / 1_024)


def test_equal_seeds_give_equal_sketches():
    gradient = [torch.arange(12.0).reshape(2, 6)]
    one, same, other = (CountSketch([6], 4, seed)(gradient) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
