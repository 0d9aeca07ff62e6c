import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from plotly import graph_objects as go

from minirec.parameters import plain_parameters
from minirec.reporting import report
from minirec.reporting.page import NO_BREAK
from minirec.reporting.trace import MOST

HOSTILE = "</td></script><script>alert(1)</script><img src=x onerror=y>\"' & &lt;"
GROUPS = ("seed", "policy", "ranking", "preprocess", "score", "select", "train_eval")
# of each method: mean, low and high of NDCG@10
EARNED = {
    "trained": (0.4, 0.35, 0.45),
    "untrained": (0.3, 0.25, 0.35),
    "popularity": (0.39, 0.3, 0.48),
}


def make_tables(text="Alpha", chosen=2):
    metrics = [
        (method, metric, *earned, 30, 40)
        for method, earned in EARNED.items()
        for metric in ("hr@10", "ndcg@10")
    ]
    metrics.append(("trained", "coverage@10", 0.7, np.nan, np.nan, 30, 40))
    pairs = [
        ("trained", "untrained", 0.1, 0.05, 0.15, 0.0004),
        ("untrained", "trained", -0.1, -0.15, -0.05, 0.0004),
        ("trained", "popularity", 0.01, -0.05, 0.07, 0.7),
        ("popularity", "trained", -0.01, -0.07, 0.05, 0.7),
    ]
    methods = ["metric", "method", "other"]
    ends = ["difference", "low", "high", "p_holm"]
    ids = range(100, 100 + chosen)
    return {
        "items": pd.DataFrame({"item_id": ["a"], "title": [text]}),
        "prompts": pd.DataFrame(
            {
                "sample_id": [100, 101, 102, 103, 7],
                "split": ["train"] * 4 + ["test"],
                "user_id": ["u", "u", "v", "w", "u"],
            }
        ),
        "candidates": pd.DataFrame(
            {
                "sample_id": [100, 101, 102, 103],
                "mean_reward": [0.5, 0.3, 0.1, 0.1],
                "reason": ["too_easy", "kept", "kept", "no_spread"],
            }
        ),
        "explanations": pd.DataFrame(
            {
                "position": range(chosen),
                "stage": 0,
                "pick": range(chosen - 1, -1, -1),
                "sample_id": ids,
                "user_id": text,
                "target": text,
                "last_titles": [[text, "Beta"]] * chosen,
                "mean_reward": 0.1234,
                "learnability": 0.5,
                "representativeness": 0.25,
                "value": 0.75,
                "distance": [0.125] * (chosen - 1) + [np.nan],
                "why": f"chosen as {text}",
            }
        ),
        "consumed": pd.DataFrame(
            {
                "sample_id": [100, 101, 101],
                "step": [0, 0, 1],
                "stage": [0, 1, 1],
                "padding": [False, False, True],
            }
        ),
        "metrics": pd.DataFrame(
            metrics,
            columns=["method", "metric", "mean", "low", "high", "users", "samples"],
        ),
        "comparisons": pd.DataFrame(
            [("ndcg@10", *pair) for pair in pairs], columns=[*methods, *ends]
        ),
        "group_metrics": pd.DataFrame(
            [
                ("history_length", 1, 9, method, "ndcg@10", *earned, 20)
                for method, earned in EARNED.items()
            ],
            columns=[
                *("by", "least", "most", "method", "metric"),
                *("mean", "low", "high", "samples"),
            ],
        ),
        "costs": pd.DataFrame(
            {
                "pipeline": ["select", "score", "score", "train_eval", "mine"],
                "node": ["choose", "probe", "ask", report.NODE, "other"],
                "seconds": [2.0, 30.0, 60.0, 1000.0, 1000.0],
                "peak_memory_gb": [3.5, 2.5, 1.5, 9.0, 9.0],
                "tokens_generated": [0, 1000, 234, 9999, 9999],
                "tokens_trained": 0,
                "tokens_read": 0,
                "flops": [0.0, 3e12, np.nan, 0.0, 0.0],
                "finished_at": [
                    "2026-11-30T10:05:00+00:00",
                    "2026-11-30T10:01:00+00:00",
                    *["2026-11-30T10:02:00+00:00"] * 3,
                ],
            }
        ),
    }


