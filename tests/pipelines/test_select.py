import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from kedro_datasets.pandas import ParquetDataset
from pydantic import ValidationError

from minirec import schemas
from minirec.errors import InputError
from minirec.pipelines.select import create_pipeline, nodes
from minirec.pipelines.select.params import SelectParams


def params(**changes):
    whole = {
        "prune": {"too_easy": 0.9, "too_hard": 0.01, "min_spread": 0.001},
        "strategy": "minirec.selection.strategies.diverse",
        "size": 4,
        "curriculum": {
            "order": "minirec.selection.curriculum.order_in_groups",
            "n_stages": 2,
        },
    }
    return SelectParams.model_validate({**whole, **changes})


@pytest.fixture
def scores():
    # sample 2 is solved, 9 never is, and the rollouts of 4 all earn the same
    return pd.DataFrame(
        {
            "sample_id": [2, 3, 4, 5, 7, 8, 9],
            "mean_reward": [0.95, 0.2, 0.3, 0.4, 0.1, 0.5, 0.0],
            "std_reward": [0.1, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1],
            "learnability": [0.5, 0.5, 0.5, 0.5, 0.3, 0.1, 0.1],
            "representativeness": [0.9, 0.5, 0.5, 0.4, 0.2, 0.1, 0.1],
            "value": [1.4, 1.0, 1.0, 0.9, 0.5, 0.2, 0.2],
        }
    )


@pytest.fixture
def embeddings(scores):
    # of the kept samples 3, 5, 7, 8 those of tests/selection/test_diversity.py
    matrix = [[1, 1], [1, 0], [1, 1], [0.8, 0.6], [0, 1], [-1, 0], [1, 1]]
    return {
        "sample_id": scores["sample_id"].to_numpy(),
        "matrix": np.array(matrix, np.float32),
    }


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the pipeline and returns what it wrote."""

    def run(scores, embeddings, select):
        inputs = {
            "scores": scores,
            "embeddings": embeddings,
            "params:select.prune": select.prune,
            "params:select.strategy": select.strategy,
            "params:select.size": select.size,
            "params:select.curriculum": select.curriculum,
            "params:seed": 42,
        }
        names = ["candidates", "selection", "curriculum"]
        paths = {name: str(tmp_path / f"{name}.parquet") for name in names}
        outputs = {name: ParquetDataset(filepath=path) for name, path in paths.items()}
        tables = {name: MemoryDataset(value) for name, value in inputs.items()}
        SequentialRunner().run(create_pipeline(), DataCatalog({**tables, **outputs}))
        return [outputs[name].load() for name in names]

    return run


def test_the_whole_way_worked_out_by_hand(run, scores, embeddings):
    candidates, selection, curriculum = run(scores, embeddings, params())

    schemas.Candidates.validate(candidates, lazy=True)
    assert dict(zip(candidates["sample_id"], candidates["reason"], strict=True)) == {
        2: "too_easy",
        3: "kept",
        4: "no_spread",
        5: "kept",
        7: "kept",
        8: "kept",
        9: "too_hard",
    }

    schemas.Selection.validate(selection, lazy=True)
    assert selection.to_dict("list") == {
        "position": [0, 1, 2, 3],
        "sample_id": [3, 7, 8, 5],
        "value": [1.0, 0.5, 0.2, 0.9],
    }

    # Random(42) shuffles [3, 5, 7, 8] to [7, 5, 8, 3]; two groups of two
    schemas.Curriculum.validate(curriculum, lazy=True)
    assert curriculum.to_dict("list") == {
        "position": [0, 1, 2, 3],
        "sample_id": [5, 7, 8, 3],
        "stage": [0, 0, 1, 1],
        "mean_reward": [0.4, 0.1, 0.5, 0.2],
    }


def test_equal_seeds_give_equal_tables(run, scores, embeddings):
    drawn = params(strategy="minirec.selection.strategies.random", size=3)
    for first, second in zip(
        run(scores, embeddings, drawn), run(scores, embeddings, drawn), strict=True
    ):
        pd.testing.assert_frame_equal(first, second)


def test_more_picks_than_kept_samples(run, scores, embeddings):
    with pytest.raises(InputError, match=r"select.size asks for 5 .* candidates \(4\)"):
        run(scores, embeddings, params(size=5))


def test_pruning_that_leaves_nothing(run, scores, embeddings):
    prune = {"too_easy": None, "too_hard": 0.99, "min_spread": None}
    with pytest.raises(InputError, match=r"mean rewards run from 0 to 0\.95"):
        run(scores, embeddings, params(prune=prune))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([3, 5, 7], r"shape \(3,\) .* must return 4 sample ids"),
        ([3.0, 5, 7, 8], "type float64"),
        (None, r"shape \(\)"),
        ([3, 5, 5, 8], "1 repeated"),
        ([3, 5, 7, 2], "returned sample 2, which was not among those given"),
    ],
)
def test_the_answer_of_a_strategy_is_checked(
    scores, embeddings, monkeypatch, answer, message
):
    monkeypatch.setattr(nodes, "function_at", lambda *_: lambda *_: answer)
    candidates = nodes.prune_by_reward(scores, params().prune)
    path = params().strategy
    with pytest.raises(InputError, match=f"select.strategy minirec.*{message}"):
        nodes.select_diverse(candidates, embeddings, path, size=4, seed=0)


def test_the_answer_of_an_order_is_checked(run, scores, embeddings, monkeypatch):
    _, selection, _ = run(scores, embeddings, params())
    monkeypatch.setattr(nodes, "function_at", lambda *_: lambda ids, *_: ids[:2])
    with pytest.raises(InputError, match=r"select.curriculum.order .* 4 sample ids"):
        nodes.stage_curriculum(selection, scores, params().curriculum, seed=0)


def test_a_selection_from_another_pool_is_refused(run, scores, embeddings):
    _, selection, _ = run(scores, embeddings, params())
    with pytest.raises(InputError, match="selection holds samples that scores"):
        nodes.stage_curriculum(selection, scores.iloc[:3], params().curriculum, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size"),
        ({"sise": 3}, "sise"),
        ({"strategy": "no.such"}, "select.strategy is 'no.such'"),
        ({"size": 1}, "select.curriculum.n_stages is 2 for select.size 1"),
        (
            {"curriculum": {"order": "math.pi", "n_stages": 1}},
            "select.curriculum.order is 'math.pi'",
        ),
        (
            {"prune": {"too_easy": 0.1, "too_hard": 0.2, "min_spread": None}},
            r"select.prune.too_easy \(0.1\) is below select.prune.too_hard \(0.2\)",
        ),
        (
            {"prune": {"too_easy": None, "too_hard": None, "min_spread": -1}},
            "min_spread",
        ),
    ],
)
def test_wrong_parameters_are_refused_before_any_node_runs(changes, message):
    with pytest.raises(ValidationError, match=message):
        params(**changes)


def test_the_parameters_of_the_project_are_valid(parameters):
    SelectParams.model_validate(parameters["select"])


@pytest.mark.parametrize(
    ("parameter", "untouched"),
    [
        ("select.prune", set()),
        ("select.strategy", {"prune_by_reward"}),
        ("select.size", {"prune_by_reward"}),
        (
            "select.curriculum",
            {
                *("prune_by_reward", "select_diverse"),
                *("plot_rewards", "plot_selection", "plot_embeddings"),
            },
        ),
    ],
)
def test_a_parameter_leaves_alone_what_does_not_use_it(parameter, untouched):
    pipeline = create_pipeline()
    rest = pipeline - pipeline.from_inputs(f"params:{parameter}")
    assert {node.name for node in rest.nodes} == untouched
