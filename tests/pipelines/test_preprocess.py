import re
import shutil

import ibis
import pandas as pd
import pytest
from pydantic import ValidationError

from minirec.datasets.files import HTMLDataset
from minirec.pipelines.preprocess import create_pipeline, nodes
from minirec.pipelines.preprocess.params import PreprocessParams
from minirec.policy import prompts
from minirec.schemas import Items, Leakage

FILTER = {"min_rating": None, "since": None, "until": None, "untitled": "fail"}


def params(**changes):
    base = {
        "filter": FILTER,
        "k_core": 2,
        "window": 2,
        "split": {
            "method": "leave_last_out",
            "pretrain": 0.0,
            "valid": 0.1,
            "test": 0.1,
            "ties": "item_id",
        },
        "item_text": "{title}. {description}",
        "pool": {"train": None, "valid": 0, "test": 1},
    }
    return PreprocessParams.model_validate({**base, **changes})


@pytest.fixture
def connection():
    return ibis.duckdb.connect()


RAW_ITEMS = pd.DataFrame(
    {
        "item_id": [1, 2, 3, 4, 5],
        "title": ["Up &amp; Away", "Big", "Heat", "Alien", "Jaws"],
        "genre": ["Comedy", None, "Crime", None, None],
    }
)


def prepared(raw, raw_items=RAW_ITEMS, **changes):
    """Prepare interactions in an engine of their own."""
    connection = ibis.duckdb.connect()
    tables = [connection.create_table("raw", raw)]
    tables.append(connection.create_table("items", raw_items))
    given = params(filter={**FILTER, **changes})
    return nodes.prepare_interactions(*tables, given.filter, 2, given.split).execute()


@pytest.fixture
def interactions(connection):
    """Two users who watched 1 to 4 in this order, and a third who watched 5."""
    raw = [(user, item, item) for user in ("a", "b") for item in (1, 2, 3, 4)]
    columns = ["user_id", "item_id", "timestamp"]
    table = pd.DataFrame([*raw, ("c", 5, 5)], columns=columns)
    return connection.create_table("interactions", prepared(table))


@pytest.fixture
def items(connection, interactions):
    table = connection.create_table("raw_items", RAW_ITEMS)
    return nodes.prepare_items(table, interactions, "{title} ({genre})")


def test_items_are_those_of_the_interactions(items):
    assert Items.validate(items).to_dict("list") == {
        "item_id": ["1", "2", "3", "4"],
        "title": ["Up & Away", "Big", "Heat", "Alien"],
        "text": ["Up & Away (Comedy)", "Big", "Heat (Crime)", "Alien"],
        "popularity": [2, 2, 0, 0],
    }


EVENTS = pd.DataFrame(
    [
        (user, item, 1.0 + item, 86_400.0 * item)
        for user in ("a", "b")
        for item in (1, 2, 3, 4)
    ],
    columns=["user_id", "item_id", "rating", "timestamp"],
)


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, ["1", "2", "3", "4"]),
        ({"min_rating": 3}, ["2", "3", "4"]),
        ({"since": "1970-01-03"}, ["2", "3", "4"]),
        ({"until": "1970-01-05"}, ["1", "2", "3"]),
    ],
)
def test_parameters_say_which_interactions_count(changes, left):
    found = prepared(EVENTS, **changes)
    assert found.groupby("user_id")["item_id"].agg(list).to_dict() == {
        "a": left,
        "b": left,
    }


def test_an_item_of_which_the_template_writes_nothing_goes_by_its_title(
    connection, interactions
):
    table = connection.create_table("more", RAW_ITEMS)
    found = nodes.prepare_items(table, interactions, "{genre}")
    assert found["text"].tolist() == ["Comedy", "Big", "Crime", "Alien"]


def test_interactions_with_untitled_items_can_be_dropped():
    items = RAW_ITEMS.assign(title=["Up", None, "Heat", "Alien", "Jaws"])
    found = prepared(EVENTS, items, untitled="drop")
    assert sorted(set(found["item_id"])) == ["1", "3", "4"]


def test_days_between_which_none_lies_are_refused():
    with pytest.raises(ValidationError, match=r"filter.since is 2020-01-02, and until"):
        params(filter={**FILTER, "since": "2020-01-02", "until": "2020-01-02"})


def test_another_order_of_equal_times_is_refused():
    split = {"method": "time", "pretrain": 0.0, "valid": 0.1, "test": 0.1}
    with pytest.raises(ValidationError, match="Input should be 'item_id' or 'random'"):
        params(split={**split, "ties": "title"})


def test_leakage_is_counted_by_split(interactions):
    samples = nodes.build_samples(interactions, 2)
    found = Leakage.validate(nodes.report_leakage(samples))
    # both users choose alike: their last items are nobody's to train on
    assert found.to_dict("records") == [
        {
            "split": split,
            "samples": 2,
            "seen_targets": 0,
            "early_targets": 0,
            "new_targets": 2,
        }
        for split in ("test", "valid")
    ]


