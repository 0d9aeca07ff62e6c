"""Max-min selection: valuable samples, each unlike those already chosen."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.errors import InputError

# numbers of the embeddings held in float64 at once: 4 MiB
_BLOCK = 2**19
# rows looked at together: enough for a matrix product, few enough to stay lazy
_BATCH = 256


def select_diverse(
    embeddings: NDArray[np.floating],
    values: ArrayLike,
    k: int,
    start: int | None = None,
) -> NDArray[np.int64]:
    """Choose k rows one by one, each the largest of value x distance to the chosen.

    The next pick is ``argmax_i values[i] * min_c (1 - cos(e_i, e_c))`` over the chosen
    c. Source: MiniRec (arXiv 2602.04278), whose min-max of the distances at every step
    changes no pick: the least is 0, and the largest a factor common to all.

    The picks are those of the algorithm in float64. Keys that differ by no more than
    its rounding (a distance is known to about ``d`` x 2e-16) are a tie, and of a tie
    the lowest row is chosen, so the picks do not depend on threads or block sizes.

    Parameters
    ----------
    embeddings
        (N, d), an array or a read-only memory map, which is read in blocks. A row of
        zeros has cosine 0 with every other.
    values
        (N,) at least 0; higher is chosen sooner.
    k
        Number of picks, from 1 to N.
    start
        Row of the first pick; None takes the largest value.

    Returns
    -------
    ndarray
        (k,) row numbers in the order of choice; the picks of a smaller k come first.

    Raises
    ------
    InputError
        If k is not from 1 to N, a value is negative or not finite, an embedding is not
        finite, or the shapes do not fit.

    Notes
    -----
    Keys only fall as picks are added, so a row's key against some of the picks bounds
    its key against all. Only rows whose bound reaches the largest key are compared with
    the picks they have not met, many at a time. Memory beyond the embeddings is about
    ``k x d`` float64 numbers.

    Examples
    --------
    >>> rows = np.array([[1.0, 0], [1, 0.1], [0, 1]])
    >>> select_diverse(rows, [1.0, 0.9, 0.5], k=2)
    array([0, 2])
    """
    check_k(k, len(embeddings))
    worth = finite_vector(values, "values")
    if embeddings.ndim != 2 or len(embeddings) != len(worth):
        raise InputError(
            f"embeddings has shape {embeddings.shape} and values {worth.shape}: give "
            "one row and one value a candidate"
        )
    if worth.min() < 0:
        raise InputError(
            f"values holds {worth.min()} at row {worth.argmin()}: every value must be "
            "at least 0"
        )
    if start is not None and not 0 <= start < len(worth):
        raise InputError(
            f"start is {start} for {len(worth)} candidates: give a row number from 0 "
            f"to {len(worth) - 1}"
        )
    search = _Search(embeddings, worth, k)
    search.pick(int(worth.argmax()) if start is None else start)
    while search.n_picks < k:
        search.pick_some()
    return search.picks


def check_k(k: int, n: int) -> None:
    """Refuse a number of picks that n candidates cannot give."""
    if k < 1:
        raise InputError(f"select.size is {k}: choose at least 1 sample")
    if k > n:
        raise InputError(
            f"select.size asks for {k} picks, more picks than candidates ({n}): lower "
            "select.size, loosen select.prune or raise preprocess.pool.train"
        )


class _Search:
    """The picks so far, and a bound on the key of every row.

    ``upper[i]`` bounds the key of row i from above, by its distance to the first
    ``met[i]`` picks; it is -inf for a pick. The key of a row that has met all picks
    lies between ``lower`` and ``upper``, which rounding keeps apart.
    """

    def __init__(
        self, embeddings: NDArray[np.floating], values: NDArray[np.float64], k: int
    ) -> None:
        n, width = embeddings.shape
        self.embeddings, self.values = embeddings, values
        self.block = max(1, _BLOCK // max(1, width))
        self.length = self._lengths()
        self.rounding = (width + 8) * np.finfo(np.float64).eps
        self.picks = np.empty(k, dtype=np.int64)
        self.n_picks = 0
        self.centres = np.empty((k, width))
        self.upper = values * (2 + self.rounding)
        self.met = np.zeros(n, dtype=np.int64)

    def _lengths(self) -> NDArray[np.float64]:
        length = np.empty(len(self.embeddings))
        for first in range(0, len(length), self.block):
            rows = self.embeddings[first : first + self.block].astype(np.float64)
            length[first : first + self.block] = np.linalg.norm(rows, axis=1)
        if not np.isfinite(length).all():
            raise InputError(
                f"embeddings is not finite at row {np.argmin(np.isfinite(length))}: "
                "every number must be finite"
            )
        return np.where(length > 0, length, 1.0)

    def units(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return rows at length 1."""
        return self.embeddings[rows] / self.length[rows, None]

    def lower(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Bound the keys of rows that have met all picks from below."""
        return self.upper[rows] - 2 * self.rounding * self.values[rows]

    def pick(self, row: int) -> None:
        """Choose a row."""
        self.picks[self.n_picks] = row
        self.centres[self.n_picks] = self.units(np.array([row]))[0]
        self.n_picks += 1
        self.upper[row] = -np.inf

    def meet(
        self, rows: NDArray[np.int64], units: NDArray[np.float64], first: int
    ) -> None:
        """Compare rows with the picks from number ``first`` on."""
        cosine = units @ self.centres[first : self.n_picks].T
        key = self.values[rows] * (1 - cosine.max(axis=1) + self.rounding)
        self.upper[rows] = np.minimum(self.upper[rows], key)
        self.met[rows] = self.n_picks

    def pick_some(self) -> None:
        """Choose the next row, and those after it that the best rows can settle."""
        floor = self._largest_key()
        if floor == 0:
            # All keys are 0 and stay so: the rest is one tie.
            left = len(self.picks) - self.n_picks
            for row in np.flatnonzero(self.upper >= 0)[:left]:
                self.pick(int(row))
            return
        row = int(np.argmax(self.upper >= floor))
        known = np.flatnonzero((self.upper >= 0) & (self.met == self.n_picks))
        leaders = np.sort(self._highest(known, _BATCH))
        others = self.upper.copy()
        others[leaders] = -np.inf
        units, ceiling = self.units(leaders), others.max()
        while True:
            self.pick(row)
            if self.n_picks == len(self.picks):
                return
            self.meet(leaders, units, self.n_picks - 1)
            floor = self.lower(leaders).max()
            if floor <= ceiling:
                return
            row = int(leaders[np.argmax(self.upper[leaders] >= floor)])

    def _largest_key(self) -> float:
        """Let rows meet the picks until one has the largest key, bounded from below."""
        known = np.flatnonzero((self.upper >= 0) & (self.met == self.n_picks))
        floor, count = self.lower(known).max(initial=0), _BATCH
        while True:
            behind = np.flatnonzero((self.upper >= floor) & (self.met < self.n_picks))
            if not behind.size:
                return floor
            rows = self._highest(behind, count)
            rows = rows[np.argsort(self.met[rows])]
            for part in np.split(rows, range(self.block, len(rows), self.block)):
                self.meet(part, self.units(part), int(self.met[part[0]]))
            floor, count = max(floor, self.lower(rows).max()), 2 * count

    def _highest(self, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return, of these rows, the ``count`` with the highest bounds."""
        if len(rows) <= count:
            return rows
        return rows[np.argpartition(self.upper[rows], -count)[-count:]]
