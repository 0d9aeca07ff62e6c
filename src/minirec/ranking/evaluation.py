"""From rankings to tables of metrics: means, paired differences, groups of samples."""

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minirec.columns import (
    ARM,
    BY,
    ITEM_ID,
    METHOD,
    METRIC,
    OTHER,
    POPULARITY,
    RANK,
    SAMPLE_ID,
    SEED,
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
    bootstrap_means_over_seeds,
    holm,
    interval,
    randomisation_test,
)
from minirec.ranking.metrics import (
    HR,
    MRR,
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
        As of `minirec.ranking.intervals.bootstrap_means`; users are drawn.

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
        ``metric``, ``method``, ``other``, ``difference`` (of their means, method minus
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


class SeedValues(NamedTuple):
    """What each arm of an experiment earned on each of N samples under each seed."""

    names: list[tuple[str, str]]
    """Arm and metric of each column."""
    earned: NDArray[np.float64]
    """(S, N, len(names))."""
    user: NDArray[np.integer]
    """(N,) whose sample it is: users are numbered from 0."""


def seed_values(
    rankings: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    metrics: Sequence[str],
) -> SeedValues:
    """Return what each arm earned on each sample under each seed.

    Parameters
    ----------
    rankings
        A table of `minirec.schemas.ExperimentRankings`.
    prompts, items
        Tables of these names.
    metrics
        Names as of `minirec.ranking.metrics.metric_named`; those that need more than
        a target's rank, novelty and coverage, are left out.

    Raises
    ------
    InputError
        If a metric is unknown, or arms or seeds rank different samples.
    """
    kinds = {name: metric_named(name, PARAMETER).kind for name in metrics}
    of_rank = [name for name, kind in kinds.items() if kind in (HR, NDCG, MRR)]
    of_seeds = [
        sample_values(own.rename(columns={ARM: METHOD}), prompts, items, of_rank)
        for _, own in rankings.groupby(SEED)
    ]
    first = of_seeds[0]
    for other in of_seeds[1:]:
        if other.names != first.names or not np.array_equal(
            other.sample_id, first.sample_id
        ):
            raise InputError(
                "experiment_rankings: seeds have different arms or samples: run "
                "`kedro run --pipelines experiment`"
            )
    earned = np.stack([found.earned for found in of_seeds])
    return SeedValues(first.names, earned, first.user)


def arm_table(
    found: SeedValues, draws: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Return the mean of each column over seeds and samples, with its interval.

    Parameters
    ----------
    found
        Of `seed_values`.
    draws, confidence, seed
        Of `minirec.ranking.intervals.bootstrap_means_over_seeds`.

    Returns
    -------
    DataFrame
        ``arm``, ``metric``, ``mean``, ``low``, ``high``, ``seeds``, ``users``,
        ``samples``.
    """
    means = bootstrap_means_over_seeds(found.earned, draws, seed, found.user)
    rows = [
        (*name, mean, *interval(drawn, confidence))
        for name, mean, drawn in zip(
            found.names, found.earned.mean(axis=(0, 1)), means.T, strict=True
        )
    ]
    table = pd.DataFrame(rows, columns=[ARM, METRIC, "mean", "low", "high"])
    return table.assign(**_sizes(found))


def arm_comparisons(
    found: SeedValues, draws: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Compare each arm with each other one on the same samples, by every metric.

    Two questions are asked of a difference. Would other users and other seeds show it,
    too? Its interval says so (`bootstrap_means_over_seeds`). Could it come by chance
    if both arms, as they were trained, served every user alike? The randomisation test
    says so, over users, of the mean over seeds. An arm is called better only if the
    interval lies above 0 and the p-value, allowing for all others that the arm is
    compared with (Holm), below 1 - ``confidence``.

    Parameters
    ----------
    found, draws, confidence, seed
        As of `arm_table`; there are as many random signs of users as draws.

    Returns
    -------
    DataFrame
        ``metric``, ``arm``, ``other``, ``difference`` (of their means, arm minus
        other), ``low``, ``high``, ``p_value``, ``p_holm``, ``verdict`` (``better``,
        ``worse`` or ``open``), ``seeds``, ``users``, ``samples``; each pair in both
        directions.
    """
    place = {name: column for column, name in enumerate(found.names)}
    arms = list(dict.fromkeys(arm for arm, _ in found.names))
    metrics = list(dict.fromkeys(metric for _, metric in found.names))
    rows = [(metric, *pair) for metric in metrics for pair in permutations(arms, 2)]
    first = [place[arm, metric] for metric, arm, _ in rows]
    second = [place[other, metric] for metric, _, other in rows]
    drawn = bootstrap_means_over_seeds(found.earned, draws, seed, found.user)
    drawn = drawn[:, first] - drawn[:, second]
    of_users = found.earned.mean(axis=0)
    differences = of_users[:, first] - of_users[:, second]
    ends = np.array([interval(each, confidence) for each in drawn.T]).reshape(-1, 2)
    table = pd.DataFrame(rows, columns=[METRIC, ARM, OTHER]).assign(
        difference=differences.mean(axis=0),
        low=ends[:, 0],
        high=ends[:, 1],
        p_value=randomisation_test(differences, draws, seed, found.user),
    )
    table["p_holm"] = table.groupby([METRIC, ARM])["p_value"].transform(holm)
    table["verdict"] = verdicts(table, confidence)
    return table.assign(**_sizes(found))


def verdicts(compared: pd.DataFrame, confidence: float) -> NDArray[np.str_]:
    """Say of each difference whether interval and test agree that there is one.

    Parameters
    ----------
    compared
        ``low``, ``high`` and ``p_holm`` of `comparison_table` or `arm_comparisons`.
    confidence
        That their intervals have.

    Returns
    -------
    ndarray
        Of ``better`` (the interval lies above 0), ``worse`` (below) and ``open``.
    """
    sure = compared["p_holm"] < 1 - confidence
    return np.select(
        [sure & (compared["low"] > 0), sure & (compared["high"] < 0)],
        ["better", "worse"],
        "open",
    )


def _sizes(found: SeedValues) -> dict[str, int]:
    return {
        "seeds": len(found.earned),
        "users": len(np.unique(found.user)),
        "samples": len(found.user),
    }


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
