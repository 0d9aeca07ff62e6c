"""How well the update that a sample asks for agrees with that of the whole pool."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.errors import InputError
from minirec.selection.scaling import min_max

# numbers of a memory map held at once: 32 MiB in float64
_BLOCK = 2**22


def gradient_alignment(
    gradients: NDArray[np.floating], direction: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Score samples by the cosine of their gradient with a common direction.

    ``(cos + 1) / 2``, then min-max over the samples. Source: MiniRec
    (arXiv 2602.04278), which compares each sample's Hessian-vector product with their
    mean.

    Parameters
    ----------
    gradients
        (N, d), an array or a read-only memory map, which is read twice in blocks of
        rows and never copied whole.
    direction
        (d,) the global update; None takes the mean of ``gradients``.

    Returns
    -------
    ndarray
        (N,) in [0, 1]; higher aligns more. A gradient of zeros has cosine 0 with any
        direction, and so has any gradient with a direction of zeros. Samples that all
        align alike score 0.

    Raises
    ------
    InputError
        If there are no gradients, a value is not finite, or ``direction`` has another
        length than a row.

    Examples
    --------
    >>> gradients = np.array([[1.0, 0], [0, 1], [-1, 0]])
    >>> gradient_alignment(gradients, direction=[2, 0]).round(3).tolist()
    [1.0, 0.5, 0.0]
    """
    if gradients.ndim != 2 or not gradients.size:
        raise InputError(
            f"gradients has shape {gradients.shape}: give one row of numbers a sample, "
            "and at least one sample"
        )
    n, width = gradients.shape
    if direction is None:
        total = np.zeros(width)
        for _, rows in _blocks(gradients):
            total += rows.sum(axis=0)
        towards = finite_vector(total / n, "the mean of gradients")
    else:
        towards = finite_vector(direction, "direction")
    if len(towards) != width:
        raise InputError(
            f"direction has {len(towards)} numbers and a row of gradients {width}: "
            "both must come from the same parameters"
        )
    towards = towards / (np.linalg.norm(towards) or 1.0)
    cosine = np.zeros(n)
    for first, rows in _blocks(gradients):
        length = np.linalg.norm(rows, axis=1)
        np.divide(
            rows @ towards,
            length,
            out=cosine[first : first + len(rows)],
            where=length != 0,  # of what is not finite no number comes
        )
    return min_max((finite_vector(cosine, "the cosines of gradients") + 1) / 2)


def _blocks(
    matrix: NDArray[np.floating],
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield blocks of rows in float64, each with the number of its first row."""
    size = max(1, _BLOCK // matrix.shape[1])
    for first in range(0, len(matrix), size):
        yield first, matrix[first : first + size].astype(np.float64)
