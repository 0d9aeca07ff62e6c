"""The scale of every score of a sample."""

import numpy as np
from numpy.typing import NDArray


def min_max(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map values (N,) linearly to [0, 1]; equal values all become 0.

    ``(x - min) / (max - min + 1e-12)``, as in the published code.
    """
    low, high = values.min(), values.max()
    return (values - low) / (high - low + 1e-12)
