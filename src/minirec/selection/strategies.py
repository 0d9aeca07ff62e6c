"""Strategies: which k samples to train on.

A strategy is a plain function ``f(tables, k, seed) -> sample ids``, named by dotted
path in ``select.strategy``. ``tables`` holds

- ``candidates``: the N kept samples, in the columns of `minirec.schemas.Candidates`,
- ``prompts`` and ``items``: these tables whole, of every split,
- ``gradients`` and ``embeddings``: mappings of ``sample_id`` (M,) to ``matrix`` (M, d),
  read-only memory maps that hold the candidates among others.

It returns k ids of candidates, each once, in the order of choice.

Of those here, each breaks ties (of scores that are equal as computed, to the last
bit) by the lowest sample id, gives the same answer in
whatever order the rows of the tables come, and gives the picks of a smaller k first,
unless it says otherwise. ``seed`` makes a difference where it is named. All raise
`InputError` if k is not from 1 to N, or if a table that they read lacks a candidate.
Costs are in N, k and d, the length of a row of the matrix that is read; sorting N
numbers and reading the tables is left out. docs/strategies.md compares them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from minirec.arrays import finite_vector
from minirec.columns import (
    ITEM_ID,
    LEARNABILITY,
    MEAN_REWARD,
    POPULARITY,
    REPRESENTATIVENESS,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    TARGET_ITEM_ID,
    VALID,
    VALUE,
)
from minirec.errors import InputError
from minirec.selection.diversity import check_k, select_diverse
from minirec.selection.representativeness import gradient_alignment
from minirec.selection.scaling import min_max

Tables = Mapping[str, Any]

# numbers held in float64 at once beside whole columns: 32 MiB
_BLOCK = 2**22
# of `strata`, the published code's for two of its three datasets
_STRATA, _EFFORT_WEIGHT = 50, 1.0


def diverse(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose valuable samples, each unlike those already chosen (`select_diverse`).

    The next pick has the largest value x least cosine distance to the chosen, where
    value = alpha x learnability + representativeness. Source: MiniRec
    (arXiv 2602.04278). Cost: O(N k d) at most, and less, as few cosines are computed;
    reads ``embeddings``.
    """
    return _diverse(tables, VALUE, k)


