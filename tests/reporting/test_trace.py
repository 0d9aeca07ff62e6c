import unicodedata
from html.parser import HTMLParser
from importlib import import_module

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kedro.io import DataCatalog
from rich.cells import cell_len

from minirec.datasets.files import ParquetDataset
from minirec.errors import InputError
from minirec.reporting.trace import (
    MADE_BY,
    MOST,
    load_tables,
    render_traces,
    trace_sample,
    trace_user,
)

CHOSEN, EASY, OTHER, HARD, FLAT, TEST = 3, 4, 5, 6, 7, 9
# of both rollouts of each sample of the pool
EARNED = {
    CHOSEN: (0.25, 0.75),
    EASY: (0.9, 1.0),
    OTHER: (0.2, 0.4),
    HARD: (0.0, 0.02),
    FLAT: (0.5, 0.5),
}
REASONS = {
    CHOSEN: "kept",
    EASY: "too_easy",
    OTHER: "kept",
    HARD: "too_hard",
    FLAT: "no_spread",
}
WHOLE = """\
Sample 3 of the train split, user ann

History: the last 2 of 5 items, oldest first
  1  Alpha
  2  Beta

Target: what the user chose next
  Gamma

Prompt as the model read it, 12 tokens
  |  I watched:
  |  Alpha
  |  Beta

Rollouts of the proxy
  rank  reward  what it wrote
     4  0.2500  Delta
     1  0.7500  Gamma
  mean reward 0.5000, spread 0.2500 (standard deviation)
  rank: where it puts the target among 4 items

Scores
  learnability        1.000  0 to 1: how near the mean reward lies to what
                             teaches most
  gradient alignment  0.250  0 to 1: how far its gradient points where the
                             pool's does (representativeness)
  value               1.250  rank 2 of 5 in the pool

From score to training
  pruning     kept: its mean reward 0.5000 and spread 0.2500 lie within the
              limits (the kept have means of 0.3000 to 0.5000 and spreads from
              0.1000)
  selection   chosen as pick 1 of 1, with a value of 1.25 (rank 2 of 2 kept):
              nothing was chosen before it
  curriculum  place 1 of 1, in stage 1 of 1
  training    trained on in step 1 and step 2 (padding, to fill it) of 2

Ranks, picks, places, stages and steps count from 1 here, in the tables from 0."""


def make_tables(title="Alpha", user="ann", prompt="Beta", completion="Gamma"):
    """The tables of five samples of the pool, one of them chosen, and a test sample."""
    samples = [*EARNED, TEST]
    key = {
        "sample_id": [sample for sample in EARNED for _ in range(2)],
        "rollout": [0, 1] * len(EARNED),
    }
    means = {sample: sum(earned) / 2 for sample, earned in EARNED.items()}
    candidates = pd.DataFrame(
        {
            "sample_id": list(EARNED),
            "mean_reward": list(means.values()),
            "std_reward": [abs(a - b) / 2 for a, b in EARNED.values()],
            "learnability": [1.0, 0.5, 0.5, 0.0, 1.0],
            "representativeness": [0.25, 0.0, 1.0, 0.0, 0.1],
            "value": [1.25, 0.5, 1.5, 0.0, 1.1],
            "reason": list(REASONS.values()),
        }
    )
    return {
        "items": pd.DataFrame(
            {
                "item_id": ["a", "b", "c", "d"],
                "title": [title, "Beta", "Gamma", "Delta"],
            }
        ),
        "prompts": pd.DataFrame(
            {
                "sample_id": samples,
                "split": ["train"] * len(EARNED) + ["test"],
                "user_id": user,
                "prompt": f"I watched:\nAlpha\n{prompt}",
                "n_tokens": 12,
                "target_item_id": "c",
                "history_item_id": [["a", "b"]] * len(samples),
                "seen_item_id": [["x", "y", "z", "a", "b"]] * len(samples),
            }
        ),
        "rollouts": pd.DataFrame(
            {**key, "completion": ["Delta", completion] * len(EARNED)}
        ),
        "rewards": pd.DataFrame(
            {
                **key,
                "rank": [3, 0] * len(EARNED),
                "reward": [reward for earned in EARNED.values() for reward in earned],
            }
        ),
        "scores": candidates.drop(columns="reason"),
        "candidates": candidates,
        "selection": pd.DataFrame(
            {"position": [0], "sample_id": [CHOSEN], "value": [1.25]}
        ),
        "curriculum": pd.DataFrame(
            {"position": [0], "sample_id": [CHOSEN], "stage": 0, "mean_reward": [0.5]}
        ),
        "explanations": pd.DataFrame(
            {
                "sample_id": [CHOSEN],
                "why": "chosen as pick 1 of 1, with a value of 1.25 (rank 2 of 2 kept): "
                "nothing was chosen before it",
            }
        ),
        "consumed": pd.DataFrame(
            {
                "position": [0, 1],
                "step": [0, 1],
                "sample_id": CHOSEN,
                "padding": [False, True],
            }
        ),
        "rankings": pd.DataFrame(
            {
                "method": ["popularity", "trained"],
                "sample_id": TEST,
                "rank": [2, 0],
                "top_item_id": [["d", "b", "a", "c"], ["c", "d", "b", "a"]],
                "completion": [None, completion],
            }
        ),
    }


