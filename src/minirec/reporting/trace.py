"""One sample's whole way, as text and as a page; a user's samples, as a list.

Positions count from 1 here, for people; the tables count from 0.
"""

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from html import escape
from io import StringIO
from typing import Any

import pandas as pd
from kedro.io import CatalogProtocol, DatasetError
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from minirec.columns import (
    COMPLETION,
    HISTORY_ITEM_ID,
    ITEM_ID,
    KEPT,
    LEARNABILITY,
    MEAN_REWARD,
    METHOD,
    N_TOKENS,
    NO_SPREAD,
    POSITION,
    PROMPT,
    RANK,
    REASON,
    REPRESENTATIVENESS,
    REWARD,
    ROLLOUT,
    SAMPLE_ID,
    SEEN_ITEM_ID,
    SPLIT,
    STAGE,
    STD_REWARD,
    TARGET_ITEM_ID,
    TITLE,
    TOO_EASY,
    TOO_HARD,
    TOP_ITEM_ID,
    TRAIN,
    USER_ID,
    VALUE,
    WHY,
)
from minirec.commands import kedro_run
from minirec.errors import InputError
from minirec.reporting.page import html_table, page
from minirec.reporting.picks import chosen_as
from minirec.reporting.summary import METHODS

# the tables that a trace reads, and the pipeline that makes each
MADE_BY = {
    "items": "preprocess",
    "prompts": "preprocess",
    "rollouts": "score",
    "rewards": "score",
    "scores": "score",
    "candidates": "select",
    "selection": "select",
    "curriculum": "select",
    "explanations": "select",
    "consumed": "train_eval",
    "rankings": "train_eval",
}

# those that the list of a user's samples reads
OF_USER = ("items", "prompts", "candidates", "selection")

WIDTH = 80
# Samples on a page: at 2 KB each, and more where answers are long, a browser still
# opens it at once.
MOST = 256
# first choices shown of each ranking
CHOICES = 3
NOTHING = "(nothing)"

# Unicode's categories of characters that a terminal acts on instead of showing them:
# control, format (which turns the direction of text), separators of lines.
ACTING = {"Cc", "Cf", "Zl", "Zp"}
# Writing needs these two of them: Persian, Hindi, emoji.
JOINERS = "\u200c\u200d"

# beside that of every page
STYLE = """
body { max-width: 50rem; }
section { border-top: 1px solid; margin-top: 2rem; }
section:target h2 { text-decoration: underline; }
pre { font: 0.85rem/1.4 ui-monospace, monospace; overflow-x: auto; }
"""


def load_tables(
    catalog: CatalogProtocol,
    env: str | None = None,
    names: Iterable[str] = tuple(MADE_BY),
) -> dict[str, pd.DataFrame]:
    """Load those tables of a trace that exist.

    Parameters
    ----------
    catalog
        A catalog of the project.
    env
        The configuration environment that commands in messages are to name.
    names
        Of `MADE_BY`, which of them are wanted.

    Returns
    -------
    dict
        The tables by their names in the catalog.

    Raises
    ------
    InputError
        If a table is there and cannot be read.
    """
    tables = {}
    for name in names:
        if name in catalog and catalog.exists(name):
            try:
                tables[name] = catalog.load(name)
            except DatasetError as error:
                *_, reason = str(error).splitlines()
                raise InputError(
                    f"{name} cannot be read ({reason}): make it again, by "
                    f"`{_command(MADE_BY[name], env)}`"
                ) from error
    return tables


