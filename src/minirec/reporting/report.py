"""A run on one page: what went in, what was chosen and why, what came of it."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from minirec.columns import (
    DISTANCE,
    KEPT,
    LAST_TITLES,
    LEARNABILITY,
    MEAN_REWARD,
    METHOD,
    METRIC,
    OTHER,
    PICK,
    POSITION,
    REASON,
    REPRESENTATIVENESS,
    SAMPLE_ID,
    SPLIT,
    STAGE,
    TARGET,
    TEST,
    TRAIN,
    TRAINED,
    UNTRAINED,
    USER_ID,
    VALID,
    VALUE,
    WHY,
)
from minirec.functions import function_at
from minirec.pipeline_registry import ORDER
from minirec.ranking.evaluation import verdicts
from minirec.reporting.page import (
    difference,
    drawn,
    folded,
    html_table,
    interval,
    number,
    page,
    section,
)
from minirec.reporting.picks import DIRECTIONS, TITLES
from minirec.reporting.summary import METHODS, first_metrics, pruning_rows
from minirec.reporting.trace import MOST
from minirec.types import Model

# the tables that the page is made of, and the figures, by their names in the catalog
TABLES = (
    *("items", "prompts", "candidates", "explanations", "consumed"),
    *("metrics", "comparisons", "group_metrics", "costs"),
)
FIGURES = (
    *("reward_figure", "selection_figure", "embedding_figure", "overlap_figure"),
    *("curriculum_figure", "proxy_figure", "policy_figure"),
    *("metrics_figure", "group_figure"),
)
VERDICTS = {
    "better": "better than before",
    "worse": "worse than before",
    "open": "no difference that this run could tell from chance",
}
# what is written of a parameter, in characters
SHORT = 60
THIS = "this run"
# what makes the page
NODE = "report_run"
REPRESENTATIVE = (
    "<em>representativeness</em> (0 to 1) where the sample's gradient agrees with what "
    "it is compared with, and <em>value</em> adds them up"
)
LEFT_OUT = (
    "<p>Before anything is chosen, samples go that cannot teach, for the first of these "
    "reasons that holds. A share of reward is that of the sum of mean rewards.</p>"
)
THE_REST = (
    f'<p><a href="traces.html">traces.html</a> beside this page has the whole way of '
    f"the first {MOST} chosen samples, with what the proxy wrote on each and earned; "
    "<code>minirec trace sample</code> with an id prints that of any sample, chosen or "
    "not, <code>minirec trace user</code> lists those of a user, and <code>minirec "
    "trace table metrics</code> what a table was made from. The tables lie in the "
    "folders beside that of this page; <code>kedro viz run</code> draws how they follow "
    "from one another.</p>"
)
# Beside that of every page: long names may be broken where it is narrow; the chosen
# samples, which may be hundreds, scroll by themselves below their heads.
STYLE = """
.settings td.text { overflow-wrap: anywhere; }
.picks table { min-width: 60rem; }
.picks th { background: Canvas; border: none; box-shadow: inset 0 -1px; position: sticky;
  top: 0; z-index: 1; }
