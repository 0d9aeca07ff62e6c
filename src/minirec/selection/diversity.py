"""Max-min selection: valuable samples, each unlike those already chosen."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.errors import InputError

# numbers of the embeddings held in float64 at once: 4 MiB
_BLOCK = 2**19
# rows and picks compared at once: enough for a matrix product, few enough to stay lazy
_ROWS, _PICKS = 512, 64
# rows with the highest bounds, which meet all picks until few of them are left
_POOL = 2048
# products added up before their sums are, which keeps the error of float32 small
_SLICE = 128
# between these keys, float64 holds all its digits
_NORMAL = 1e-300, 1e300


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
    its key against all. Only rows whose bound comes near the largest key are compared
    with picks they have not met, some at a time, until it is clear that they are not
    next. That is done in float32, with a bound on its error; rows that it cannot tell
    apart are compared in float64. Memory beyond the embeddings is about ``k x d``
    numbers in both precisions.

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


def distance_to_earlier(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how far each row lies from the nearest of those before it.

    By what the next of `select_diverse` is chosen, beside its value.

    Parameters
    ----------
    embeddings
        (k, d) in the order of choice. A row of zeros has cosine 0 with every other.

    Returns
    -------
    ndarray
        (k,) ``min_c (1 - cos(e_i, e_c))`` over the rows c before row i, from 0 to 2;
        NaN for the first.

    Examples
    --------
    >>> distance_to_earlier(np.array([[1.0, 0], [0, 2], [1, 1]])).round(3).tolist()
    [nan, 1.0, 0.293]
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(length > 0, length, 1)
    found = np.full(len(units), np.nan)
    for first in range(1, len(units), _ROWS):
        part = np.arange(first, min(first + _ROWS, len(units)))
        cosine = units[part] @ units[: part[-1]].T
        cosine[np.arange(part[-1]) >= part[:, None]] = -np.inf
        found[part] = 1 - cosine.max(axis=1)
    return found.clip(0, 2)


def check_k(k: int, n: int) -> None:
    """Refuse a number of picks that n candidates cannot give."""
    if k < 1:
        raise InputError(f"select.size is {k}: choose at least 1 sample")
    if k > n:
        raise InputError(
            f"select.size is {k}, more than there are candidates ({n}): lower "
            "select.size, loosen select.prune or raise preprocess.pool.train"
        )


class _Search:
    """The picks so far, and a bound on the key of every row.

    ``upper[i]`` bounds the key of row i from above, by its distance to the first
    ``met[i]`` picks; it is -inf for a pick. ``near[i]`` is the distance in float64 to
    the nearest of the first ``settled[i]`` picks.

    The products of two unit vectors' numbers, added up in any order, err by one rounding
    for each of the sums that a number goes through, and by a few for the products and
    the vectors themselves. So a cosine errs by less than ``rough`` in float32, where
    sums are made in slices, and by less than ``rounding`` in float64.
    """

    def __init__(
        self, embeddings: NDArray[np.floating], values: NDArray[np.float64], k: int
    ) -> None:
        n, width = embeddings.shape
        if isinstance(embeddings, np.memmap):  # whose own class is slow to index
            embeddings = embeddings.view(np.ndarray)
        self.embeddings, self.values = embeddings, values
        self.length = self._lengths()
        # beyond these lengths, float32 may overflow or lose digits
        self.tame = self.length.min() > 1e-15 and self.length.max() < 1e15
        self.rough_length = self.length if self.tame else np.ones(n)
        terms = min(width, _SLICE) + width // _SLICE + 8
        self.rough = terms * float(np.finfo(np.float32).eps) / 2
        self.rounding = (width + 8) * float(np.finfo(np.float64).eps)
        self.picks = np.empty(k, dtype=np.int64)
        self.n_picks = 0
        self.centres = np.empty((k, width))
        self.rough_centres = np.empty((k, width), np.float32)
        self.upper = values * (2 + self.rough)
        self.met = np.zeros(n, dtype=np.int64)
        self.near = np.full(n, np.inf)
        self.settled = np.zeros(n, dtype=np.int64)

    def _lengths(self) -> NDArray[np.float64]:
        length = np.empty(len(self.embeddings))
        block = max(1, _BLOCK // max(1, self.embeddings.shape[1]))
        for first in range(0, len(length), block):
            rows = self.embeddings[first : first + block].astype(np.float64)
            length[first : first + block] = np.sqrt(np.vecdot(rows, rows))
        if not np.isfinite(length).all():
            raise InputError(
                f"embeddings is not finite at row {np.argmin(np.isfinite(length))}: "
                "every number must be finite"
            )
        return np.where(length > 0, length, 1.0)

    def units(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return rows at length 1."""
        return self.embeddings[rows] / self.length[rows, None]

    def pick(self, row: int) -> None:
        """Choose a row."""
        self.picks[self.n_picks] = row
        self.centres[self.n_picks] = self.units(np.array([row]))[0]
        self.rough_centres[self.n_picks] = self.centres[self.n_picks]
        self.n_picks += 1
        self.upper[row] = -np.inf

    def pick_some(self) -> None:
        """Choose the next row, and those after it that the best rows can settle."""
        limit, pool = self._pool()
        before = self.n_picks
        if 0 < len(pool) <= 2 * _ROWS:
            self._pick_among(pool, limit)
        if self.n_picks == before:
            self._pick_one()

    def _pool(self) -> tuple[float, NDArray[np.int64]]:
        """Return a limit, and the rows whose bounds by all picks reach it.

        There are none where too many are tied at the limit, or nothing has a key.
        """
        count, n_left = _POOL, len(self.upper) - self.n_picks
        while True:
            limit = 0.0
            if count < n_left:
                limit = float(np.partition(self.upper, -count)[-count])
            rows = np.flatnonzero((self.upper >= limit) & (self.upper > 0))
            if len(rows) > 2 * count:
                return limit, rows[:0]
            self._meet(rows, limit)
            rows = rows[self.upper[rows] >= limit]
            if len(rows) > _ROWS:
                limit = float(np.partition(self.upper[rows], -_ROWS)[-_ROWS])
                rows = rows[self.upper[rows] >= limit]
            if rows.size or count >= n_left:
                return limit, rows
            count *= 2

    def _pick_among(self, pool: NDArray[np.int64], limit: float) -> None:
        """Choose rows of the pool while it holds the largest key for certain.

        All rows of the pool have met all picks, and all others have keys below limit.
        """
        upper, values = self.upper[pool], self.values[pool]
        units = self.units(pool).astype(np.float32)
        distance = 1 - _cosines(units, units, _SLICE).astype(np.float64) + self.rough
        while self.n_picks < len(self.picks) and upper.max() > 0:
            floor = (upper - 2 * self.rough * values).max()
            able = np.flatnonzero(upper >= floor)
            if len(able) > 1:
                self._settle(pool[able])
                upper[able] = self.upper[pool[able]]
                floor = self._lower(pool[able]).max()
                able = able[upper[able] >= floor]
            if floor < limit or not _NORMAL[0] < floor < _NORMAL[1]:
                break
            self.pick(int(pool[able[0]]))
            upper[able[0]] = -np.inf
            upper = np.minimum(upper, values * distance[able[0]])
            self.upper[pool], self.met[pool] = upper, self.n_picks

    def _pick_one(self) -> None:
        """Choose the next row of all, or what is left where every key is 0."""
        known = np.flatnonzero((self.upper >= 0) & (self.settled == self.n_picks))
        floor, count = self._lower(known).max(initial=0), _ROWS
        while True:
            able = np.flatnonzero(self.upper >= floor)
            known = self.settled[able] == self.n_picks
            behind = able[~known & (self.upper[able] > 0)]
            if floor > 0:
                # Rows after the first of the known can at most tie with it, unless
                # their bounds are higher.
                first = able[known][0]
                behind = behind[
                    (behind < first) | (self.upper[behind] > self.upper[first])
                ]
            if not behind.size:
                break
            if len(behind) > count:
                highest = np.argpartition(self.upper[behind], -count)[-count:]
                behind = np.sort(behind[highest])
            self._meet(behind, floor)
            behind = behind[self.upper[behind] >= floor]
            self._settle(behind)
            floor, count = self._lower(behind).max(initial=floor), 2 * count
        if floor > 0:
            self.pick(int(first))
            return
        # All keys are 0 and stay so: the rest is one tie.
        for row in able[: len(self.picks) - self.n_picks]:
            self.pick(int(row))

    def _meet(self, rows: NDArray[np.int64], limit: float) -> None:
        """Compare rows with picks in float32 until their bounds fall below limit."""
        rows = rows[self.met[rows] < self.n_picks]
        while rows.size:
            first = int(self.met[rows].min())
            # to the same picks for all, so that rows come together on the way
            last = min((first // _PICKS + 1) * _PICKS, self.n_picks)
            centres = self.rough_centres[first:last]
            lacking = rows[self.met[rows] < last]
            for start in range(0, len(lacking), _ROWS):
                part = lacking[start : start + _ROWS]
                cosine = _cosines(self._rough(part), centres, _SLICE).max(axis=1)
                self._bound(part, 1 - cosine / self.rough_length[part] + self.rough)
            self.met[lacking] = last
            rows = rows[(self.upper[rows] >= limit) & (self.met[rows] < self.n_picks)]

    def _rough(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows in float32, at their `rough_length`."""
        found = self.embeddings[rows] if self.tame else self.units(rows)
        return found.astype(np.float32, copy=False)

    def _settle(self, rows: NDArray[np.int64]) -> None:
        """Compare rows with all picks in float64."""
        size = max(1, min(_ROWS, _BLOCK // self.n_picks))
        rows = rows[self.settled[rows] < self.n_picks]
        rows = rows[np.argsort(self.settled[rows], kind="stable")]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            first = int(self.settled[part[0]])
            units, centres = self.units(part), self.centres[first : self.n_picks]
            cosine = _cosines(units, centres, units.shape[1])
            self.near[part] = np.minimum(self.near[part], 1 - cosine.max(axis=1))
            self.settled[part] = self.met[part] = self.n_picks
            self._bound(part, self.near[part] + self.rounding)

    def _bound(self, rows: NDArray[np.int64], distance: NDArray[np.float64]) -> None:
        self.upper[rows] = np.minimum(self.upper[rows], self.values[rows] * distance)

    def _lower(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Bound the keys of settled rows from below."""
        return self.values[rows] * (self.near[rows] - self.rounding)


def _cosines(
    rows: NDArray[np.floating], centres: NDArray[np.floating], size: int
) -> NDArray[np.floating]:
    """Return the products of rows and centres, added up in slices of some size."""
    total = rows[:, :size] @ centres[:, :size].T
    for first in range(size, rows.shape[1], size):
        part = slice(first, first + size)
        total += rows[:, part] @ centres[:, part].T
    return total
