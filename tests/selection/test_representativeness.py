import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minirec.errors import InputError
from minirec.selection import representativeness
from minirec.selection.representativeness import gradient_alignment

# Numbers on a grid: none so small that its square is 0.
matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 4)),
    elements=st.integers(-8, 8).map(lambda n: n / 4),
)


def test_cosines_worked_out_by_hand():
    # cosines with (1, 0): 1, 1/sqrt(2), 0 and -1; their halves plus 1/2 span [0, 1]
    gradients = np.array([[2.0, 0], [3, 3], [0, 5], [-7, 0]])
    half = 0.5 + math.sqrt(2) / 4
    assert gradient_alignment(gradients, direction=[10, 0]) == pytest.approx(
        [1, half, 0.5, 0], abs=2e-12
    )


def test_the_direction_is_the_mean():
    gradients = np.array([[3.0, 0], [0, 1], [-1, -1], [2, 4]])
    assert gradient_alignment(gradients).tolist() == (
        gradient_alignment(gradients, direction=[1, 1]).tolist()
    )


def test_a_gradient_of_zeros_is_at_right_angles_to_all():
    gradients = np.array([[1.0, 0], [0, 0], [-1, 0]])
    assert gradient_alignment(gradients, direction=[1, 0]) == pytest.approx(
        [1, 0.5, 0], abs=2e-12
    )


def test_without_a_common_direction_all_align_alike():
    assert gradient_alignment(np.array([[1.0, 2], [-1, -2]])).tolist() == [0, 0]


@given(matrices)
def test_scores_agree_with_the_formula(gradients):
    rows = gradients.astype(np.float64)
    mean = rows.mean(axis=0)
    size = np.linalg.norm(rows, axis=1) * np.linalg.norm(mean)
    cosine = np.divide(rows @ mean, size, out=np.zeros(len(rows)), where=size > 0)
    spread = np.ptp(cosine) / 2
    expected = (cosine - cosine.min()) / 2 / (spread + 1e-12)
    # Rounding of the cosines is magnified where they hardly differ.
    tolerance = 1e-14 / (spread + 1e-12)
    score = gradient_alignment(gradients)
    assert score == pytest.approx(expected, abs=tolerance)
    assert ((score >= 0) & (score <= 1)).all()


@pytest.mark.parametrize("block", [1, 6, 10**6])
def test_blocks_change_nothing(monkeypatch, block):
    gradients = np.random.default_rng(0).integers(-9, 9, (7, 3)).astype(np.float32)
    whole = gradient_alignment(gradients)
    monkeypatch.setattr(representativeness, "_BLOCK", block)
    # Sums of small whole numbers are exact; the products of a row are not.
    assert gradient_alignment(gradients) == pytest.approx(whole, abs=1e-14)


def test_a_memory_map_is_never_copied_whole(tmp_path, monkeypatch):
    path = tmp_path / "gradients.npy"
    np.save(path, np.random.default_rng(0).random((4000, 64), dtype=np.float32))
    gradients = np.load(path, mmap_mode="r")
    monkeypatch.setattr(representativeness, "_BLOCK", 100 * 64)
    tracemalloc.start()
    gradient_alignment(gradients)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < gradients.nbytes / 2


@pytest.mark.parametrize(
    ("gradients", "direction", "message"),
    [
        (np.empty((0, 3)), None, "gradients has shape"),
        (np.ones(3), None, "gradients has shape"),
        (np.array([[1.0, math.nan]]), None, "the mean of gradients holds nan"),
        (np.array([[1.0], [math.nan]]), [1], "cosines of gradients holds nan at row 1"),
        (np.array([[1.0], [math.inf]]), [1], "cosines of gradients holds nan at row 1"),
        (np.ones((2, 3)), [1, 2], "direction has 2 numbers .* gradients 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_input_is_named(gradients, direction, message):
    with pytest.raises(InputError, match=message):
        gradient_alignment(gradients, direction)
