"""How sure a mean over users is, and a difference of two."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.errors import InputError

# users drawn at once: 8 MiB
_BLOCK = 2**20


def bootstrap_means(
    values: NDArray[np.floating],
    draws: int,
    seed: int,
    groups: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the means of K columns in each of B draws of users.

    Each draw takes as many users as there are, with replacement, and the mean over all
    their samples. All columns share a draw, so that differences of their means are
    those of a paired bootstrap. Source: B. Efron, "Bootstrap methods: another look at
    the jackknife" (1979).

    Parameters
    ----------
    values
        (N, K), a row a sample.
    draws
        B, at least 1.
    seed
        Of the draws.
    groups
        (N,) the user of each sample: samples of a user are drawn together, as they
        are not independent. None takes each sample as a user of its own.

    Returns
    -------
    ndarray
        (B, K).

    Raises
    ------
    InputError
        If ``groups`` has another length, or ``draws`` is below 1.
    """
    _check_draws(draws)
    total, size = _by_user(values, groups)
    n = len(size)
    rng = np.random.default_rng(seed)
    means = np.empty((draws, values.shape[1]))
    block = max(1, _BLOCK // n)
    for first in range(0, draws, block):
        part = means[first : first + block]
        times = _times(rng, len(part), n)
        part[:] = times @ total / (times @ size)[:, None]
    return means


def bootstrap_means_over_seeds(
    values: NDArray[np.floating],
    draws: int,
    seed: int,
    groups: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the means of K columns in each of B draws of users and of seeds.

    Each draw takes as many users as there are and as many seeds, both with replacement
    and apart from one another, and the mean over all samples of these users under all
    these seeds. So the spread of the means holds what another choice of users would
    change, and what another run of the training. A handful of seeds shows less of the
    latter than many would: with S seeds about a share of 1/S of its variance is
    missing, and with one all of it. Source: A. B. Owen, "The pigeonhole bootstrap"
    (2007).

    Parameters
    ----------
    values
        (S, N, K), of S seeds and N samples, all under each seed.
    draws
        B, at least 1.
    seed
        Of the draws.
    groups
        (N,) the user of each sample, as in `bootstrap_means`.

    Returns
    -------
    ndarray
        (B, K).

    Raises
    ------
    InputError
        If ``groups`` has another length, or ``draws`` is below 1.

    Examples
    --------
    >>> two = np.array([[[0.0], [0.0]], [[1.0], [1.0]]])  # a bad seed and a good one
    >>> np.unique(bootstrap_means_over_seeds(two, 100, seed=0)).tolist()
    [0.0, 0.5, 1.0]
    """
    _check_draws(draws)
    n_seeds, n_samples, width = values.shape
    side_by_side = np.moveaxis(values, 0, 1).reshape(n_samples, n_seeds * width)
    total, size = _by_user(side_by_side, groups)
    n = len(size)
    rng = np.random.default_rng(seed)
    means = np.empty((draws, width))
    block = max(1, _BLOCK // max(n, n_seeds * width))
    for first in range(0, draws, block):
        part = means[first : first + block]
        users, seeds = (_times(rng, len(part), m) for m in (n, n_seeds))
        sums = (users @ total).reshape(len(part), n_seeds, width)
        part[:] = np.einsum("bs,bsk->bk", seeds, sums)
        part /= n_seeds * (users @ size)[:, None]
    return means


def _times(rng: np.random.Generator, draws: int, n: int) -> NDArray[np.float64]:
    """Return how often each of n is drawn in each of some draws of n (draws, n)."""
    drawn = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=n * draws)
    return times.reshape(draws, n).astype(np.float64)


def interval(means: NDArray[np.floating], confidence: float) -> tuple[float, float]:
    """Return the ends of what the middle ``confidence`` of (B,) draws lies between.

    Raises
    ------
    InputError
        If ``confidence`` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InputError(
            f"train_eval.evaluation.confidence is {confidence}: give a number between "
            "0 and 1, such as 0.95"
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def randomisation_test(
    differences: NDArray[np.floating],
    draws: int,
    seed: int,
    groups: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return how often chance alone makes K mean differences as large, in either way.

    If two methods were alike, each user's difference could as well have the other
    sign: of B random choices of signs, the share that gives a mean at least as far
    from 0 as the one found, the latter counted among them. Source: Fisher's
    randomisation test, as M. D. Smucker, J. Allan and B. Carterette, "A comparison of
    statistical significance tests for information retrieval evaluation" (2007), advise.

    Parameters
    ----------
    differences
        (N, K), a row a sample, a column a pair of methods.
    draws
        B, at least 1.
    seed
        Of the signs.
    groups
        (N,) the user of each sample, whose samples change signs together.

    Returns
    -------
    ndarray
        (K,) p-values in [1 / (B + 1), 1].

    Raises
    ------
    InputError
        If ``groups`` has another length, or ``draws`` is below 1.

    Examples
    --------
    >>> randomisation_test(np.zeros((3, 1)), draws=99, seed=0).tolist()
    [1.0]
    """
    _check_draws(draws)
    total, size = _by_user(differences, groups)
    found = np.abs(total.sum(axis=0))
    # sums in another order differ in rounding: as large but for that is as large
    found -= len(size) * np.finfo(np.float64).eps * np.abs(total).sum(axis=0)
    rng = np.random.default_rng(seed)
    as_large = np.zeros(differences.shape[1])
    block = max(1, _BLOCK // len(size))
    for first in range(0, draws, block):
        n = min(block, draws - first)
        signs = rng.integers(2, size=(n, len(size))) * 2.0 - 1
        as_large += (np.abs(signs @ total) >= found).sum(axis=0)
    return (as_large + 1) / (draws + 1)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values (K,) that allow for K tests at once.

    If only those below 0.05 are believed, the chance that any of these is an error is
    at most 0.05. Source: S. Holm, "A simple sequentially rejective multiple test
    procedure" (1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    steps = (len(p) - np.arange(len(p))) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise InputError(
            f"train_eval.evaluation.bootstrap_draws is {draws}: give at least 1"
        )


def _by_user(
    values: NDArray[np.floating], groups: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of each user's rows (U, K), and how many these are (U,)."""
    users = np.arange(len(values)) if groups is None else np.asarray(groups)
    if users.shape != values.shape[:1]:
        raise InputError(
            f"groups has shape {users.shape} for {len(values)} values: give the user "
            "of every sample"
        )
    user = np.unique(users, return_inverse=True)[1]
    size = np.bincount(user)
    total = np.empty((len(size), values.shape[1]))
    for column in range(values.shape[1]):
        total[:, column] = np.bincount(user, weights=values[:, column])
    return total, size.astype(np.float64)
