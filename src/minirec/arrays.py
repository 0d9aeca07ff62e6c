"""Checks of the arrays that public functions are given."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.errors import InputError


def finite_vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return values as a float64 array (N,).

    Raises
    ------
    InputError
        If there are none, if they are not one-dimensional, or if one is not finite.
    """
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not vector.size:
        raise InputError(
            f"{name} has shape {vector.shape}: give one number a sample, and at least "
            "one sample"
        )
    if not np.isfinite(vector).all():
        row = int(np.argmin(np.isfinite(vector)))
        raise InputError(
            f"{name} holds {vector[row]} at row {row}: every value must be a finite "
            "number"
        )
    return vector
