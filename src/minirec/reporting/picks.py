"""Why each chosen sample was chosen, in numbers and in words."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minirec.columns import (
    DISTANCE,
    HISTORY_ITEM_ID,
    ITEM_ID,
    KEPT,
    LAST_TITLES,
    LEARNABILITY,
    MEAN_REWARD,
    PICK,
    POSITION,
    REASON,
    REPRESENTATIVENESS,
    SAMPLE_ID,
    STAGE,
    TARGET,
    TARGET_ITEM_ID,
    TITLE,
    USER_ID,
    VALUE,
    WHY,
)
from minirec.errors import InputError
from minirec.reporting.figures import unit_rows
from minirec.selection.diversity import distance_to_earlier
from minirec.selection.strategies import TIMES_DISTANCE

# titles of a history that stand beside a sample, its last ones
TITLES = 3
# Picks whose distances are worked out: each is compared with all before it, which for
# hundreds of thousands would take longer than choosing them did.
MEASURED = 4_096
# with what a gradient agrees, by `score.representativeness.direction`
DIRECTIONS = {
    "mean": "the pool's mean",
    "proxy": "the way that the proxy moved",
    "validation": "the mean of validation prompts",
}


def explain_picks(
    candidates: pd.DataFrame,
    selection: pd.DataFrame,
    curriculum: pd.DataFrame,
    prompts: pd.DataFrame,
    items: pd.DataFrame,
    embeddings: Mapping[str, NDArray[Any]],
    mu: float,
    sigma: float,
    direction: str | None,
) -> pd.DataFrame:
    """Say of each chosen sample what it was chosen for.

    Parameters
    ----------
    candidates, selection, curriculum, prompts, items
        The tables of `minirec.schemas` with these names.
    embeddings
        ``sample_id`` (M,) and ``matrix`` (M, d), which hold the picks among others.
    mu, sigma
        Mean reward at which samples teach most, and within half of what of it a mean
        reward is called near.
    direction
        One of `DIRECTIONS`; None: representativeness does not count.

    Returns
    -------
    DataFrame
        A table of `minirec.schemas.Explanations`.

    Raises
    ------
    InputError
        If a table lacks one of the samples.
    """
    rows = curriculum[[POSITION, STAGE, SAMPLE_ID]].sort_values(POSITION)
    chosen = selection[[SAMPLE_ID, POSITION]].rename(columns={POSITION: PICK})
    of_prompt = prompts[[SAMPLE_ID, USER_ID, TARGET_ITEM_ID, HISTORY_ITEM_ID]]
    for name, table in (
        ("selection", chosen),
        ("candidates", candidates),
        ("prompts", of_prompt),
    ):
        rows = rows.merge(table, on=SAMPLE_ID)
        if len(rows) < len(curriculum):
            raise InputError(
                f"curriculum holds samples that {name} does not: they were made from "
                "different pools; run `kedro run --pipelines select`"
            )
    title = items.set_index(ITEM_ID)[TITLE]
    picked = chosen.sort_values(PICK)[SAMPLE_ID].iloc[:MEASURED]
    distance = distance_to_earlier(unit_rows(embeddings, picked))
    rows[TARGET] = title.reindex(rows[TARGET_ITEM_ID]).to_numpy()
    rows[LAST_TITLES] = [
        title.reindex(ids[-TITLES:]).tolist() for ids in rows[HISTORY_ITEM_ID]
    ]
    rows[DISTANCE] = rows[PICK].map(pd.Series(distance))
    rows[WHY] = list(_reasons(rows, candidates, mu, sigma, direction))
    return rows[
        [
            *(POSITION, STAGE, PICK, SAMPLE_ID, USER_ID, TARGET, LAST_TITLES),
            *(MEAN_REWARD, LEARNABILITY, REPRESENTATIVENESS, VALUE, DISTANCE, WHY),
        ]
    ]


def say_what_decided(
    explanations: pd.DataFrame, strategy: Callable[..., Any]
) -> pd.DataFrame:
    """Add to each reason by which number the sample was the next to be chosen.

    Parameters
    ----------
    explanations
        A table of `minirec.schemas.Explanations`.
    strategy
        The function that chose these samples.

    Returns
    -------
    DataFrame
        The table with more in ``why``; as it was if the strategy is none of
        `minirec.selection.strategies.TIMES_DISTANCE`.
    """
    columns = [name for each, name in TIMES_DISTANCE.items() if each is strategy]
    if not columns:
        return explanations
    (column,) = columns
    product = explanations[column] * explanations[DISTANCE]
    decided = (
        f"; {column} x distance is "
        + product.map("{:.2f}".format)
        + ", the largest of those left"
    )
    decided[product.isna()] = ""  # beyond those measured
    decided[explanations[PICK] == 0] = f"; it has the highest {column} of all kept"
    return explanations.assign(**{WHY: explanations[WHY] + decided})


def why_not_chosen(
    sample_id: int,
    candidates: pd.DataFrame,
    selection: pd.DataFrame,
    embeddings: Mapping[str, NDArray[Any]],
    strategy: Callable[..., Any],
) -> str:
    """Say by which number a kept sample was not chosen.

    Parameters
    ----------
    sample_id
        One of ``candidates``.
    candidates, selection
        The tables of `minirec.schemas` with these names.
    embeddings
        ``sample_id`` (M,) and ``matrix`` (M, d), which hold it and the picks.
    strategy
        The function that chose.

    Returns
    -------
    str
        A sentence without its full stop; empty if the sample is pruned or chosen, or
        if the strategy is none of `minirec.selection.strategies.TIMES_DISTANCE`.

    Raises
    ------
    InputError
        If one of them has no embedding.
    """
    columns = [name for each, name in TIMES_DISTANCE.items() if each is strategy]
    rows = candidates.set_index(SAMPLE_ID)
    picked = selection.sort_values(POSITION)[SAMPLE_ID]
    if (
        not columns
        or rows[REASON].get(sample_id) != KEPT
        or sample_id in set(picked)
        or len(picked) < 2
    ):
        return ""
    (column,) = columns
    # what both competed with for the last place
    before, last = unit_rows(embeddings, picked.iloc[:-1]), picked.iloc[-1]
    both = unit_rows(embeddings, pd.Series([sample_id, last]))
    distances = 1 - both @ before.T
    own, of_last = distances.min(axis=1) * rows.loc[[sample_id, last], column]
    nearest = int(distances[0].argmin())
    return (
        f"its history lies {distances[0, nearest]:.2f} from that of pick {nearest + 1} "
        f"(sample {picked.iloc[nearest]}), so that {column} x distance is {own:.3g}; "
        f"the last pick had {of_last:.3g}"
    )


def chosen_as(pick: int, size: int) -> str:
    """Say as which of all picks, counted from 0, a sample was chosen."""
    return f"chosen as pick {pick + 1} of {size}"


def _reasons(
    rows: pd.DataFrame,
    candidates: pd.DataFrame,
    mu: float,
    sigma: float,
    direction: str | None,
) -> Iterator[str]:
    kept = np.sort(candidates.loc[candidates[REASON] == KEPT, VALUE])
    agreement = np.sort(candidates[REPRESENTATIVENESS])
    alike = agreement[0] == agreement[-1]
    for row in rows.to_dict("records"):
        rank = len(kept) - np.searchsorted(kept, row[VALUE], "right") + 1
        said = [
            f"mean reward {row[MEAN_REWARD]:.3g}, "
            f"{_beside(row[MEAN_REWARD], mu, sigma)} the mu of {mu:.3g} at which "
            "samples teach most"
        ]
        if direction is not None and not alike:
            said.append(
                f"its gradient agrees with {DIRECTIONS[direction]} "
                + _among(row[REPRESENTATIVENESS], agreement)
            )
        if row[PICK] == 0:
            said.append("nothing was chosen before it")
        elif not np.isnan(row[DISTANCE]):
            said.append(
                f"its history is {row[DISTANCE]:.2f} from the nearest chosen before"
            )
        yield (
            f"{chosen_as(row[PICK], len(rows))}, with a value of {row[VALUE]:.2f} "
            f"(rank {rank:,} of {len(kept):,} kept): {'; '.join(said)}"
        )


def _beside(mean_reward: float, mu: float, sigma: float) -> str:
    if abs(mean_reward - mu) <= sigma / 2:
        return "near"
    return "above" if mean_reward > mu else "below"


def _among(value: float, ordered: NDArray[np.float64]) -> str:
    """Say of how many others of the pool a value lies on the far side."""
    fewer = int(np.searchsorted(ordered, value, "left"))
    more = len(ordered) - int(np.searchsorted(ordered, value, "right"))
    word, n = ("more", fewer) if fewer >= more else ("less", more)
    others = len(ordered) - 1
    # rounded down: what is less than all is never written as 100%
    share = "all" if n == others else f"{100 * n // others}% of the"
    return f"{word} than {share} others"
