import ibis
import pandas as pd
import pytest
from pydantic import ValidationError

from minirec.pipelines.preprocess import create_pipeline, nodes
from minirec.pipelines.preprocess.params import PreprocessParams
from minirec.policy import prompts
from minirec.schemas import Items


def params(**changes):
    base = {
        "k_core": 2,
        "window": 2,
        "split": {"method": "leave_last_out", "valid": 0.1, "test": 0.1},
        "pool": {"train": None, "test": 1},
    }
    return PreprocessParams.model_validate({**base, **changes})


@pytest.fixture
def connection():
    return ibis.duckdb.connect()


@pytest.fixture
def interactions(connection):
    """Two users who watched 1 to 4 in this order, and a third who watched 5."""
    raw = [(user, item, item) for user in ("a", "b") for item in (1, 2, 3, 4)]
    columns = ["user_id", "item_id", "timestamp"]
    table = pd.DataFrame([*raw, ("c", 5, 5)], columns=columns)
    prepared = nodes.prepare_interactions(
        connection.create_table("raw_interactions", table), 2, params().split
    )
    return connection.create_table("interactions", prepared)


@pytest.fixture
def items(connection, interactions):
    raw = {"item_id": [1, 2, 3, 4, 5], "title": ["Up", "Big", "Heat", "Alien", "Jaws"]}
    table = connection.create_table("raw_items", pd.DataFrame(raw))
    return nodes.prepare_items(table, interactions)


def test_items_are_those_of_the_interactions(items):
    assert Items.validate(items).to_dict("list") == {
        "item_id": ["1", "2", "3", "4"],
        "title": ["Up", "Big", "Heat", "Alien"],
        "text": ["Up", "Big", "Heat", "Alien"],
        "popularity": [2, 2, 0, 0],
    }


def test_the_pools_of_train_and_test_are_rendered(interactions, items, monkeypatch):
    samples = nodes.build_samples(interactions, 2)
    monkeypatch.setattr(prompts, "render_prompts", lambda *given: given)
    drawn, *rest = nodes.render_prompts(
        samples, interactions, items, "model", params().pool, "prompt", 16, 0
    )
    assert rest[0] is items
    assert rest[1:] == ["model", "prompt", 16]
    train = drawn[drawn["split"] == "train"]
    assert train.to_dict("list") == {
        "sample_id": [0, 3],
        "split": ["train", "train"],
        "user_id": ["a", "b"],
        "target_item_id": ["2", "2"],
        "history_item_id": [["1"], ["1"]],
        "seen_item_id": [["1"], ["1"]],
    }
    test = drawn[drawn["split"] == "test"]
    assert test["sample_id"].isin([2, 5]).tolist() == [True]
    assert test["history_item_id"].tolist() == [["2", "3"]]
    assert test["seen_item_id"].tolist() == [["1", "2", "3"]]
    assert len(drawn) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"k_core": 0},
        {"window": 0},
        {"windows": 3},
        {"split": {"method": "random", "valid": 0.1, "test": 0.1}},
        {"split": {"method": "time", "valid": 0.0, "test": 0.1}},
        {"pool": {"train": 0, "test": None}},
    ],
)
def test_parameters_out_of_bounds_are_refused(changes):
    (name,) = changes
    with pytest.raises(ValidationError, match=name):
        params(**changes)


@pytest.mark.parametrize(
    ("parameter", "touched"),
    [
        ("preprocess.window", {"build_samples", "render_prompts"}),
        ("preprocess.pool", {"render_prompts"}),
        ("policy.prompt", {"render_prompts"}),
        ("policy.sampling.max_new_tokens", {"render_prompts"}),
    ],
)
def test_a_parameter_touches_what_uses_it(parameter, touched):
    part = create_pipeline().from_inputs(f"params:{parameter}")
    assert {node.name for node in part.nodes} == touched
