"""From rankings to tables of metrics: means, paired differences, groups of samples."""

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minirec.columns import (
    BY,
    ITEM_ID,
    METHOD,
    METRIC,
    OTHER,
    POPULARITY,
    RANK,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    TARGET_ITEM_ID,
    TOP_ITEM_ID,
    TRAINED,
    UNTRAINED,
    USER_ID,
)
from minirec.errors import InputError
from minirec.ranking.intervals import (
    bootstrap_means,
    holm,
    interval,
    randomisation_test,
)
from minirec.ranking.metrics import (
    HR,
    NDCG,
    NOVELTY,
    OF_RANK,
    coverage,
    hit_ratio,
    metric_named,
    ndcg,
    novelty,
    reciprocal_rank,
)

PARAMETER = "train_eval.evaluation.metrics"


class Values(NamedTuple):
    """What each method earned on each of N samples, by every metric that is a mean."""

    names: list[tuple[str, str]]
    """Method and metric of each column."""
    earned: NDArray[np.float64]
    """(N, len(names))."""
    sample_id: NDArray[np.integer]
    """(N,)."""
    user: NDArray[np.integer]
    """(N,) whose sample it is: users are numbered from 0."""
    covered: dict[tuple[str, str], float]
    """Coverage by method and metric: it is none of a single sample."""


def sample_values(
    rankings: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    metrics: Sequence[str],
) -> Values:
    """Return what each method earned on each sample, and what it covers.

    Parameters
    ----------
    rankings, prompts, items
        Tables of these names.
    metrics
        Names as of `minirec.ranking.metrics.metric_named`.

    Raises
    ------
    InputError
        If a metric is unknown, or two methods rank different samples.
    """
    names, columns, covered = [], [], {}
    named = {name: metric_named(name, PARAMETER) for name in metrics}
    of_lists = any(kind not in OF_RANK for kind, _ in named.values())
    methods = _methods(rankings)
    sample_id = np.sort(rankings.loc[rankings[METHOD] == methods[0], SAMPLE_ID])
    popularity = items[POPULARITY].to_numpy()
    for method in methods:
        own = rankings[rankings[METHOD] == method].sort_values(SAMPLE_ID)
        if not np.array_equal(own[SAMPLE_ID], sample_id):
            raise InputError(
                f"rankings: {method} and {methods[0]} rank different samples: run "
                "`kedro run --pipelines train_eval`"
            )
        rank = own[RANK].to_numpy()
        top = _top(own, items) if of_lists else []
        for name, (kind, k) in named.items():
            if k is None:
                value = reciprocal_rank(rank)
            elif kind == HR:
                value = hit_ratio(rank, k)
            elif kind == NDCG:
                value = ndcg(rank, k)
            elif kind == NOVELTY:
                value = novelty(top, popularity, k)
            else:
                covered[method, name] = coverage(top, len(items), k)
                continue
            names.append((method, name))
            columns.append(np.asarray(value))
    user, _ = pd.factorize(prompts.set_index(SAMPLE_ID)[USER_ID].loc[sample_id])
    values = np.column_stack(columns) if columns else np.empty((len(sample_id), 0))
    return Values(names, values, sample_id, user, covered)


def mean_table(found: Values, draws: int, confidence: float, seed: int) -> pd.DataFrame:
    """Return the mean of each column of values with its bootstrap interval.

    Parameters
    ----------
    found
        Of `sample_values`.
    draws, confidence, seed
        As of `minirec.ranking.intervals.bootstrap_mean`; users are drawn.

    Returns
    -------
    DataFrame
        ``method``, ``metric``, ``mean``, ``low``, ``high``, ``users``, ``samples``.
        Coverage has no interval: a draw of users holds fewer different ones, which
        cover less.
    """
    means = bootstrap_means(found.earned, draws, seed, found.user)
    rows = [
        (*name, mean, *interval(drawn, confidence))
        for name, mean, drawn in zip(
            found.names, found.earned.mean(axis=0), means.T, strict=True
        )
    ]
    rows += [(*name, share, np.nan, np.nan) for name, share in found.covered.items()]
    table = pd.DataFrame(rows, columns=[METHOD, METRIC, "mean", "low", "high"])
    return table.assign(users=len(np.unique(found.user)), samples=len(found.user))