@media screen { .picks .wide { max-height: 80vh; } }
"""


def render_run(
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, go.Figure],
    parameters: Mapping[str, Any],
    base: Mapping[str, Any],
    data: str,
    models: Mapping[str, str],
    mu_and_sigma: tuple[float, float],
    limits: tuple[float | None, float | None],
    interactions: int,
    users: int,
) -> str:
    """Lay out a whole run on one page, in the order of its steps.

    Parameters
    ----------
    tables
        Those of `minirec.schemas` that `TABLES` names.
    figures
        Those of `minirec.reporting.figures` that `FIGURES` names.
    parameters
        ``seed``, ``policy``, ``ranking``, ``preprocess``, ``score``, ``select`` and
        ``train_eval``, as plain values.
    base
        All parameters as the project comes with them; empty: unknown.
    data
        What the source of the histories is called.
    models
        What `model_name` says of ``policy`` and ``encoder``.
    mu_and_sigma
        Of learnability, as mean rewards.
    limits
        What `minirec.selection.pruning.limits` says of the pool.
    interactions, users
        How many there are after cleaning.

    Returns
    -------
    str
        HTML with plotly's own code in it, some 5 MB, that loads nothing.
    """
    select = parameters["select"]
    aligned = parameters["score"]["representativeness"] is not None
    shown = {name: drawn(figure, name) for name, figure in figures.items()}
    if not select["compare"]:
        shown["overlap_figure"] = ""  # there is nothing in it
    run = [
        ("data", f"{data}: {interactions:,} interactions of {users:,} users with "
         f"{len(tables['items']):,} items"),
        ("prompts", _prompts(tables["prompts"])),
        *_scoring(parameters, models, *mu_and_sigma),
        *_choice(parameters, *limits),
        ("evaluation", _evaluation(tables["metrics"], parameters)),
        ("seed", str(parameters["seed"])),
    ]  # fmt: skip
    sections = [
        section(
            f"What was chosen, and why: {data}, policy {parameters['policy']['kind']}",
            _headline(tables, parameters),
            level=1,
        ),
        section(
            "What was run",
            f'<div class="settings">{html_table(["", THIS], run, texts=[THIS])}</div>',
            _changes(parameters, base),
        ),
        section(
            "What was left out",
            LEFT_OUT,
            _pruned(tables["candidates"], *limits, select["prune"]["min_spread"]),
            shown["reward_figure"],
        ),
        section(
            "What was chosen",
            _how(select["strategy"], aligned),
            _picks(tables["explanations"], aligned),
            shown["selection_figure"],
            shown["embedding_figure"],
            shown["overlap_figure"],
        ),
        section(
            "Training",
            _training(tables["consumed"], tables["explanations"]),
            shown["curriculum_figure"],
            "<h3>The policy</h3>",
            shown["policy_figure"],
            "<h3>The proxy, before anything was chosen</h3>",
            shown["proxy_figure"],
        ),
        section(
            "What it was worth",
            _worth(tables, parameters),
            shown["metrics_figure"],
            shown["group_figure"],
            _groups(tables["group_metrics"]),
        ),
        section("What it cost", _costs(tables["costs"])),
        section("Where the rest is", THE_REST),
    ]
    title = f"{data}: what was chosen, and why"
    return page(title, sections, STYLE, scripts=True)


def model_name(model: Model) -> str:
    """Return what a model is called, of a folder no more than the end of its path.

    Examples
    --------
    >>> model_name({"pretrained_model_name_or_path": "/home/me/models/small"})
    'models/small'
    >>> model_name({"pretrained_model_name_or_path": "an/lm", "revision": "v1"})
    'an/lm, revision v1'
    """
    if not model:
        return ""
    name = model["pretrained_model_name_or_path"]
    if Path(name).is_absolute():
        name = "/".join(Path(name).parts[-2:])
    return f"{name}, revision {model['revision']}" if "revision" in model else name


def _headline(tables: Mapping[str, pd.DataFrame], parameters: Mapping[str, Any]) -> str:
    candidates, metrics = tables["candidates"], tables["metrics"]
    metric = first_metrics(metrics)[-1]
    own = metrics[metrics[METRIC] == metric].set_index(METHOD).to_dict("index")
    confidence = parameters["train_eval"]["evaluation"]["confidence"]
    row = _compared(tables["comparisons"], metric, confidence)[UNTRAINED]
    kept = (candidates[REASON] == KEPT).sum()
    means = {name: interval(own[name]) for name in (TRAINED, UNTRAINED)}
    return (
        f"<p>Of {len(candidates):,} samples of the pool {kept:,} were kept and "
        f"{len(tables['explanations']):,} chosen. Trained on these in "
        f"{tables['consumed']['step'].nunique():,} steps, the policy ranks the next "
        f"item of {own[TRAINED]['users']:,} test users with {metric.upper()} "
        f"{means[TRAINED]}; before, it was {means[UNTRAINED]}. The difference is "
        f"{difference(row)}: {VERDICTS[str(row['verdict'])]}.</p>"
    )


def _prompts(prompts: pd.DataFrame) -> str:
    said = []
    for split, purpose in (
        (TRAIN, "to choose from, the pool"),
        (VALID, "to compare gradients with"),
        (TEST, "to evaluate on"),
    ):
        own = prompts[prompts[SPLIT] == split]
        if len(own):
            users = own[USER_ID].nunique()
            said.append(f"{len(own):,} {purpose} ({split} split, {users:,} users)")
    return "; ".join(said)


def _scoring(
    parameters: Mapping[str, Any],
    models: Mapping[str, str],
    mu: float,
    sigma: float,
) -> Iterator[tuple[str, str]]:
    """Say in words what of the parameters decides most of the scores."""
    policy, score = parameters["policy"], parameters["score"]
    probe, learnability = score["probe"], score["learnability"]
    made = "made and pre-trained here" if policy["kind"] == "item_tokens" else ""
    yield "policy", f"{policy['kind']}: {models['policy'] or made}, {policy['dtype']}"
    if models["encoder"]:
        yield "encoder", models["encoder"]
    reward = parameters["ranking"]["reward"]
    if not isinstance(reward, str):
        weighted = (f"{one['weight']:g} x {one['function']}" for one in reward)
        reward = " + ".join(weighted)
    yield "reward", reward
    at_most = "up to " if probe["adaptive"] else ""
    yield (
        "proxy",
        f"trained on {score['proxy']['prompts']:,} prompts; {at_most}"
        f"{probe['rollouts']:,} rollouts of each sample",
    )
    auto = ", which follows from the rewards" if learnability["mu"] == "auto" else ""
    yield (
        "learnability",
        f"highest at a mean reward (mu) of {mu:.3g}{auto}; width (sigma) {sigma:.3g}",
    )
    towards = score["representativeness"]
    yield (
        "representativeness",
        f"how far a sample's gradient (space {score['gradients']['space']}) agrees "
        f"with {DIRECTIONS[towards['direction']]}"
        if towards
        else "does not count",
    )
    yield "value", f"{score['value']['alpha']:g} x learnability + representativeness"


def _choice(
    parameters: Mapping[str, Any], easy: float | None, hard: float | None
) -> Iterator[tuple[str, str]]:
    """Say what decides which samples are trained on, and how."""
    select = parameters["select"]
    spread = select["prune"]["min_spread"]
    limits = [
        *([f"too easy above {easy:.3g}"] if easy is not None else []),
        *([f"too hard below {hard:.3g}"] if hard is not None else []),
        *([f"spread of rewards below {spread:.3g}"] if spread else []),
        *(["equal rewards"] if spread == 0 else []),
    ]
    yield "pruning", ", ".join(limits) or "none"
    size = select["size"]
    yield (
        "strategy",
        f"{select['strategy']}, {'all' if size is None else f'{size:,}'} samples",
    )
    order = select["curriculum"]
    yield "curriculum", f"{order['order']}, {order['n_stages']} stages"
    train = parameters["train_eval"]["train"]
    grpo = train["grpo"]
    yield (
        "training",
        f"GRPO with {grpo['num_generations']} completions a prompt, "
        f"{train['prompts_per_step']} prompts a step, learning rate "
        f"{grpo['learning_rate']:g}, beta {grpo['beta']:g}, "
        f"passes {grpo['num_train_epochs']}",
    )


def _evaluation(metrics: pd.DataFrame, parameters: Mapping[str, Any]) -> str:
    # without an encoder one that was asked for is left out
    methods = set(metrics[METHOD]) - {TRAINED, UNTRAINED}
    others = [name for method, name in METHODS.items() if method in methods]
    evaluation = parameters["train_eval"]["evaluation"]
    return (
        f"beside {', '.join(others) or 'no baseline'}; intervals hold "
        f"{evaluation['confidence']:.0%} of {evaluation['bootstrap_draws']:,} "
        "bootstrap draws"
    )


def _changes(parameters: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    if not base:
        return ""
    before = dict(_leaves({name: base[name] for name in parameters}))
    now = dict(_leaves(parameters))
    rows = [
        [name, *(_short(side[name]) if name in side else "" for side in (now, before))]
        for name in [*now, *(name for name in before if name not in now)]
        if now.get(name) != before.get(name)
    ]
    if not rows:
        return "<p>All of its parameters are those of <code>conf/base</code>.</p>"
    what = "1 parameter differs" if len(rows) == 1 else f"{len(rows)} parameters differ"
    heads = ["parameter", THIS, "conf/base"]
    told = html_table(heads, rows, texts=heads)
    return folded(f"{what} from conf/base", f'<div class="settings">{told}</div>')


def _pruned(
    candidates: pd.DataFrame,
    easy: float | None,
    hard: float | None,
    spread: float | None,
) -> str:
    limits = {
        "too easy": f"mean reward above {easy:.3g}" if easy is not None else "",
        "too hard": f"mean reward below {hard:.3g}" if hard is not None else "",
        "no spread": f"rewards of its rollouts differ by less than {spread:.3g} "
        "(standard deviation)"
        if spread
        else "rollouts all earned the same",
    }
    heads = ["of the pool", "samples", "share", "share of reward", "goes if"]
    rows = [[*row, limits.get(row[0], "")] for row in pruning_rows(candidates)]
    return html_table(heads, rows, texts=["goes if"])


def _how(strategy: str, aligned: bool) -> str:
    found = inspect.getdoc(function_at(strategy, "select.strategy"))
    found = found or "a function without a docstring, which would be shown here."
    # names of code in brackets say nothing here
    plain = re.sub(r" \(`+[^`]+`+\)|`", "", found.partition("\n\n")[0])
    says = " ".join(plain.split())
    name = strategy.removeprefix("minirec.selection.strategies.")
    more = ""
    if name == "diverse":
        more = (
            " The first pick has the highest value; each further one the largest "
            "value x distance from the nearest chosen before."
        )
    return (
        f"<p>By <code>{escape(name)}</code>: {escape(says)}{more}</p>"
        "<p><em>Mean reward</em> is what the proxy earned on a sample: higher is "
        "easier. <em>Learnability</em> (0 to 1) is highest where that teaches most, "
        f"{REPRESENTATIVE if aligned else 'and <em>value</em> weighs it'}. "
        "<em>Distance</em> is that of its history from the nearest of those chosen "
        "before (1 - cosine, 0 to 2). Places, stages, picks and ranks count from 1 "
        "here and in figures, in the tables of the catalog from 0.</p>"
    )


def _picks(explanations: pd.DataFrame, aligned: bool) -> str:
    ordered = explanations.sort_values(POSITION)
    shown = ordered.head(MOST)
    which = f"All {len(shown):,} of them"
    if len(shown) < len(ordered):
        which = (
            f"The first {len(shown):,} of {len(ordered):,}; the others are in the table "
            "<code>explanations</code>, with the same columns"
        )
    last = f"last {TITLES} of the history"
    heads = [
        *("place", "stage", "pick", "sample", "user", "target", last),
        *("mean reward", "learn\u00adability"),
        *(["represent\u00adativeness"] if aligned else []),
        *("value", "distance"),
    ]
    rows = [
        [
            f"{row[POSITION] + 1:,}",
            f"{row[STAGE] + 1}",
            f"{row[PICK] + 1:,}",
            f'<a href="traces.html#sample-{row[SAMPLE_ID]}">{row[SAMPLE_ID]}</a>',
            row[USER_ID],
            row[TARGET],
            "; ".join(row[LAST_TITLES]),
            f"{row[MEAN_REWARD]:.3f}",
            f"{row[LEARNABILITY]:.2f}",
            *([f"{row[REPRESENTATIVENESS]:.2f}"] if aligned else []),
            f"{row[VALUE]:.2f}",
            "" if pd.isna(row[DISTANCE]) else f"{row[DISTANCE]:.2f}",
        ]
        for row in shown.to_dict("records")
    ]
    told = html_table(
        heads,
        rows,
        raw=["sample"],
        texts=["user", "target", last],
        below=[f"{why[:1].upper()}{why[1:]}." for why in shown[WHY]],
    )
    return (
        f"<p>{which}, in the order of training; the number of a sample leads to all "
        "that the proxy wrote on it.</p>"
        f'<div class="picks">{told}</div>'
    )


def _training(consumed: pd.DataFrame, explanations: pd.DataFrame) -> str:
    reached = consumed[SAMPLE_ID].nunique()
    padding = int(consumed["padding"].sum())
    filled = f", {padding:,} of them to fill the last step" if padding else ""
    return (
        f"<p>{len(consumed):,} prompts in {consumed['step'].nunique():,} steps{filled}: "
        f"{reached:,} of the {len(explanations):,} chosen samples, from stage "
        f"{consumed[STAGE].min() + 1} to stage {consumed[STAGE].max() + 1}.</p>"
    )


def _worth(tables: Mapping[str, pd.DataFrame], parameters: Mapping[str, Any]) -> str:
    metrics, comparisons = tables["metrics"], tables["comparisons"]
    confidence = parameters["train_eval"]["evaluation"]["confidence"]
    cells = {
        (row[METHOD], row[METRIC]): interval(row) for row in metrics.to_dict("records")
    }
    names = list(dict.fromkeys(metrics[METRIC]))
    methods = [name for name in METHODS if (name, names[0]) in cells]
    first = first_metrics(metrics)
    compared = _compared(comparisons, first[-1], confidence)
    minus = f"trained minus it, {first[-1].upper()}"
    sizes = metrics.iloc[0]
    rows = [
        [
            METHODS[method],
            *(cells[method, metric] for metric in first),
            difference(compared.get(method)),
        ]
        for method in methods
    ]
    pairs = [
        [METHODS[row[METHOD]], METHODS[row[OTHER]], difference(row)]
        for row in _judged(comparisons, first[-1], confidence)
        if row["difference"] >= 0
    ]
    return (
        f"<p>The next item of {sizes['users']:,} users ({sizes['samples']:,} samples) "
        "of the test split, ranked among all items. Higher is better.</p>"
        + html_table(
            ["method", *(name.upper() for name in first), minus], rows, raw=[minus]
        )
        + f"<p>Intervals hold the middle {confidence:.0%} of bootstrap draws of users; "
        "a difference stands with its paired interval and p of a randomisation test, "
        "which allows for all methods that a method is compared with (Holm). "
        '<span class="better">Better</span> or <span class="worse">worse</span> is '
        "said only where both agree. It is one seed: <code>kedro run --pipelines "
        "experiment</code> takes several.</p>"
        + folded(
            f"All {len(names)} metrics",
            html_table(
                ["metric", *(METHODS[method] for method in methods)],
                [
                    [name, *(cells.get((method, name), "") for method in methods)]
                    for name in names
                ],
            ),
        )
        + folded(
            f"Each two methods, {first[-1].upper()}",
            html_table(
                ["method", "minus", "difference"],
                pairs,
                raw=["difference"],
                texts=["minus"],
            ),
        )
    )


def _groups(group_metrics: pd.DataFrame) -> str:
    name = first_metrics(group_metrics)[-1]
    own = group_metrics[group_metrics[METRIC] == name]
    methods = [method for method in METHODS if method in set(own[METHOD])]
    rows = []
    for (by, least, most, samples), group in own.groupby(
        ["by", "least", "most", "samples"]
    ):
        found = {row[METHOD]: interval(row) for row in group.to_dict("records")}
        rows.append(
            [
                str(by).replace("_", " "),
                f"{least:,} to {most:,}",
                f"{samples:,}",
                *(found.get(method, "") for method in methods),
            ]
        )
    heads = ["by", "group", "samples", *(METHODS[method] for method in methods)]
    return folded(
        f"{name.upper()} by length of history and popularity of the target",
        html_table(heads, rows),
    )


def _costs(costs: pd.DataFrame) -> str:
    # of the page itself an earlier run may have kept them
    costs = costs[costs["pipeline"].isin(ORDER) & (costs["node"] != NODE)]
    if costs.empty:
        return "<p>Not known: this run kept no costs.</p>"
    counted = {
        "seconds": "seconds",
        "tokens_generated": "tokens written",
        "tokens_trained": "trained on",
        "tokens_read": "read besides",
        "flops": "TFLOPs",
    }
    costs = costs.assign(flops=costs["flops"] / 1e12).sort_values(
        "pipeline", key=lambda names: names.map(ORDER.index), kind="stable"
    )
    heads = [*counted.values(), "peak GB"]

    def row(own: pd.DataFrame) -> list[str]:
        # a sum that leaves out what nobody knows is too small: it is none
        sums = own[list(counted)].astype(float).sum(skipna=False)
        return [*map(number, sums), number(own["peak_memory_gb"].max())]

    pipelines = [
        [str(name), *row(own)] for name, own in costs.groupby("pipeline", sort=False)
    ]
    nodes = [
        [str(each["pipeline"]), str(each["node"]), *row(costs.iloc[[place]])]
        for place, each in enumerate(costs.to_dict("records"))
    ]
    first, last = (
        f"{pd.Timestamp(when):%d %B %Y at %H:%M} UTC"
        for when in (costs["finished_at"].min(), costs["finished_at"].max())
    )
    return (
        f"<p>What each node took when it last ran, the first of them on {first}, the "
        f"last on {last}; this page is not in it. A TFLOP is 10^12 operations in the "
        "models' matrix products; nothing stands where nobody knows them, as of a "
        "server's. Baselines learn in <code>rank_baselines</code>. Memory is the most "
        "that the process had held by then.</p>"
        + html_table(["pipeline", *heads], [*pipelines, ["all", *row(costs)]])
        + folded(
            "By node", html_table(["pipeline", "node", *heads], nodes, texts=["node"])
        )
    )


def _compared(
    comparisons: pd.DataFrame, metric: str, confidence: float
) -> dict[str, Mapping[Any, Any]]:
    """Return what the trained policy is compared with each other method."""
    return {
        row[OTHER]: row
        for row in _judged(comparisons, metric, confidence)
        if row[METHOD] == TRAINED
    }


def _judged(
    comparisons: pd.DataFrame, metric: str, confidence: float
) -> list[dict[Any, Any]]:
    own = comparisons[comparisons[METRIC] == metric]
    own = own.assign(verdict=verdicts(own, confidence))
    return own.sort_values("difference", ascending=False).to_dict("records")


def _leaves(group: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in group.items():
        inner = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            yield from _leaves(value, inner)
        else:
            yield inner, value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."