def without_learnability(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose as `diverse`, with representativeness alone for the value."""
    return _diverse(tables, REPRESENTATIVENESS, k)


def without_representativeness(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose as `diverse`, with learnability alone for the value."""
    return _diverse(tables, LEARNABILITY, k)


def without_diversity(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose the samples of the highest value, however alike they are.

    `diverse` without the distances. Cost: none beside sorting.
    """
    return _highest(tables, _pool(tables)[VALUE], k)


def balanced(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose the samples of the highest value among those of the same target item.

    Score = 1 - (place + 1/2) / n, from 0 to 1, where n candidates have the sample's
    target and ``place`` of them, from 0, a higher value; higher is chosen. So targets
    have the shares of picks that they have of candidates, and popular ones, which are
    easy, do not crowd out the others. Equal values come in a random order by ``seed``:
    where most samples earned nothing, those with the lowest ids would be the first
    users'. Source: none. Cost: O(N) beside sorting; reads ``prompts``.
    """
    pool = _pool(tables)
    check_k(k, len(pool))
    value = finite_vector(pool[VALUE], VALUE)
    target = pd.factorize(_of_prompts(tables, TARGET_ITEM_ID), sort=True)[0]
    chance = np.random.default_rng(seed).random(len(pool))
    order = np.lexsort((chance, -value, target))
    n = np.bincount(target)
    place = np.empty(len(pool))
    place[order] = np.arange(len(pool)) - np.repeat(np.cumsum(n) - n, n)
    score = 1 - (place + 0.5) / n[target]
    # of equal scores the higher value, and then chance
    return pool[SAMPLE_ID].to_numpy()[np.lexsort((chance, -value, -score))[:k]]


def random(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose samples at random by ``seed``, all alike.

    Cost: O(N).
    """
    ids = _pool(tables)[SAMPLE_ID].to_numpy()
    check_k(k, len(ids))
    return np.random.default_rng(seed).permutation(ids)[:k]


def longest_history(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose the samples with the most items before the target.

    Score = the length of ``seen_item_id``, at least 0; higher is chosen. Source: none,
    a plain heuristic. Cost: O(N).
    """
    return _highest(tables, _of_prompts(tables, SEEN_ITEM_ID).map(len), k)


def most_popular_target(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose the samples whose targets are chosen most often in training.

    Score = ``popularity`` of the target, at least 0; higher is chosen. Source: none, a
    plain heuristic. Cost: O(N).
    """
    target, items = _of_prompts(tables, TARGET_ITEM_ID), tables["items"]
    rows = _places(items[ITEM_ID], target, "items", "targets")
    return _highest(tables, items[POPULARITY].to_numpy()[rows], k)


def highest_reward(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose the samples on which the proxy earns most: the easiest.

    Score = mean reward; higher is chosen. Source: none, a plain heuristic. Cost: none
    beside sorting.
    """
    return _highest(tables, _pool(tables)[MEAN_REWARD], k)


def reward_spread(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose the samples whose mean reward p lies nearest to one half.

    Score = p (1 - p), from 0 to 1/4; higher is chosen. For rewards of 0 or 1 it is
    their variance, and for rewards between it is the most that their variance can be.
    Source: sampling for learnability (Rutherford et al. 2024, arXiv 2408.15099), by
    Foster et al. (2025, arXiv 2502.12272) for the RL of LLMs. Cost: none beside
    sorting.

    Raises
    ------
    InputError
        Also if a mean reward does not lie between 0 and 1.
    """
    mean = finite_vector(_pool(tables)[MEAN_REWARD], MEAN_REWARD)
    if mean.min() < 0 or mean.max() > 1:
        raise InputError(
            f"mean_reward runs from {mean.min():.4g} to {mean.max():.4g}, and "
            "reward_spread is for rewards from 0 to 1: choose another strategy or "
            "ranking.reward"
        )
    return _highest(tables, mean * (1 - mean), k)


def gradient_norm(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose the samples with the longest gradients.

    Score = the length of a sample's row of ``gradients``, at least 0; higher is chosen.
    Source: GraNd (Paul et al. 2021, arXiv 2107.07075), which averages over several
    models early in their training; here it is the GRPO loss of one, the proxy. Cost:
    O(N d); reads ``gradients`` once, in blocks.
    """
    return _highest(tables, _gradient_norms(tables), k)


def validation_alignment(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose the samples whose gradients point where those of validation do.

    Score = the cosine of a sample's gradient with the mean gradient of the prompts of
    the validation split, from -1 to 1; higher is chosen, and a gradient of zeros has
    cosine 0. Source: LESS (Xia et al. 2024, arXiv 2402.04333), which adds this up over
    checkpoints and takes the gradients of samples as Adam would step; here it is one
    checkpoint, the proxy, and plain gradients. Cost: O((N + V) d) with V validation
    prompts; reads ``gradients`` once, in blocks.

    Raises
    ------
    InputError
        Also if there are no prompts of the validation split.
    """
    prompts = tables["prompts"]
    held_out = np.sort(prompts.loc[prompts[SPLIT] == VALID, SAMPLE_ID].to_numpy())
    if not len(held_out):
        raise InputError(
            "prompts holds none of the validation split, with whose gradients "
            "validation_alignment compares: set preprocess.pool.valid to a number "
            "above 0 and run preprocess and score again, with the same --params"
        )
    towards = _Rows(tables, "gradients", held_out, "validation prompts")
    mean = sum(rows.sum(axis=0) for rows in towards.blocks()) / len(held_out)
    rows: Any = _candidate_rows(tables, "gradients")
    return _highest(tables, gradient_alignment(rows, mean), k)


def k_center(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose samples each as unlike those already chosen as can be, farthest first.

    The first pick is drawn by ``seed``; each further one has the largest least cosine
    distance to the chosen, from 0 to 2. The Euclidean distance of rows at length 1
    orders them alike, and by it the farthest candidate is at most twice as far from its
    nearest pick as in the best choice of k. Source: Gonzalez (1985); for choosing
    training samples, Sener and Savarese (2018, arXiv 1708.00489). Cost: O(N k d) at
    most; reads ``embeddings``.
    """
    rows: Any = _candidate_rows(tables, "embeddings")
    check_k(k, len(rows))
    start = int(np.random.default_rng(seed).integers(len(rows)))
    picks = select_diverse(rows, np.ones(len(rows)), k, start)
    return _pool(tables)[SAMPLE_ID].to_numpy()[picks]


def k_means(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose of each of k clusters the sample nearest to its centre.

    K-means on ``embeddings`` at length 1, from one k-means++ start by ``seed``. Picks
    come from the largest cluster to the smallest. If there are fewer than k different
    embeddings, some clusters are empty: the second nearest of each follow, and so on.
    Source: Lloyd (1982); k-means++ of Arthur and Vassilvitskii (2007). Cost: O(N k d)
    an iteration, of which scikit-learn does at most 300, and N x d float32 numbers of
    memory, twice. A larger k makes other clusters, so it does not add to a smaller one.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    embeddings = _candidate_rows(tables, "embeddings")
    check_k(k, len(embeddings))
    units = _units(embeddings, np.float32)
    # Threads would add up a centre in the order in which they finish.
    with threadpool_limits(1, user_api="openmp"):
        clusters = KMeans(k, n_init=1, random_state=seed).fit(units)
    label = clusters.labels_
    distance = np.concatenate(
        [
            np.linalg.norm(units[part] - clusters.cluster_centers_[label[part]], axis=1)
            for part in _parts(len(units), embeddings.at_once)
        ]
    )
    inside = np.lexsort((distance, label))
    size = np.bincount(label, minlength=k)
    first = np.cumsum(size) - size
    place = np.empty_like(inside)
    place[inside] = np.arange(len(label)) - first[label[inside]]
    order = np.lexsort((-size[label], place))
    return _pool(tables)[SAMPLE_ID].to_numpy()[order[:k]]


def facility_location(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose samples to which all candidates are near.

    Each pick raises sum_i max_c (1 + cos(e_i, e_c)), over the chosen c, by the most;
    the sum is from 0 to 2N, higher is better, and the greedy choice reaches at least
    1 - 1/e of the largest possible (Nemhauser, Wolsey and Fisher 1978). For choosing
    training samples: Wei, Iyer and Bilmes (2015). Gains that differ by no more than
    rounding are a tie.

    Cost: a pick changes the gains by the candidates that it is nearest to, and these
    alone are compared with all: O(N^2 d log k) if picks share the candidates evenly,
    O(N^2 k d) at worst, and N x d float64 numbers of memory, never N x N.
    """
    embeddings = _candidate_rows(tables, "embeddings")
    n, width = embeddings.shape
    check_k(k, n)
    units = _units(embeddings, np.float64)
    at_once = min(n, max(1, _BLOCK // n))
    rounding = 2 * (width + at_once) * np.finfo(np.float64).eps
    nearest = np.full(n, -1.0)
    gains = n + units @ units.sum(axis=0)
    picks: list[int] = []
    n_terms = n
    while True:
        tie = gains >= gains.max() - rounding * n_terms
        picks.append(int(np.argmax(tie)))
        if len(picks) == k:
            return _pool(tables)[SAMPLE_ID].to_numpy()[picks]
        cosine = units @ units[picks[-1]]
        closer = np.flatnonzero(cosine > nearest)
        for part in _parts(len(closer), at_once):
            rows = closer[part]
            before, after = nearest[rows, None], cosine[rows, None]
            gained = units[rows] @ units.T
            np.clip(gained, before, after, out=gained)
            gained -= before
            gains -= gained.sum(axis=0)
        nearest[closer] = cosine[closer]
        n_terms += len(closer)
        gains[picks] = -np.inf


def strata(tables: Tables, k: int, seed: int) -> NDArray[np.int64]:
    """Choose samples of every range of a score, as DEALRec does.

    Score = min-max representativeness + min-max length of the gradient, from 0 to 2.
    Its range is cut into 50 strata of equal width; from the one with the fewest samples
    on, each gives its even share of the picks that are left, or all that it has, drawn
    by ``seed``. Source: DEALRec (Lin et al. 2024, arXiv 2401.17197), with ours in place
    of its scores: it takes a small recommender's influence function for the first, and
    the length of the LLM's gradient for the second; it also leaves out the highest
    scores, which is left to ``select.prune`` here. Cost: O(N d); reads ``gradients``
    once, in blocks. A larger k does not add to a smaller one.
    """
    pool = _pool(tables)
    check_k(k, len(pool))
    influence = finite_vector(pool[REPRESENTATIVENESS], REPRESENTATIVENESS)
    effort = _gradient_norms(tables)
    score = min_max(min_max(influence) + _EFFORT_WEIGHT * min_max(effort))
    stratum = np.minimum((_STRATA * score).astype(int), _STRATA - 1)
    groups = [np.flatnonzero(stratum == each) for each in np.unique(stratum)]
    rng = np.random.default_rng(seed)
    picks, left = [], k
    for done, group in enumerate(sorted(groups, key=len)):
        share = min(len(group), left // (len(groups) - done))
        picks.append(rng.permutation(group)[:share])
        left -= share
    return pool[SAMPLE_ID].to_numpy()[np.concatenate(picks)]


READ_GRADIENTS = (gradient_norm, validation_alignment, strata)
"""The strategies here that cannot choose without ``gradients``."""

TIMES_DISTANCE = {
    diverse: VALUE,
    without_learnability: REPRESENTATIVENESS,
    without_representativeness: LEARNABILITY,
}
"""Which column of ``candidates`` the strategies here multiply with the distance to the
chosen: the first pick has the most of it, and each further one the largest product."""


class _Rows:
    """Rows of a matrix in an order of their own, read where they lie when used.

    A copy of the rows of a million candidates would take as much memory as all else.
    """

    def __init__(self, tables: Tables, name: str, ids: Any, what: str) -> None:
        self.matrix = tables[name]["matrix"]
        self.rows = _places(tables[name][SAMPLE_ID], ids, name, what)
        self.shape = (len(self.rows), self.matrix.shape[1])
        self.ndim, self.size = 2, len(self.rows) * self.matrix.shape[1]
        self.at_once = max(1, _BLOCK // max(1, self.matrix.shape[1]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> NDArray[np.floating]:
        return self.matrix[self.rows[which]]

    def blocks(self) -> Iterator[NDArray[np.float64]]:
        """Yield blocks of the rows, in float64."""
        for part in _parts(len(self), self.at_once):
            yield np.asarray(self[part], dtype=np.float64)


def _parts(n: int, at_once: int) -> list[slice]:
    return [slice(first, first + at_once) for first in range(0, n, at_once)]


def _pool(tables: Tables) -> pd.DataFrame:
    """Return the candidates by ascending id, so that the first of a tie is the lowest."""
    return tables["candidates"].sort_values(SAMPLE_ID)


def _candidate_rows(tables: Tables, name: str) -> _Rows:
    return _Rows(tables, name, _pool(tables)[SAMPLE_ID], "candidates")


def _of_prompts(tables: Tables, column: str) -> "pd.Series[Any]":
    prompts = tables["prompts"]
    ids = _pool(tables)[SAMPLE_ID]
    return prompts[column].iloc[
        _places(prompts[SAMPLE_ID], ids, "prompts", "candidates")
    ]


def _places(known: Any, wanted: Any, table: str, what: str) -> NDArray[np.intp]:
    """Return in which rows of a table the wanted ids lie."""
    ids = np.asarray(wanted)
    places = pd.Index(known).get_indexer(pd.Index(ids))
    if (places < 0).any():
        raise InputError(
            f"{table} lacks {(places < 0).sum()} of {len(ids)} {what}, "
            f"{ids[np.argmin(places)]} among them: run `kedro run --pipelines score` "
            "again"
        )
    return places


def _highest(tables: Tables, score: ArrayLike, k: int) -> NDArray[np.int64]:
    """Choose the k highest scores; they are in the order of `_pool`."""
    ids = _pool(tables)[SAMPLE_ID].to_numpy()
    check_k(k, len(ids))
    order = np.argsort(-finite_vector(score, "the score"), kind="stable")
    return ids[order[:k]]


def _diverse(tables: Tables, column: str, k: int) -> NDArray[np.int64]:
    pool = _pool(tables)
    rows: Any = _candidate_rows(tables, "embeddings")
    picks = select_diverse(rows, pool[column].to_numpy(), k)
    return pool[SAMPLE_ID].to_numpy()[picks]


def _gradient_norms(tables: Tables) -> NDArray[np.float64]:
    """Return the length of each candidate's gradient, in the order of `_pool`."""
    rows = _candidate_rows(tables, "gradients")
    norms = [np.linalg.norm(block, axis=1) for block in rows.blocks()]
    return finite_vector(np.concatenate(norms), "the length of gradients")


def _units(embeddings: _Rows, dtype: type[np.floating]) -> NDArray[np.floating]:
    """Return rows at length 1; rows of zeros stay."""
    units = np.empty(embeddings.shape, dtype)
    for part in _parts(len(embeddings), embeddings.at_once):
        rows = np.asarray(embeddings[part], dtype=np.float64)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        finite_vector(length[:, 0], "the length of embeddings")
        units[part] = rows / np.where(length > 0, length, 1.0)
    return units