def render(tables):
    return render_traces(
        *(tables[name] for name in MADE_BY if name not in ("scores", "rankings"))
    )


def one_line(text):
    return " ".join(text.split())


def test_the_way_of_a_chosen_sample():
    assert trace_sample(make_tables(), CHOSEN) == WHOLE


def test_the_samples_of_a_user():
    assert (
        trace_user(make_tables(), "ann", "test")
        == """\
User ann, 6 samples

  3  train  chosen as pick 1 of 1  Gamma
  4  train  pruned: too easy       Gamma
  5  train  kept, not chosen       Gamma
  6  train  pruned: too hard       Gamma
  7  train  pruned: no spread      Gamma
  9  test   held out               Gamma

`minirec trace sample 3 --env test` tells the way of one."""
    )


def test_the_samples_of_a_user_before_anything_was_chosen():
    tables = make_tables()
    preprocessed = trace_user({"prompts": tables["prompts"]}, "ann")
    assert "  3  train  not pruned yet  item c\n" in preprocessed
    of_another = trace_user({**tables, "candidates": tables["candidates"][:0]}, "ann")
    assert "unknown: candidates was made from another pool: kedro" in of_another
    del tables["selection"]
    assert "  3  train  kept               Gamma\n" in trace_user(tables, "ann")


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        (make_tables(), "no sample of a user 'an': only .*, of 1 users, such as ann$"),
        ({}, "prompts is not there yet: kedro run --pipelines preprocess$"),
    ],
)
def test_a_user_without_samples_is_told(tables, sentence):
    with pytest.raises(InputError, match=sentence):
        trace_user(tables, "an")


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        (EASY, "pruned as too easy: its mean reward 0.9500 lies above select.prune."),
        (HARD, "pruned as too hard: its mean reward 0.01000 lies below select.prune."),
        (
            FLAT,
            "pruned for want of spread: its rewards differ by 0.000, too little for ",
        ),
    ],
)
def test_a_pruned_sample_tells_why_by_its_numbers(sample, sentence):
    trace = one_line(trace_sample(make_tables(), sample))
    assert sentence in trace
    assert "(the kept have 0.3000 to 0.5000)" in trace or sample == FLAT
    assert "selection not chosen: what is pruned cannot be curriculum not in it" in (
        trace
    )


def test_a_sample_that_was_kept_and_not_chosen_has_its_rank_among_the_kept():
    trace = one_line(trace_sample(make_tables(), OTHER))
    assert "not chosen: the 1 picks went to others of the 2 kept, among which " in trace
    assert "its value has rank 1 curriculum not in it training not trained on" in trace