def comparison_table(
    found: Values, draws: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Compare each method with each other one on the same samples, by every metric.

    Parameters
    ----------
    found, draws, confidence, seed
        As of `mean_table`; there are as many random signs of users as draws of them.

    Returns
    -------
    DataFrame
        ``metric``, ``method``, ``other``, ``difference`` (of their means, method less
        other) with its paired bootstrap interval (``low``, ``high``), ``p_value`` of
        `minirec.ranking.intervals.randomisation_test`, and ``p_holm``, which allows
        for all others that the method is compared with; ``users``, ``samples``. Each
        pair is there in both directions.
    """
    place = {name: column for column, name in enumerate(found.names)}
    methods = list(dict.fromkeys(method for method, _ in found.names))
    metrics = list(dict.fromkeys(metric for _, metric in found.names))
    parts = []
    for metric in metrics:  # one at a time: all of them may be large
        pairs = list(permutations(methods, 2))
        first = [place[method, metric] for method, _ in pairs]
        second = [place[other, metric] for _, other in pairs]
        differences = found.earned[:, first] - found.earned[:, second]
        means = bootstrap_means(differences, draws, seed, found.user)
        ends = [interval(drawn, confidence) for drawn in means.T]
        part = pd.DataFrame(pairs, columns=[METHOD, OTHER])
        part.insert(0, METRIC, metric)
        part["difference"] = differences.mean(axis=0)
        part["low"], part["high"] = zip(*ends, strict=True)
        part["p_value"] = randomisation_test(differences, draws, seed, found.user)
        part["p_holm"] = part.groupby(METHOD)["p_value"].transform(holm)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    return table.assign(users=len(np.unique(found.user)), samples=len(found.user))


def group_table(
    found: Values,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    n_groups: int,
    draws: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Return the means by length of the history and by popularity of the target.

    Parameters
    ----------
    found, draws, confidence, seed
        As of `mean_table`.
    prompts, items
        Tables of these names.
    n_groups
        Groups of about as many samples; fewer where many samples are alike.

    Returns
    -------
    DataFrame
        ``by`` (``history_length``: items that the user had before;
        ``target_popularity``: train interactions of the target), ``least`` and
        ``most`` of the group, and the columns of `mean_table`.
    """
    rows = prompts.set_index(SAMPLE_ID).loc[found.sample_id]
    popularity = items.set_index(ITEM_ID)[POPULARITY]
    parts = []
    for by, values in (
        ("history_length", rows[SEEN_ITEM_ID].map(len)),
        ("target_popularity", rows[TARGET_ITEM_ID].map(popularity)),
    ):
        number = values.to_numpy()
        for least, most in _ranges(number, n_groups):
            own = (number >= least) & (number <= most)
            part = Values(
                found.names,
                found.earned[own],
                found.sample_id[own],
                found.user[own],
                covered={},
            )
            table = mean_table(part, draws, confidence, seed)
            table.insert(0, BY, by)
            table.insert(1, "least", least)
            table.insert(2, "most", most)
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _ranges(values: NDArray[np.integer], n: int) -> list[tuple[int, int]]:
    """Return the lowest and highest value of each of at most n groups.

    Equal values stay together, in the group that the middle one of them falls into when
    all are shared out evenly.
    """
    distinct, counts = np.unique(values, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    group = (n * middle / len(values)).astype(int)
    own = [distinct[group == each] for each in np.unique(group)]
    return [(int(each[0]), int(each[-1])) for each in own]


def _methods(rankings: pd.DataFrame) -> list[str]:
    """Return the methods in their order: the policies first, each alphabetically."""
    return sorted(
        rankings[METHOD].unique(), key=lambda m: (m not in (TRAINED, UNTRAINED), m)
    )


def _top(own: pd.DataFrame, items: pd.DataFrame) -> list[NDArray[np.integer]]:
    """Return the columns of each sample's first items, best first."""
    lists = own[TOP_ITEM_ID].to_list()
    flat = pd.Index(items[ITEM_ID]).get_indexer(pd.Index(np.concatenate(lists)))
    return np.split(flat, np.cumsum([len(ids) for ids in lists])[:-1])
