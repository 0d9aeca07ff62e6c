import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.cli.utils import _split_params
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from kedro_datasets.pandas import ParquetDataset
from pydantic import ValidationError

from minirec import schemas
from minirec.errors import InputError
from minirec.pipelines.score.params import LearnabilityParams, RepresentativenessParams
from minirec.pipelines.select import create_pipeline, nodes
from minirec.pipelines.select.params import PruneParams, SelectParams
from minirec.selection.pruning import Quantile
from minirec.settings import CONFIG_LOADER_ARGS


def params(**changes):
    whole = {
        "prune": {"too_easy": 0.9, "too_hard": 0.01, "min_spread": 0.001},
        "strategy": "minirec.selection.strategies.diverse",
        "size": 4,
        "compare": [
            "minirec.selection.strategies.highest_reward",
            "minirec.selection.strategies.longest_history",
        ],
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
def tables(scores):
    """What a strategy is given beside the candidates."""
    # of the kept samples 3, 5, 7, 8 those of tests/selection/test_diversity.py
    matrix = [[1, 1], [1, 0], [1, 1], [0.8, 0.6], [0, 1], [-1, 0], [1, 1]]
    both = {
        "sample_id": scores["sample_id"].to_numpy(),
        "matrix": np.array(matrix, np.float32),
    }
    prompts = pd.DataFrame(
        {
            "sample_id": scores["sample_id"],
            "split": "train",
            "user_id": "u",
            "target_item_id": "a",
            "history_item_id": [["a", "b"]] * 7,
            "seen_item_id": [["a"] * n for n in (9, 2, 9, 3, 1, 4, 9)],
        }
    )
    items = pd.DataFrame(
        {"item_id": ["a", "b"], "title": ["Alpha", "Beta"], "popularity": [7, 0]}
    )
    return {"prompts": prompts, "items": items, "gradients": both, "embeddings": both}


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the pipeline and returns what it wrote."""

    def run(scores, tables, select):
        inputs = {
            "scores": scores,
            **tables,
            "params:select.prune": select.prune,
            "params:select.strategy": select.strategy,
            "params:select.size": select.size,
            "params:select.compare": select.compare,
            "params:select.curriculum": select.curriculum,
            "params:score.learnability": LearnabilityParams(mu="auto", sigma=None),
            "params:score.representativeness": REPRESENTATIVE,
            "params:seed": 42,
        }
        names = ["candidates", "selection", "curriculum", "explanations"]
        paths = {name: str(tmp_path / f"{name}.parquet") for name in names}
        outputs = {name: ParquetDataset(filepath=path) for name, path in paths.items()}
        tables = {name: MemoryDataset(value) for name, value in inputs.items()}
        SequentialRunner().run(create_pipeline(), DataCatalog({**tables, **outputs}))
        return [outputs[name].load() for name in names]

    return run


REPRESENTATIVE = RepresentativenessParams(direction="mean")


def test_without_a_size_all_that_are_kept_are_chosen(run, scores, tables):
    random = "minirec.selection.strategies.random"
    _, selection, curriculum, _ = run(
        scores, tables, params(size=None, strategy=random)
    )
    assert sorted(selection["sample_id"]) == sorted(curriculum["sample_id"])
    assert sorted(selection["sample_id"]) == [3, 5, 7, 8]


def test_the_whole_way_worked_out_by_hand(run, scores, tables):
    candidates, selection, curriculum, explanations = run(scores, tables, params())

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

    schemas.Explanations.validate(explanations, lazy=True)
    assert explanations["sample_id"].tolist() == [5, 7, 8, 3]
    assert explanations["pick"].tolist() == [3, 1, 2, 0]
    # of sample 5 the nearest before is 3, of 7 and 8 also
    assert explanations["distance"].tolist()[:3] == pytest.approx([0.2, 1, 1])
    # mu = sum(r^2) / sum(r) = 1.4525 / 2.45, sigma their standard deviation, 0.292
    assert explanations["why"][0] == (
        "chosen as pick 4 of 4, with a value of 0.90 (rank 2 of 4 kept): mean reward "
        "0.4, below the mu of 0.593 at which samples teach most; its gradient agrees "
        "with the pool's mean more than 50% of the others; its history is 0.20 "
        "from the nearest chosen before; value x distance is 0.18, the largest of those "
        "left"
    )


def test_equal_seeds_give_equal_tables(run, scores, tables):
    drawn = params(strategy="minirec.selection.strategies.random", size=3)
    for first, second in zip(
        run(scores, tables, drawn), run(scores, tables, drawn), strict=True
    ):
        pd.testing.assert_frame_equal(first, second)


def test_more_picks_than_kept_samples(run, scores, tables):
    with pytest.raises(InputError, match=r"select.size is 5, and .* are 4 kept, "):
        run(scores, tables, params(size=5))


def test_pruning_that_leaves_nothing(run, scores, tables):
    prune = {"too_easy": None, "too_hard": 0.99, "min_spread": None}
    with pytest.raises(InputError, match=r"mean rewards run from 0 to 0\.95"):
        run(scores, tables, params(prune=prune))


def test_limits_that_are_quantiles_are_told(scores, caplog):
    caplog.set_level("INFO", logger="minirec")
    # the mean rewards are 0, 0.1, 0.2, 0.3, 0.4, 0.5 and 0.95
    limits = {"too_easy": {"quantile": 0.75}, "too_hard": 0.1, "min_spread": None}
    prune = PruneParams.model_validate(limits)
    candidates = nodes.prune_by_reward(scores, prune).set_index("sample_id")
    assert candidates["reason"][[2, 8, 9]].tolist() == [
        "too_easy",
        "too_easy",
        "too_hard",
    ]
    assert (candidates["reason"] == "kept").sum() == 4
    assert caplog.messages == [
        "prune_by_reward: too_easy is 0.45, the quantile 0.75",
    ]


# a limit as YAML holds it, and behind its name in --params
LIMITS = [({"quantile": 0.2}, ".quantile=0.2"), (0.3, "=0.3"), (None, "=null")]


@pytest.mark.parametrize(("given", "option"), LIMITS)
@pytest.mark.parametrize(("base", "_"), LIMITS)
@pytest.mark.parametrize("by_option", [True, False])
def test_any_limit_takes_the_place_of_any_other(
    tmp_path, base, _, given, option, by_option
):
    def write(env, too_hard):
        prune = {"too_easy": None, "too_hard": too_hard, "min_spread": None}
        (tmp_path / env).mkdir()
        path = tmp_path / env / "parameters.yml"
        path.write_text(yaml.safe_dump({"select": {"prune": prune}}))

    write("base", base)
    write("local", base if by_option else given)
    params = f"select.prune.too_hard{option}" if by_option else ""
    loader = OmegaConfigLoader(
        str(tmp_path),
        runtime_params=_split_params(None, None, params),
        **CONFIG_LOADER_ARGS,
    )
    found = PruneParams.model_validate(loader["parameters"]["select"]["prune"])
    expected = given if not isinstance(given, dict) else Quantile(0.2)
    assert found.too_hard == expected
    # the record beside a table keeps it as YAML would
    assert found.model_dump(mode="json")["too_hard"] == given


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
    scores, tables, monkeypatch, answer, message
):
    monkeypatch.setattr(nodes, "function_at", lambda *_: lambda *_: answer)
    candidates = nodes.prune_by_reward(scores, params().prune)
    path = params().strategy
    with pytest.raises(InputError, match=f"select.strategy minirec.*{message}"):
        nodes.select_samples(candidates, **tables, strategy=path, size=4, seed=0)


def test_strategies_choose_of_the_same_kept_samples(scores, tables):
    candidates = nodes.prune_by_reward(scores, params().prune)
    picks = nodes.compare_strategies(
        candidates, **tables, compare=params().compare, size=2, seed=0
    )

    schemas.StrategyPicks.validate(picks, lazy=True)
    first, second = params().compare
    assert picks.to_dict("list") == {
        "strategy": [first, first, second, second],
        "position": [0, 1, 0, 1],
        "sample_id": [8, 5, 8, 5],
    }


def test_without_strategies_to_compare_the_table_is_empty(scores, tables):
    candidates = nodes.prune_by_reward(scores, params().prune)
    picks = nodes.compare_strategies(candidates, **tables, compare=[], size=2, seed=0)

    schemas.StrategyPicks.validate(picks, lazy=True)
    assert picks.empty


def test_the_strategy_that_fails_is_named(scores, tables, monkeypatch):
    monkeypatch.setattr(nodes, "function_at", lambda *_: lambda *_: [3])
    candidates = nodes.prune_by_reward(scores, params().prune)
    with pytest.raises(
        InputError, match=r"select\.compare minirec\.\S+reward returned"
    ):
        nodes.compare_strategies(
            candidates, **tables, compare=params().compare, size=2, seed=0
        )


def test_the_answer_of_an_order_is_checked(run, scores, tables, monkeypatch):
    _, selection, *_ = run(scores, tables, params())
    monkeypatch.setattr(nodes, "function_at", lambda *_: lambda ids, *_: ids[:2])
    with pytest.raises(InputError, match=r"select.curriculum.order .* 4 sample ids"):
        nodes.stage_curriculum(selection, scores, params().curriculum, seed=0)


def test_a_selection_from_another_pool_is_refused(run, scores, tables):
    _, selection, *_ = run(scores, tables, params())
    with pytest.raises(InputError, match="selection holds samples that scores"):
        nodes.stage_curriculum(selection, scores.iloc[:3], params().curriculum, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size"),
        ({"sise": 3}, "sise"),
        ({"strategy": "no.such"}, "select.strategy is 'no.such'"),
        ({"compare": ["no.such"]}, "select.compare is 'no.such'"),
        ({"compare": ["math.pi"]}, "select.compare is 'math.pi'"),
        (
            {"compare": ["math.exp", "math.log", "math.exp"]},
            "select.compare names math.exp 2 times",
        ),
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
            {
                "prune": {
                    "too_easy": {"quantile": 0.1},
                    "too_hard": {"quantile": 0.2},
                    "min_spread": None,
                }
            },
            r"too_easy \(quantile 0.1\) is below .*too_hard \(quantile 0.2\)",
        ),
        *(
            (
                {"prune": {"too_easy": limit, "too_hard": None, "min_spread": None}},
                r"select.prune.too_easy is .*: give a mean reward, or {quantile: 0.9}",
            )
            for limit in ({"quantile": 1.5}, {"quantil": 0.9}, {}, "hard")
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
        (
            "select.strategy",
            {"prune_by_reward", "compare_strategies"},
        ),
        ("select.size", {"prune_by_reward"}),
        (
            "select.compare",
            {
                *("prune_by_reward", "select_samples", "stage_curriculum"),
                *("plot_rewards", "plot_selection", "plot_embeddings"),
                *("plot_curriculum", "explain_picks"),
            },
        ),
        (
            "select.curriculum",
            {
                *("prune_by_reward", "select_samples", "compare_strategies"),
                *("plot_rewards", "plot_selection", "plot_overlap", "plot_embeddings"),
            },
        ),
    ],
)
def test_a_parameter_leaves_alone_what_does_not_use_it(parameter, untouched):
    pipeline = create_pipeline()
    rest = pipeline - pipeline.from_inputs(f"params:{parameter}")
    assert {node.name for node in rest.nodes} == untouched


def test_the_figure_draws_a_quantile_where_it_lies(scores):
    prune = PruneParams(too_easy=None, too_hard={"quantile": 0.5}, min_spread=None)
    candidates = nodes.prune_by_reward(scores, prune)
    selection = candidates.head(1).assign(position=0)
    learnability = LearnabilityParams(mu=0.25, sigma=None)
    figure = nodes.plot_rewards(candidates, selection, prune, learnability)
    assert [line.x0 for line in figure.layout.shapes] == [
        scores["mean_reward"].median(),
        0.25,
    ]