def test_a_test_sample_is_ranked_and_nothing_else():
    trace = trace_sample(make_tables(), TEST)
    assert trace.startswith("Sample 9 of the test split, user ann\n")
    assert (
        "Scores and training\n"
        "  held out from both, for evaluation\n"
        "\n"
        "Where each method ranks the target among 4 items\n"
        "  1  policy trained on the selection  wrote: Gamma\n"
        "                                      first: Gamma; Delta; Beta\n"
        "  3  popularity                       first: Delta; Beta; Alpha\n"
    ) in trace


@pytest.mark.parametrize("name", sorted(MADE_BY.keys() - {"prompts", "scores"}))
def test_a_table_that_is_not_there_names_the_command_that_makes_it(name):
    tables = make_tables()
    del tables[name]
    trace = trace_sample(tables, TEST if name == "rankings" else CHOSEN, env="test")
    command = f"not there yet: kedro run --pipelines {MADE_BY[name]} --env test"
    assert command in one_line(trace)


def test_scores_serve_where_candidates_are_not_there_yet():
    tables = make_tables()
    del tables["candidates"]
    before = one_line(trace_sample(tables, CHOSEN))
    assert "value 1.250 rank 2 of 5 in the pool" in before
    del tables["scores"]
    after = one_line(trace_sample(tables, CHOSEN))
    assert "Scores not there yet: kedro run --pipelines score From" in after


def test_items_without_titles_are_named_by_their_ids():
    tables = make_tables()
    tables["items"] = tables["items"].query("item_id != 'c'")
    assert "Target: what the user chose next\n  item c\n" in trace_sample(
        tables, CHOSEN
    )


@pytest.mark.parametrize(("name", "pipeline"), MADE_BY.items())
def test_every_table_is_made_by_the_pipeline_that_is_named(name, pipeline):
    module = import_module(f"minirec.pipelines.{pipeline}.pipeline")
    assert name in module.create_pipeline().all_outputs()


@pytest.mark.parametrize(
    ("emptied", "sentence"),
    [
        ("rewards", "rollouts or rewards was made from another pool: kedro run "),
        ("candidates", "pruning unknown: candidates was made from another pool: "),
        ("curriculum", "without it: curriculum was made from another selection: "),
        (
            "explanations",
            "why is unknown: explanations was made from another selection",
        ),
        ("consumed", "without it: consumed was made from another curriculum: "),
        ("rankings", "unknown: rankings was made from another pool: kedro run "),
    ],
)
def test_tables_that_do_not_belong_together_are_found(emptied, sentence):
    tables = make_tables()
    tables[emptied] = tables[emptied].iloc[:0]
    trace = trace_sample(tables, TEST if emptied == "rankings" else CHOSEN)
    assert sentence in one_line(trace)


def test_a_sample_that_the_pace_did_not_reach_is_told():
    tables = make_tables()
    reached = tables["curriculum"].assign(sample_id=OTHER)
    tables["curriculum"] = pd.concat([reached, tables["curriculum"]])
    tables["consumed"] = tables["consumed"].assign(sample_id=OTHER)
    trace = one_line(trace_sample(tables, CHOSEN))
    assert "without it: the pace did not reach it" in trace


def test_training_on_another_curriculum_is_found():
    tables = make_tables()
    tables["consumed"] = tables["consumed"].assign(sample_id=OTHER)
    trace = one_line(trace_sample(tables, OTHER))
    assert "of 2; consumed was made from another curriculum: kedro run" in trace


def test_an_unknown_sample_tells_which_there_are():
    with pytest.raises(InputError) as error:
        trace_sample(make_tables(), 1234)
    assert str(error.value) == (
        "prompts holds no sample 1234: sample_id counts the rows of samples from 0, and "
        "only those drawn by preprocess.pool have prompts, 5 of train and 1 of test, "
        "with ids from 3 to 9; the nearest is 9"
    )