def test_the_pools_of_train_and_test_are_rendered(
    interactions, items, policy_params, monkeypatch
):
    prompt = policy_params.prompt
    samples = nodes.build_samples(interactions, 2)
    monkeypatch.setattr(prompts, "render_prompts", lambda *given: given)
    drawn, *rest = nodes.render_prompts(
        samples, interactions, items, "model", params().pool, prompt, 16, 0, "text"
    )
    assert rest[0] is items
    assert rest[1:] == ["model", prompt, 16]
    train = drawn[drawn["split"] == "train"]
    assert train.to_dict("list") == {
        "sample_id": [0, 3],
        "split": ["train", "train"],
        "draw": [0, 1],
        "user_id": ["a", "b"],
        "timestamp": [2.0, 2.0],
        "target_item_id": ["2", "2"],
        "history_item_id": [["1"], ["1"]],
        "seen_item_id": [["1"], ["1"]],
    }
    test = drawn[drawn["split"] == "test"]
    assert test["sample_id"].isin([2, 5]).tolist() == [True]
    assert test["history_item_id"].tolist() == [["2", "3"]]
    assert test["seen_item_id"].tolist() == [["1", "2", "3"]]
    assert len(drawn) == 3


def test_a_line_knows_when_its_item_was_chosen(
    interactions, items, policy_params, policy_model
):
    rated = interactions.mutate(
        rating=interactions.item_id.cast("float64") / 2,
        timestamp=interactions.timestamp * 3600,
    )
    samples = nodes.build_samples(rated, 2)
    prompt = policy_params.prompt.model_copy(
        update={"item": "{time} ago, {rating}: {title}"}
    )

    table = nodes.render_prompts(
        samples, rated, items, policy_model, params().pool, prompt, 16, 0, "text"
    )

    (text,) = table.loc[table["split"] == "test", "prompt"]
    assert "\n2h 0min ago, 1: Big\n1h 0min ago, 1.5: Heat\n" in text


def test_five_prompts_are_shown_by_length(tmp_path):
    lengths = [10, 70, 20, 60, 30, 50, 40, 80, 90]
    table = pd.DataFrame(
        {
            "sample_id": range(9),
            "split": "train",
            "n_tokens": lengths,
            "prompt": [f"<|start|>user\n{n} *" for n in lengths],
            "target_item_id": "a",
        }
    )
    items = pd.DataFrame({"item_id": ["a"], "title": ["<b>Heat</b>"]})

    page = nodes.show_prompts(table, items)

    found = [page.index(f"{n} tokens") for n in (10, 30, 50, 70, 90)]
    assert found == sorted(found)
    assert page.count(" tokens</h2>") == 5
    assert "&lt;|start|&gt;user\n10 *" in page
    assert "&lt;b&gt;Heat&lt;/b&gt;" in page
    dataset = HTMLDataset(filepath=str(tmp_path / "page.html"))
    dataset.save(page)
    assert str(dataset.preview()).count(" tokens</h2>") == 5


def test_an_edited_template_makes_prompts_stale(test_run, kedro, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(test_run.path, project)
    template = project / "conf" / "prompts" / "titles.txt"

    def run(*args):
        done = kedro(project, "run", "--env", "test", *args)
        return " ".join((done.stdout + done.stderr).split())

    template.write_text(f"# another comment\n{template.read_text()}")
    again = run("--pipelines", "preprocess", "--only-missing-outputs")
    assert re.search(r"(\d+) of \1 datasets are up to date", again)

    template.write_text(template.read_text().replace("I watched:", "I saw:"))
    assert (
        "`prompts` is stale: params:policy.prompt.user was I watched: {history} Which "
        "movie should I watch next?, is I saw: {history} Which movie should I watch "
        "next?. Run `kedro run --pipelines preprocess --only-missing-outputs --env "
        "test`." in run("--pipelines", "score")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"k_core": 0},
        {"window": 0},
        {"filter": {**FILTER, "untitled": "keep"}},
        {"filter": {**FILTER, "since": "in May"}},
        {"windows": 3},
        {"split": {"method": "random", "valid": 0.1, "test": 0.1}},
        {"split": {"method": "time", "valid": 0.0, "test": 0.1}},
        {"pool": {"train": 0, "valid": 0, "test": None}},
    ],
)
def test_parameters_out_of_bounds_are_refused(changes):
    (name,) = changes
    with pytest.raises(ValidationError, match=name):
        params(**changes)


OF_PROMPTS = {"render_prompts", "show_prompts", "plot_prompts"}


@pytest.mark.parametrize(
    ("parameter", "touched"),
    [
        ("preprocess.item_text", {"prepare_items", *OF_PROMPTS}),
        ("preprocess.window", {"build_samples", "report_leakage", *OF_PROMPTS}),
        ("preprocess.pool", OF_PROMPTS),
        ("policy.prompt", OF_PROMPTS),
        ("policy.sampling.max_new_tokens", OF_PROMPTS),
    ],
)
def test_a_parameter_touches_what_uses_it(parameter, touched):
    part = create_pipeline().from_inputs(f"params:{parameter}")
    assert {node.name for node in part.nodes} == touched