def trace_sample(
    tables: Mapping[str, pd.DataFrame], sample_id: int, env: str | None = None
) -> str:
    r"""Tell one sample's whole way, from its user's history to training or ranking.

    Parameters
    ----------
    tables
        By its name in the catalog, each table of `MADE_BY` that exists; ``prompts`` at
        least. The trace names those that do not, and the command that makes them.
    sample_id
        A sample that ``prompts`` holds.
    env
        The configuration environment that these commands are to name.

    Returns
    -------
    str
        Plain text, at most 80 columns wide. Characters of the data that a terminal
        would act on are spelt out, such as ``\x1b``.

    Raises
    ------
    InputError
        If ``prompts`` is missing or does not hold the sample.
    """
    if "prompts" not in tables:
        raise InputError(f"prompts is {_not_yet('prompts', env)}")
    prompt = _prompt(tables["prompts"], sample_id)
    own = {
        name: tables[name][tables[name][SAMPLE_ID] == sample_id]
        for name in MADE_BY.keys() - {"items"}
        if name in tables
    }
    title = _titles(tables, _named(prompt, own))
    history, seen = prompt[HISTORY_ITEM_ID], prompt[SEEN_ITEM_ID]
    sections: dict[str, RenderableType] = {
        f"History: the last {len(history)} of {len(seen)} items, oldest first": _grid(
            [(f"{place}", title[item]) for place, item in enumerate(history, start=1)],
            right=1,
        ),
        "Target: what the user chose next": title[prompt[TARGET_ITEM_ID]],
        f"Prompt as the model read it, {prompt[N_TOKENS]} tokens": _grid(
            ("|", _shown(line)) for line in prompt[PROMPT].split("\n")
        ),
    }
    if prompt[SPLIT] == TRAIN:
        sections["Rollouts of the proxy"] = _rollouts(tables, own, env)
        sections["Scores"] = _scores(tables, own, env)
        sections["From score to training"] = _way(tables, own, env)
    else:
        sections["Scores and training"] = "held out from both, for evaluation"
        sections[f"Where each method ranks the target{_among(tables)}"] = _rankings(
            own, title, env
        )

    whose = f"of the {prompt[SPLIT]} split, user {_shown(prompt[USER_ID])}"
    console = _console()
    console.print(f"Sample {sample_id} {whose}\n", overflow="fold")
    if "items" not in tables:
        console.print(f"Titles: items is {_not_yet('items', env)}\n")
    for heading, body in sections.items():
        console.print(heading)
        console.print(Padding(body, (0, 0, 1, 2)), overflow="fold")
    console.print(
        "Ranks, picks, places, stages and steps count from 1 here, in the tables "
        "from 0."
    )
    return _printed(console)


def trace_user(
    tables: Mapping[str, pd.DataFrame], user_id: str, env: str | None = None
) -> str:
    r"""List one user's samples, and which of them were chosen.

    Parameters
    ----------
    tables, env
        As of `trace_sample`; of the tables those of `OF_USER` count.
    user_id
        A user of ``prompts``.

    Returns
    -------
    str
        As of `trace_sample`.

    Raises
    ------
    InputError
        If ``prompts`` is missing or does not hold the user.
    """
    if "prompts" not in tables:
        raise InputError(f"prompts is {_not_yet('prompts', env)}")
    users = tables["prompts"][USER_ID]
    own = tables["prompts"][users == user_id].sort_values(SAMPLE_ID)
    if own.empty:
        raise InputError(
            f"prompts holds no sample of a user {user_id!r}: only those drawn by "
            f"preprocess.pool have prompts, of {users.nunique():,} users, such as "
            f"{users.iloc[0]}"
        )
    title = _titles(tables, own[TARGET_ITEM_ID])
    fates = _fates(tables, own, env)
    console = _console()
    many = "s" if len(own) > 1 else ""
    console.print(f"User {_shown(user_id)}, {len(own)} sample{many}\n", overflow="fold")
    rows = own[[SAMPLE_ID, SPLIT, TARGET_ITEM_ID]].itertuples(index=False)
    listed = _grid(
        ((f"{i}", split, fates[i], title[item]) for i, split, item in rows), right=1
    )
    console.print(Padding(listed, (0, 0, 1, 2)))
    first = f"minirec trace sample {own[SAMPLE_ID].iloc[0]}"
    console.print(f"`{first}{f' --env {env}' if env else ''}` tells the way of one.")
    return _printed(console)


def render_traces(
    items: pd.DataFrame,
    prompts: pd.DataFrame,
    rollouts: pd.DataFrame,
    rewards: pd.DataFrame,
    candidates: pd.DataFrame,
    selection: pd.DataFrame,
    curriculum: pd.DataFrame,
    explanations: pd.DataFrame,
    consumed: pd.DataFrame,
) -> str:
    """Lay out the traces of the chosen samples on one page, in curriculum order.

    Parameters
    ----------
    items, prompts, rollouts, rewards, candidates, selection
    curriculum, explanations, consumed
        The tables of `minirec.schemas` with these names.

    Returns
    -------
    str
        HTML that loads nothing and runs no script: an overview, then a ``<section>``
        a sample with the id ``sample-<sample_id>``, for the first 256 at most.

    Raises
    ------
    InputError
        If ``prompts`` does not hold a sample of ``curriculum``.
    """
    tables = {
        "items": items,
        "prompts": prompts,
        "rollouts": rollouts,
        "rewards": rewards,
        "candidates": candidates,
        "selection": selection,
        "curriculum": curriculum,
        "explanations": explanations,
        "consumed": consumed,
    }
    ordered = curriculum.sort_values(POSITION).head(MOST)
    rows, sections = [], []
    known = zip(ordered[SAMPLE_ID], ordered[STAGE], ordered[MEAN_REWARD], strict=True)
    for place, (sample_id, stage, mean_reward) in enumerate(known, start=1):
        prompt = _prompt(prompts, sample_id)
        target = _titles(tables, [prompt[TARGET_ITEM_ID]])[prompt[TARGET_ITEM_ID]]
        link = f'<a href="#sample-{sample_id}">sample {sample_id}</a>'
        rows.append([f"{place}", link, f"{stage + 1}", _number(mean_reward), target])
        sections.append(
            f'<section id="sample-{sample_id}">'
            f"<h2>{place} of {len(curriculum)}: {escape(target)}</h2>"
            f"<pre>{escape(trace_sample(tables, sample_id))}</pre></section>"
        )
    which = f"All {len(ordered)} of them"
    if len(ordered) < len(curriculum):
        which = f"The first {len(ordered)} of {len(curriculum):,}, to open at once"
    return page(
        "The chosen samples",
        [
            "<h1>The chosen samples, in the order of training</h1>",
            f"<p>{which}. <code>minirec trace sample</code> with the id of any sample "
            "prints the same.</p>",
            html_table(
                ["place", "sample", "stage", "mean reward", "target"],
                rows,
                raw=["sample"],
                texts=["sample", "target"],
            ),
            *sections,
        ],
        STYLE,
    )


