import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.selection.curriculum import (
    order_in_groups,
    order_in_stages,
    order_shuffled,
    order_sorted,
    stage_of,
)

ORDERS = [order_in_groups, order_in_stages]
ALL_ORDERS = [*ORDERS, order_sorted, order_shuffled]
IDS = np.array([10, 20, 30, 40, 50])
REWARDS = np.array([0.5, 0.1, 0.4, 0.2, 0.3])


@st.composite
def curricula(draw):
    ids = draw(st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True))
    levels = st.sampled_from([0.0, 0.1, 0.2, 0.5])  # many are equal
    rewards = draw(st.lists(levels, min_size=len(ids), max_size=len(ids)))
    n_stages = draw(st.integers(1, len(ids)))
    return np.array(ids), np.array(rewards), n_stages, draw(st.integers(0, 99))


def shuffled(ids, seed):
    order = sorted(ids)
    random.Random(seed).shuffle(order)
    return order


def test_groups_worked_out_by_hand():
    # Random(42) shuffles [10 .. 50] to [40, 20, 30, 50, 10]; groups of 2 and 3
    assert shuffled(IDS, 42) == [40, 20, 30, 50, 10]
    assert order_in_groups(IDS, REWARDS, 2, seed=42).tolist() == [40, 20, 10, 30, 50]


def test_stages_worked_out_by_hand():
    # easiest first: 10 30 | 50 40 20; each stage in the order of that shuffle
    assert order_in_stages(IDS, REWARDS, 2, seed=42).tolist() == [30, 10, 40, 20, 50]


def test_the_last_stage_takes_the_remainder():
    assert stage_of(11, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert stage_of(3, 1).tolist() == [0, 0, 0]
    assert stage_of(3, 3).tolist() == [0, 1, 2]


def test_one_stage_is_the_shuffle_and_one_group_is_sorted():
    assert order_in_stages(IDS, REWARDS, 1, 7).tolist() == shuffled(IDS, 7)
    assert order_in_groups(IDS, REWARDS, 1, 7).tolist() == [10, 30, 50, 40, 20]


@given(curricula())
def test_sorted_and_shuffled_are_the_two_ends_of_stages(curriculum):
    ids, rewards, n_stages, seed = curriculum
    for order, as_stages in ((order_sorted, len(ids)), (order_shuffled, 1)):
        ends = order_in_stages(ids, rewards, as_stages, seed)
        assert order(ids, rewards, n_stages, seed).tolist() == ends.tolist()


@pytest.mark.parametrize("order", ALL_ORDERS)
@given(curriculum=curricula())
def test_every_sample_is_there_once_wherever_it_came_from(order, curriculum):
    ids, rewards, n_stages, seed = curriculum
    ordered = order(ids, rewards, n_stages, seed)
    assert sorted(ordered) == sorted(ids)
    assert order(ids[::-1], rewards[::-1], n_stages, seed).tolist() == ordered.tolist()


@given(curricula())
def test_each_group_falls_in_reward_and_keeps_its_part_of_the_shuffle(curriculum):
    ids, rewards, n_groups, seed = curriculum
    reward = dict(zip(ids, rewards, strict=True))
    order = shuffled(ids, seed)
    size = len(ids) // n_groups
    expected = []
    for group in range(n_groups):
        last = len(ids) if group == n_groups - 1 else (group + 1) * size
        expected += sorted(order[group * size : last], key=lambda i: -reward[i])
    assert order_in_groups(ids, rewards, n_groups, seed).tolist() == expected


@given(curricula())
def test_no_stage_is_easier_than_the_one_before(curriculum):
    ids, rewards, n_stages, seed = curriculum
    reward = dict(zip(ids, rewards, strict=True))
    position = {sample: i for i, sample in enumerate(shuffled(ids, seed))}
    ordered = order_in_stages(ids, rewards, n_stages, seed)
    stage = stage_of(len(ids), n_stages)
    for number in range(n_stages):
        own = ordered[stage == number]
        assert np.all(np.diff([position[i] for i in own]) > 0)
        if number:
            before = ordered[stage == number - 1]
            assert min(reward[i] for i in before) >= max(reward[i] for i in own)


@pytest.mark.parametrize("order", ORDERS)
def test_other_seeds_give_other_orders(order):
    ids = np.arange(20)
    orders = {tuple(order(ids, ids / 20, 2, seed)) for seed in range(5)}
    assert len(orders) == 5


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("ids", "rewards", "n_stages", "message"),
    [
        ([1, 2], [0.1, 0.2], 3, "select.curriculum.n_stages is 3 for 2 samples"),
        ([1, 2], [0.1, 0.2], 0, "select.curriculum.n_stages is 0"),
        ([1, 1], [0.1, 0.2], 1, "sample_id has 2 values, 1 of them different"),
        ([1, 2, 3], [0.1, 0.2], 1, "sample_id has 3 values"),
        ([1, 2], [0.1, np.nan], 1, "mean_reward holds nan at row 1"),
        ([], [], 1, "mean_reward has shape"),
    ],
)
def test_bad_input_is_named(order, ids, rewards, n_stages, message):
    with pytest.raises(InputError, match=message):
        order(ids, rewards, n_stages, seed=0)