FIGURES = {
    name: go.Figure(go.Bar(y=[1]), {"title": {"text": HOSTILE}})
    for name in report.FIGURES
}


@pytest.fixture(scope="module")
def given(parameters):
    plain = plain_parameters(parameters)
    return {name: plain[name] for name in GROUPS}


def render(
    given, tables=None, base=None, data="films", model="an/lm", limits=(0.5, 0.05)
):
    return report.render_run(
        tables or make_tables(),
        FIGURES,
        given,
        given if base is None else base,
        data,
        {"policy": model, "encoder": ""},
        (0.36, 0.1658),
        limits,
        1234,
        56,
    )


class Page(HTMLParser):
    """What a browser would take from a page, scripts aside."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text, self.rows = [], [], "", []
        self.in_cell = False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_data(self, data):
        data = data.replace(NO_BREAK, " ")
        if self.tags[-1:] in (["script"], ["style"]):
            return
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")


def parsed(page):
    parser = Page()
    # plotly's own code is 5 MB
    parser.feed(re.sub(r"<script>.*?</script>", "<script></script>", page, flags=re.S))
    parser.text = " ".join(parser.text.split())
    return parser


def test_what_came_of_it_is_said_first(given):
    assert (
        "Of 4 samples of the pool 2 were kept and 2 chosen. Trained on these in 2 "
        "steps, the policy ranks the next item of 30 test users with NDCG@10 0.4000 "
        "[0.3500, 0.4500]; before, it was 0.3000 [0.2500, 0.3500]. The difference is "
        "+0.1000 [+0.0500, +0.1500], p < 0.001: better than before."
    ) in parsed(render(given)).text


def test_a_difference_is_open_unless_interval_and_test_agree(given):
    tables = make_tables()
    tables["comparisons"]["p_holm"] = 0.2
    text = parsed(render(given, tables)).text
    assert "p 0.200: no difference that this run could tell from chance." in text


def test_numbers_are_those_of_the_tables(given):
    rows = parsed(render(given)).rows
    assert ["data", "films: 1,234 interactions of 56 users with 1 items"] in rows
    assert [
        "prompts",
        "4 to choose from, the pool (train split, 3 users); "
        "1 to evaluate on (test split, 1 users)",
    ] in rows
    assert [
        "learnability",
        "highest at a mean reward (mu) of 0.36, which follows from the rewards; width "
        "(sigma) 0.166",
    ] in rows
    assert ["kept", "2", "50.0%", "40.0%", ""] in rows
    assert [
        *("no spread", "1", "25.0%", "10.0%"),
        "rewards of its rollouts differ by less than 0.005 (standard deviation)",
    ] in rows
    first, second = (row for row in rows if row[3:4] in (["100"], ["101"]))
    assert first == [
        *("1", "1", "2", "100", "Alpha", "Alpha", "Alpha; Beta"),
        *("0.123", "0.50", "0.25", "0.75", "0.12"),
    ]
    assert second[2] == "1"
    assert second[-1] == ""  # nothing was chosen before
    assert ["Chosen as Alpha."] in rows
    assert [
        "the same policy untrained",
        *["0.3000 [0.2500, 0.3500]"] * 2,
        "+0.1000 [+0.0500, +0.1500], p < 0.001",
    ] in rows
    assert ["coverage@10", "0.7000", "", ""] in rows
    assert [
        *("history length", "1 to 9", "20", "0.4000 [0.3500, 0.4500]"),
        *("0.3000 [0.2500, 0.3500]", "0.3900 [0.3000, 0.4800]"),
    ] in rows


def test_costs_are_summed_by_pipeline_in_the_order_of_a_run(given):
    page = parsed(render(given))
    place = page.rows.index(["select", "2", "0", "0", "0", "0", "3.5"])
    # what a node's models did that nobody counted is missing in each sum
    assert page.rows[place - 1] == ["score", "90", "1,234", "0", "0", "", "2.5"]
    # neither the page itself nor what is no part of the way here
    assert page.rows[place + 1] == ["all", "92", "1,234", "0", "0", "", "3.5"]
    assert ["score", "probe", "30", "1,000", "0", "0", "3", "2.5"] in page.rows
    assert "on 30 November 2026 at 10:01 UTC, the last on 30 November" in page.text


def test_without_costs_none_are_told(given):
    tables = make_tables()
    tables["costs"] = tables["costs"].iloc[:0]
    assert "this run kept no costs" in parsed(render(given, tables)).text


def test_training_that_was_filled_or_cut_short_is_told(given):
    assert (
        "3 prompts in 2 steps, 1 of them to fill the last step: 2 of the 5 chosen "
        "samples, from stage 1 to stage 2."
    ) in parsed(render(given, make_tables(chosen=5))).text


def test_parameters_that_differ_from_those_it_comes_with_are_told(given):
    text = parsed(render(given)).text
    assert "All of its parameters are those of conf/base" in text
    changed = {**given, "seed": 7, "select": {**given["select"], "size": None}}
    page = parsed(render(changed, base=given))
    assert "2 parameters differ from conf/base" in page.text
    assert ["seed", "7", "42"] in page.rows
    assert ["select.size", "null", "10"] in page.rows
    assert "conf/base" not in parsed(render(given, base={})).text


def test_the_first_256_are_shown_and_the_rest_is_named(given):
    page = parsed(render(given, make_tables(chosen=MOST + 1)))
    shown = [link for link in page.links if link.startswith("traces.html#")]
    assert shown == [f"traces.html#sample-{100 + place}" for place in range(256)]
    assert "The first 256 of 257; the others are in the table explanations" in page.text


def test_a_page_shows_markup_as_text(given):
    strange = {**given, "ranking": {**given["ranking"], "reward": HOSTILE}}
    page = parsed(
        render(strange, make_tables(HOSTILE), given, data=HOSTILE, model=HOSTILE)
    )
    plain = parsed(render({**given, "seed": 7}))
    assert set(page.tags) == set(plain.tags)
    assert page.tags.count("script") == 1 + len(FIGURES)
    # title, heading, data, model, reward, and of each of two samples four
    assert page.text.count(HOSTILE) == 13


def test_a_page_loads_nothing(given):
    page = render(given)
    assert set(parsed(page).links) == {"traces.html"} | {
        f"traces.html#sample-{sample}" for sample in (100, 101)
    }
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1
    assert page.count("Plotly.newPlot(") == len(FIGURES)


def test_without_strategies_to_compare_there_is_no_figure_of_them(given):
    alone = {**given, "select": {**given["select"], "compare": []}}
    assert 'id="overlap_figure"' in render(given)
    assert 'id="overlap_figure"' not in render(alone)


@pytest.mark.parametrize(
    ("group", "change", "row"),
    [
        (
            "score",
            {"representativeness": None, "gradients": None},
            ["representativeness", "does not count"],
        ),
        ("score", {"value": {"alpha": 0.5}}, None),
        (
            "select",
            {"prune": {"min_spread": 0}},
            ["pruning", "too easy above 0.5, too hard below 0.05, equal rewards"],
        ),
        (
            "ranking",
            {"reward": [{"function": "a.b", "weight": 2.0}]},
            ["reward", "2 x a.b"],
        ),
    ],
)
def test_what_was_run_is_told_in_words(given, group, change, row):
    changed = {**given, group: {**given[group], **change}}
    rows = parsed(render(changed)).rows
    assert (row or ["value", "0.5 x learnability + representativeness"]) in rows


def test_without_limits_nothing_is_pruned(given):
    select = {**given["select"], "prune": {"min_spread": None}}
    rows = parsed(render({**given, "select": select}, limits=(None, None))).rows
    assert ["pruning", "none"] in rows