def _console() -> Console:
    return Console(
        file=StringIO(),
        width=WIDTH,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _fates(
    tables: Mapping[str, pd.DataFrame], own: pd.DataFrame, env: str | None
) -> dict[int, str]:
    """Say in a few words of each of some rows of ``prompts`` whether it was chosen."""
    unknown = "not pruned yet"
    if "candidates" in tables:
        unknown = f"unknown: candidates {_of_another('pool', 'select', env)}"
    left = "kept, not chosen" if "selection" in tables else "kept"
    reasons = _column(tables, "candidates", REASON, own)
    picks = _column(tables, "selection", POSITION, own)
    fates = {}
    for sample_id, split in zip(own[SAMPLE_ID], own[SPLIT], strict=True):
        reason = reasons.get(sample_id)
        if split != TRAIN:
            fates[sample_id] = "held out"
        elif sample_id in picks:
            fates[sample_id] = chosen_as(picks[sample_id], len(tables["selection"]))
        elif reason is None:
            fates[sample_id] = unknown
        elif reason == KEPT:
            fates[sample_id] = left
        else:
            fates[sample_id] = f"pruned: {reason.replace('_', ' ')}"
    return fates


def _column(
    tables: Mapping[str, pd.DataFrame], name: str, column: str, own: pd.DataFrame
) -> dict[int, Any]:
    """Return a table's column by sample id, of own samples; none without the table."""
    if name not in tables:
        return {}
    rows = tables[name][tables[name][SAMPLE_ID].isin(own[SAMPLE_ID])]
    return dict(zip(rows[SAMPLE_ID], rows[column], strict=True))


def _prompt(prompts: pd.DataFrame, sample_id: int) -> "pd.Series[Any]":
    own = prompts[prompts[SAMPLE_ID] == sample_id]
    if len(own):
        return own.iloc[0]
    ids, splits = prompts[SAMPLE_ID], prompts[SPLIT].value_counts(sort=False)
    counts = " and ".join(f"{n:,} of {split}" for split, n in splits.items())
    if ids.empty:
        raise InputError("prompts holds no sample: raise preprocess.pool.train")
    nearest = ids.iloc[(ids - sample_id).abs().argmin()]
    raise InputError(
        f"prompts holds no sample {sample_id}: sample_id counts the rows of samples "
        f"from 0, and only those drawn by preprocess.pool have prompts, {counts}, with "
        f"ids from {ids.min()} to {ids.max()}; the nearest is {nearest}"
    )


def _named(prompt: "pd.Series[Any]", own: Mapping[str, pd.DataFrame]) -> set[str]:
    """Return every item that the trace of a sample names."""
    ids = {*prompt[HISTORY_ITEM_ID], prompt[TARGET_ITEM_ID]}
    if "rankings" in own:
        ids.update(*(top[:CHOICES] for top in own["rankings"][TOP_ITEM_ID]))
    return ids


def _titles(tables: Mapping[str, pd.DataFrame], ids: Collection[str]) -> dict[str, str]:
    """Return the title, or at least the id, of each of some items."""
    title = {item: f"item {_shown(item)}" for item in ids}
    if "items" in tables:
        named = tables["items"][tables["items"][ITEM_ID].isin(ids)]
        title |= zip(named[ITEM_ID], named[TITLE].map(_shown), strict=True)
    return title


def _rollouts(
    tables: Mapping[str, pd.DataFrame],
    own: Mapping[str, pd.DataFrame],
    env: str | None,
) -> RenderableType:
    names = ("rollouts", "rewards")
    there = [own[name].set_index(ROLLOUT) for name in names if name in own]
    notes = [f"{name} is {_not_yet(name, env)}" for name in names if name not in own]
    if not there:
        return "\n".join(notes)
    both = pd.concat(there, axis=1, join="inner").sort_index()
    if both.empty:
        return f"none: rollouts or rewards {_of_another('pool', 'score', env)}"
    cells: dict[str, list[str]] = {}
    if "rewards" in own:
        rewards = both[REWARD]
        cells["rank"] = [f"{rank + 1:,}" for rank in both[RANK]]
        cells["reward"] = [_number(reward) for reward in rewards]
        notes += [
            f"mean reward {_number(rewards.mean())}, spread "
            f"{_number(rewards.std(ddof=0))} (standard deviation)",
            f"rank: where it puts the target{_among(tables)}",
        ]
    if "rollouts" in own:
        cells["what it wrote"] = [_shown(text) or NOTHING for text in both[COMPLETION]]
    rows = [tuple(cells), *zip(*cells.values(), strict=True)]
    return Group(_grid(rows, right=2 if "rewards" in own else 0), *notes)


def _scores(
    tables: Mapping[str, pd.DataFrame],
    own: Mapping[str, pd.DataFrame],
    env: str | None,
) -> RenderableType:
    # candidates are the scores with reasons, so that either will do
    name = "candidates" if "candidates" in own else "scores"
    if name not in own:
        return _not_yet("scores", env)
    if own[name].empty:
        return f"none: {name} {_of_another('pool', MADE_BY[name], env)}"
    row = own[name].iloc[0]
    rank, size = _rank(row[VALUE], tables[name][VALUE])
    return _grid(
        [
            (
                "learnability",
                f"{row[LEARNABILITY]:.3f}",
                "0 to 1: how near the mean reward lies to what teaches most",
            ),
            (
                "gradient alignment",
                f"{row[REPRESENTATIVENESS]:.3f}",
                "0 to 1: how far its gradient points where the pool's does "
                "(representativeness)",
            ),
            ("value", f"{row[VALUE]:.3f}", f"rank {rank} of {size} in the pool"),
        ]
    )


def _way(
    tables: Mapping[str, pd.DataFrame],
    own: Mapping[str, pd.DataFrame],
    env: str | None,
) -> RenderableType:
    steps = (
        ("pruning", "candidates", _pruning),
        ("selection", "selection", _selection),
        ("curriculum", "curriculum", _curriculum),
        ("training", "consumed", _training),
    )
    return _grid(
        (label, tell(tables, own, env) if name in own else _not_yet(name, env))
        for label, name, tell in steps
    )


def _pruning(
    tables: Mapping[str, pd.DataFrame],
    own: Mapping[str, pd.DataFrame],
    env: str | None,
) -> str:
    if own["candidates"].empty:
        return f"unknown: candidates {_of_another('pool', 'select', env)}"
    row = own["candidates"].iloc[0]
    kept = tables["candidates"][tables["candidates"][REASON] == KEPT]
    mean, spread = _number(row[MEAN_REWARD]), _number(row[STD_REWARD])
    lowest, highest = kept[MEAN_REWARD].min(), kept[MEAN_REWARD].max()
    means = f"{_number(lowest)} to {_number(highest)}"
    least = _number(kept[STD_REWARD].min())
    return {
        KEPT: f"kept: its mean reward {mean} and spread {spread} lie within the "
        f"limits (the kept have means of {means} and spreads from {least})",
        TOO_EASY: f"pruned as too easy: its mean reward {mean} lies above "
        f"select.prune.too_easy (the kept have {means})",
        TOO_HARD: f"pruned as too hard: its mean reward {mean} lies below "
        f"select.prune.too_hard (the kept have {means})",
        NO_SPREAD: f"pruned for want of spread: its rewards differ by {spread}, too "
        f"little for select.prune.min_spread (the kept from {least}), and rollouts of "
        "equal reward give no gradient",
    }[row[REASON]]


def _selection(
    tables: Mapping[str, pd.DataFrame],
    own: Mapping[str, pd.DataFrame],
    env: str | None,
) -> str:
    size = len(tables["selection"])
    if len(own["selection"]):
        chosen = chosen_as(own["selection"][POSITION].iloc[0], size)
        if "explanations" not in own:
            return f"{chosen}; why is {_not_yet('explanations', env)}"
        if own["explanations"].empty:
            another = _of_another("selection", "select", env)
            return f"{chosen}; why is unknown: explanations {another}"
        return own["explanations"][WHY].iloc[0]
    if "candidates" not in own or own["candidates"].empty:
        return f"not among the {size} picks"
    row = own["candidates"].iloc[0]
    if row[REASON] != KEPT:
        return "not chosen: what is pruned cannot be"
    candidates = tables["candidates"]
    values = candidates.loc[candidates[REASON] == KEPT, VALUE]
    rank, kept = _rank(row[VALUE], values)
    return (
        f"not chosen: the {size} picks went to others of the {kept} kept, among which "
        f"its value has rank {rank}"
    )


def _curriculum(
    tables: Mapping[str, pd.DataFrame],
    own: Mapping[str, pd.DataFrame],
    env: str | None,
) -> str:
    whole = tables["curriculum"]
    if own["curriculum"].empty:
        if "selection" in own and len(own["selection"]):
            return f"without it: curriculum {_of_another('selection', 'select', env)}"
        return "not in it"
    place = own["curriculum"][POSITION].iloc[0] + 1
    stage = own["curriculum"][STAGE].iloc[0] + 1
    return (
        f"place {place} of {len(whole)}, in stage {stage} of {whole[STAGE].max() + 1}"
    )


def _training(
    tables: Mapping[str, pd.DataFrame],
    own: Mapping[str, pd.DataFrame],
    env: str | None,
) -> str:
    planned = "curriculum" in own and len(own["curriculum"]) > 0
    another = f"consumed {_of_another('curriculum', 'train_eval', env)}"
    if own["consumed"].empty:
        if not planned:
            return "not trained on"
        consumed, whole = tables["consumed"][SAMPLE_ID], tables["curriculum"][SAMPLE_ID]
        paced = len(consumed) and consumed.isin(whole).all()
        why = "the pace did not reach it" if paced else another
        return f"without it: {why}"
    ordered = own["consumed"].sort_values(POSITION)
    steps = [
        f"step {step + 1}" + (" (padding, to fill it)" if padding else "")
        for step, padding in zip(ordered["step"], ordered["padding"], strict=True)
    ]
    last = tables["consumed"]["step"].max() + 1
    told = f"trained on in {' and '.join(steps)} of {last}"
    return told if planned or "curriculum" not in own else f"{told}; {another}"


def _rankings(
    own: Mapping[str, pd.DataFrame], title: Mapping[str, str], env: str | None
) -> RenderableType:
    if "rankings" not in own:
        return _not_yet("rankings", env)
    if own["rankings"].empty:
        return f"unknown: rankings {_of_another('pool', 'train_eval', env)}"
    ordered = own["rankings"].sort_values([RANK, METHOD])
    columns = (ordered[name] for name in (METHOD, RANK, TOP_ITEM_ID, COMPLETION))
    rows = []
    for method, rank, top, completion in zip(*columns, strict=True):
        lines = [f"first: {'; '.join(title[item] for item in top[:CHOICES])}"]
        if isinstance(completion, str):
            lines.insert(0, f"wrote: {_shown(completion) or NOTHING}")
        name = METHODS.get(method, method)
        rows.append((f"{rank + 1:,}", name, "\n".join(lines)))
    return _grid(rows, right=1)


def _among(tables: Mapping[str, pd.DataFrame]) -> str:
    return f" among {len(tables['items']):,} items" if "items" in tables else ""


def _rank(value: float, values: "pd.Series[float]") -> tuple[int, int]:
    """Return the rank of a value, 1 for the highest, and how many values there are."""
    return int((values > value).sum()) + 1, len(values)


def _not_yet(name: str, env: str | None) -> str:
    return f"not there yet: {_command(MADE_BY[name], env)}"


def _of_another(source: str, pipeline: str, env: str | None) -> str:
    return f"was made from another {source}: {_command(pipeline, env)}"


def _command(pipeline: str, env: str | None) -> str:
    return kedro_run([pipeline], {"env": env, "runtime_params": {}})


def _grid(rows: Iterable[tuple[str, ...]], right: int = 0) -> Table:
    """Lay out rows whose last cell is text; the first ``right`` cells are numbers."""
    rows = list(rows)
    table = Table.grid(padding=(0, 2))
    for column in range(len(rows[0]) if rows else 0):
        table.add_column(
            justify="right" if column < right else "left",
            no_wrap=column < len(rows[0]) - 1,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _number(value: float) -> str:
    return f"{value:#.4g}"


def _shown(text: str) -> str:
    """Spell out the characters that a terminal would act on."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ACTING and character not in JOINERS
        else character
        for character in text
    )