def test_nothing_can_be_told_without_prompts():
    tables = make_tables()
    with pytest.raises(InputError, match="holds no sample: raise preprocess"):
        trace_sample({**tables, "prompts": tables["prompts"].iloc[:0]}, CHOSEN)
    del tables["prompts"]
    command = "prompts is not there yet: kedro run --pipelines preprocess"
    with pytest.raises(InputError, match=command):
        trace_sample(tables, CHOSEN)


def test_what_a_terminal_would_act_on_is_spelt_out():
    tables = make_tables(title="\x1b[31mred\x07", completion="one\ntwo\u202e\x9b2J")
    trace = trace_sample(tables, CHOSEN)
    assert "  1  \\x1b[31mred\\x07\n" in trace
    assert "  one\\ntwo\\u202e\\x9b2J\n" in trace


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=200))
@example(text="[bold]:smile: {0} %s\\")
@example(text="題" * 100)
@example(text="\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u2028 \r\t\x00\x85")
def test_any_text_is_shown_in_80_columns_without_control_characters(text):
    tables = make_tables(title=text, user=text, prompt=text, completion=text)
    for sample in (CHOSEN, TEST):
        trace = trace_sample(tables, sample)
        assert all(cell_len(line) <= 80 for line in trace.split("\n"))
        shown = set(trace) - set("\n\u200c\u200d")
        assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Zl", "Zp"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.links, self.text = set(), [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data):
        self.text += data


def parsed(page):
    parser = Page()
    parser.feed(page)
    return parser


def test_the_page_has_the_trace_of_each_chosen_sample_in_order():
    tables = make_tables()
    tables["selection"] = pd.DataFrame(
        {"position": [0, 1], "sample_id": [CHOSEN, OTHER], "value": [1.25, 1.5]}
    )
    tables["curriculum"] = pd.DataFrame(
        {
            "position": [1, 0],
            "sample_id": [CHOSEN, OTHER],
            "stage": [1, 0],
            "mean_reward": [0.5, 0.3],
        }
    )
    page = parsed(render(tables))
    assert page.ids == ["sample-5", "sample-3"]
    assert page.links == ["#sample-5", "#sample-3"]
    assert "All 2 of them." in page.text
    for sample in (CHOSEN, OTHER):
        assert trace_sample(tables, sample) in page.text


def test_a_page_holds_the_first_256():
    tables = make_tables()
    n = MOST + 1
    sample = tables["prompts"].iloc[[0] * n]
    tables["prompts"] = sample.assign(sample_id=range(100, 100 + n))
    tables["curriculum"] = pd.DataFrame(
        {
            "position": range(n),
            "sample_id": range(100, 100 + n),
            "stage": 0,
            "mean_reward": 0.5,
        }
    )
    page = parsed(render(tables))
    assert page.ids == [f"sample-{100 + place}" for place in range(256)]
    assert "The first 256 of 257, to open at once." in page.text


def test_a_page_shows_markup_as_text():
    hostile = "</pre><script>alert(1)</script>\"' & &lt;"
    tables = make_tables(title=hostile, user=hostile, completion=hostile)
    tables["prompts"]["target_item_id"] = "a"
    page = parsed(render(tables))
    plain = parsed(render(make_tables()))
    assert page.tags == plain.tags
    assert page.text.count(hostile) > 3
    assert not page.tags & {"script", "img", "link", "iframe"}


@pytest.fixture
def catalog(tmp_path):
    return DataCatalog(
        {
            name: ParquetDataset(filepath=str(tmp_path / f"{name}.parquet"))
            for name in MADE_BY
            if name != "rankings"
        }
    )


def test_only_tables_that_exist_are_loaded(catalog):
    tables = make_tables()
    for name in ("items", "prompts"):
        catalog.save(name, tables[name])
    loaded = load_tables(catalog)
    assert loaded.keys() == {"items", "prompts"}
    assert trace_sample(loaded, CHOSEN).startswith("Sample 3 of the train split")


def test_a_table_that_cannot_be_read_is_named(catalog, tmp_path):
    (tmp_path / "rewards.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(InputError, match=r"rewards cannot be read \(.*\): make it"):
        load_tables(catalog)
