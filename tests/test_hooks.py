import copy
import math
import re
import subprocess
import sys
from itertools import pairwise, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pandas as pd
import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner, ThreadRunner
from kedro.validation.parameter_validator import ParameterValidator

from minirec import costs
from minirec.datasets.costs import CostsDataset
from minirec.datasets.table import TableDataset
from minirec.errors import InputError
from minirec.hooks import PARTS, CostHook, InputHook, SummaryHook, name_of
from minirec.parameters import check_parameters
from minirec.pipelines import experiment, preprocess, train_eval
from minirec.pipelines import score as scoring
from minirec.policy.params import PolicyParams
from minirec.settings import CONFIG_LOADER_ARGS

COLUMNS = [
    *("pipeline", "node", "datasets", "seconds", "peak_memory_gb"),
    *("tokens_generated", "tokens_trained", "tokens_read", "flops", "finished_at"),
]


def score(raw):
    return raw + 1


def select(scores):
    return scores * 2


def fail(scores):
    raise InputError("`select.size` is 3, but only 2 candidates are left; lower it.")


def make_catalog(folder: Path, names=("scores", "selection", "costs")) -> DataCatalog:
    def csv(name):
        return {
            "type": "pandas.CSVDataset",
            "filepath": (folder / "data" / f"{name}.csv").as_posix(),
            "save_args": {"index": False},
        }

    catalog = DataCatalog.from_config({name: csv(name) for name in names})
    catalog["raw"] = pd.DataFrame({"x": [1.0, 2.0]})
    return catalog


def run(pipeline, catalog, hook, runner=None, **run_params):
    """Run as `kedro run` does, with nothing but this hook."""
    manager = _create_hook_manager()
    manager.register(hook)
    about = {
        "run_params": {
            "pipeline_names": None,
            "env": "local",
            "runtime_params": {},
            "only_missing_outputs": False,
            "runner": "SequentialRunner",
        }
        | dict.fromkeys(PARTS)
        | run_params,
        "pipeline": pipeline,
        "catalog": catalog,
    }
    manager.hook.before_pipeline_run(**about)
    try:
        result = (runner or SequentialRunner()).run(pipeline, catalog, manager)
    except Exception as error:
        manager.hook.on_pipeline_error(error=error, **about)
        raise
    manager.hook.after_pipeline_run(run_result=result, **about)


score_node = node(score, "raw", "scores", name="score", tags="score")
select_node = node(select, "scores", "selection", name="select", tags="select")
fail_node = node(fail, "scores", "selection", name="select", tags="select")


def test_costs_hold_a_row_for_each_node(tmp_path):
    catalog = make_catalog(tmp_path)

    run(Pipeline([score_node, select_node]), catalog, CostHook())

    costs = catalog.load("costs")
    assert list(costs.columns) == COLUMNS
    assert costs["node"].tolist() == ["score", "select"]
    assert costs["pipeline"].tolist() == ["score", "select"]
    assert costs["datasets"].tolist() == ["scores", "selection"]
    assert (costs["seconds"] >= 0).all()
    assert (costs["peak_memory_gb"] > 0).all()
    assert pd.to_datetime(costs["finished_at"]).dt.tz is not None


def work(raw):
    costs.add(tokens_generated=1, tokens_trained=2, tokens_read=3, flops=4.5)
    return raw


def ask_a_server(scores):
    costs.add(tokens_generated=6, flops=math.nan)
    return scores


RUNNERS = [
    SequentialRunner(),
    SequentialRunner(is_async=True),
    ThreadRunner(max_workers=2),
]


@pytest.mark.parametrize("runner", RUNNERS)
def test_costs_hold_what_each_nodes_models_did(tmp_path, runner):
    catalog = make_catalog(tmp_path)
    first = node(work, "raw", "scores", name="score", tags="score")
    other = node(ask_a_server, "scores", "selection", name="select", tags="select")
    hook = CostHook()
    with pytest.raises(InputError):
        run(Pipeline([first, fail_node]), catalog, hook, runner)
    costs.add(tokens_read=1000)  # nobody's

    for pipeline in ([first, select_node], [other]):
        run(Pipeline(pipeline), catalog, hook, runner)

    kept = catalog.load("costs").set_index("node")[COLUMNS[5:-1]]
    assert kept.loc["score"].tolist() == [1, 2, 3, 4.5]
    assert kept.loc["select"].tolist()[:3] == [6, 0, 0]
    assert math.isnan(kept.loc["select", "flops"])


def tell(selection, costs):
    return costs.drop(columns="finished_at")


def work_in_parts(raw):
    for _ in range(3):
        costs.add(tokens_read=2)
        yield raw


# Kedro refuses such nodes where it loads and saves asynchronously
@pytest.mark.parametrize("runner", [SequentialRunner(), ThreadRunner(max_workers=2)])
def test_a_node_that_saves_in_parts_costs_what_all_of_them_did(tmp_path, runner):
    catalog = make_catalog(tmp_path)
    first = node(work_in_parts, "raw", "scores", name="score", tags="score")
    run(Pipeline([first, select_node]), catalog, CostHook(), runner)
    kept = catalog.load("costs").set_index("node")["tokens_read"]
    assert kept.to_dict() == {"score": 6, "select": 0}


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_node_that_reads_costs_is_told_what_this_run_took_so_far(tmp_path, runner):
    catalog = make_catalog(tmp_path, ("scores", "selection", "told", "costs"))
    catalog["costs"] = CostsDataset(
        filepath=str(tmp_path / "costs.csv"), save_args={"index": False}
    )
    first = node(work, "raw", "scores", name="score", tags="score")
    told = node(tell, ["selection", "costs"], "told", name="tell")
    hook = CostHook()
    pipeline = Pipeline([first, select_node, told])
    run(pipeline, catalog, hook, runner)
    before = catalog.load("told").set_index("node")
    assert before.index.tolist() == ["score", "select"]
    assert before.loc["score", "flops"] == 4.5

    run(Pipeline([select_node, told]), catalog, hook, runner)
    after = catalog.load("told").set_index("node")
    # its own are those of the run before
    assert after.index.tolist() == ["score", "select", "tell"]
    assert after.loc["score"].equals(before.loc["score"])
    kept = catalog.load("costs").set_index("node")
    assert after.loc["select", "seconds"] == kept.loc["select", "seconds"]


def stop(scores):
    raise KeyboardInterrupt


def test_a_run_that_is_stopped_keeps_the_costs_of_what_had_finished(tmp_path):
    catalog = make_catalog(tmp_path)
    stopped = node(stop, "scores", "selection", name="stop")
    hook = CostHook()
    with pytest.raises(KeyboardInterrupt):
        run(Pipeline([score_node, stopped]), catalog, hook)
    run(Pipeline([select_node]), catalog, hook)  # in the same kernel
    assert catalog.load("costs")["node"].tolist() == ["score", "select"]


def test_costs_that_are_saved_late_do_not_replace_newer_ones(tmp_path):
    catalog = make_catalog(tmp_path)
    run(Pipeline([score_node]), catalog, late := CostHook())
    for row in late._rows.values():
        row["finished_at"] = "2026-01-01T00:00:00+00:00"
    run(Pipeline([score_node]), catalog, CostHook())
    newer = catalog.load("costs")
    late._save(catalog)
    pd.testing.assert_frame_equal(catalog.load("costs"), newer)


def test_a_process_that_is_stopped_keeps_costs_as_it_ends(tmp_path):
    work = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_hooks import *
run(Pipeline([score_node, node(stop, "scores", "selection")]),
    make_catalog(Path({str(tmp_path)!r})), CostHook())
"""
    done = subprocess.run(
        [sys.executable, "-c", work], capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert make_catalog(tmp_path).load("costs")["node"].tolist() == ["score"]


def test_costs_of_another_version_begin_anew(tmp_path):
    catalog = make_catalog(tmp_path)
    catalog.save("costs", pd.DataFrame({"node": ["select"], "seconds": [1.0]}))

    run(Pipeline([score_node]), catalog, CostHook())

    assert catalog.load("costs")["node"].tolist() == ["score"]
    assert list(catalog.load("costs").columns) == COLUMNS


def test_a_node_that_runs_again_replaces_its_row_in_place(tmp_path):
    catalog = make_catalog(tmp_path)
    hook = CostHook()
    run(Pipeline([score_node, select_node]), catalog, hook)
    catalog.save("costs", catalog.load("costs").assign(seconds=[1000.0, 2000.0]))

    run(Pipeline([score_node]), catalog, hook)

    costs = catalog.load("costs").set_index("node")
    assert costs.index.tolist() == ["score", "select"]
    assert costs.loc["score", "seconds"] < 1000
    assert costs.loc["select", "seconds"] == 2000


def test_seconds_include_loading_and_saving(tmp_path, monkeypatch):
    now = iter([100.0, 103.5])
    monkeypatch.setattr("minirec.hooks.perf_counter", lambda: next(now))
    catalog = make_catalog(tmp_path)

    run(Pipeline([score_node]), catalog, CostHook())

    # read once before the input is loaded and once after the output is saved
    assert catalog.load("costs")["seconds"].tolist() == [3.5]
    assert next(now, None) is None


def test_each_node_is_named_once_as_it_starts(tmp_path, caplog):
    caplog.set_level("INFO", logger="minirec.hooks")

    run(Pipeline([score_node, select_node]), make_catalog(tmp_path), CostHook())

    said = [entry.message for entry in caplog.records if entry.name == "minirec.hooks"]
    assert said == ["score: score", "select: select"]


def test_a_failing_run_keeps_what_finished(tmp_path):
    catalog = make_catalog(tmp_path)

    with pytest.raises(InputError):
        run(Pipeline([score_node, fail_node]), catalog, CostHook())

    assert catalog.load("costs")["node"].tolist() == ["score"]


def test_threads_cost_each_node_once(tmp_path):
    catalog = make_catalog(tmp_path)

    run(Pipeline([score_node, select_node]), catalog, CostHook(), ThreadRunner())

    assert sorted(catalog.load("costs")["node"]) == ["score", "select"]


def test_without_costs_in_the_catalog_nothing_is_written(tmp_path):
    catalog = make_catalog(tmp_path, names=["scores"])

    run(Pipeline([score_node]), catalog, CostHook())

    assert [path.name for path in (tmp_path / "data").iterdir()] == ["scores.csv"]


def evaluate(selection):
    return pd.DataFrame(
        [("trained", f"{name}@10", 0.5, 0.25, 0.75, 2, 2) for name in ("hr", "ndcg")],
        columns=["method", "metric", "mean", "low", "high", "users", "samples"],
    )


def test_a_run_that_made_metrics_prints_them_and_the_places(tmp_path, capsys):
    catalog = make_catalog(tmp_path, ["scores", "selection", "metrics", "costs"])
    metrics_node = node(evaluate, "selection", "metrics", name="evaluate")
    pipeline = Pipeline([score_node, select_node, metrics_node])
    run(pipeline, catalog, CostHook())

    of_test = {"project_path": tmp_path.as_posix(), "env": "test"}
    run(pipeline, catalog, SummaryHook(), **of_test)

    printed = capsys.readouterr().out
    assert "0.500 [0.250, 0.750]" in printed
    assert "tables   data/selection.csv, data/metrics.csv" in printed
    assert "look     `kedro viz run --env test`: pipelines" in printed
    assert max(map(len, printed.splitlines())) <= 80


def prune(scores):
    return pd.DataFrame({"mean_reward": [0.2, 0.6], "reason": ["kept", "too_easy"]})


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_that_pruned_says_what_and_why(tmp_path, capsys, whole):
    names = ["scores", "candidates", "selection", "metrics", "costs"]
    catalog = make_catalog(tmp_path, names)
    pipeline = Pipeline(
        [
            score_node,
            node(prune, "scores", "candidates", name="prune"),
            node(select, "candidates", "selection", name="select"),
        ]
    )
    if whole:
        pipeline += Pipeline([node(evaluate, "selection", "metrics", name="evaluate")])

    run(pipeline, catalog, SummaryHook(), project_path=tmp_path.as_posix())

    lines = capsys.readouterr().out.splitlines()
    assert ["too", "easy", "1", "50.0%", "75.0%"] in [line.split() for line in lines]
    if not whole:
        assert lines[-1] == "Wrote candidates, scores, selection."


@pytest.mark.parametrize(
    ("run_params", "line"),
    [
        (
            {"pipeline_names": ["score"], "env": "test"},
            "Wrote scores. Next: kedro run --pipelines select --env test\n",
        ),
        ({"pipeline_names": ["score"], "to_nodes": ["score"]}, "Wrote scores.\n"),
        ({"pipeline_names": ["train_eval"]}, "Wrote scores.\n"),
        ({"pipeline_names": ["export"]}, "Wrote scores. Next: docs/export.md\n"),
        ({}, "Wrote scores.\n"),
    ],
)
def test_a_part_says_in_one_line_what_comes_next(tmp_path, capsys, run_params, line):
    pipeline = Pipeline([score_node])

    run(
        pipeline,
        make_catalog(tmp_path),
        SummaryHook(),
        project_path=tmp_path.as_posix(),
        **run_params,
    )

    assert capsys.readouterr().out == line


def chained(*errors):
    """Return the first error, each one caused by the next."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


class Loader(dict):
    """Configuration by its kind, as Kedro's loader gives it."""

    conf_source = "nowhere"
    config_patterns: ClassVar = {"catalog": ["catalog*", "catalog*/**", "**/catalog*"]}

    def __missing__(self, kind):
        return {}


def checked(parameters):
    """Return the parameters as Kedro has them after the hook."""
    loader = Loader(parameters=parameters, globals={})
    context = SimpleNamespace(config_loader=loader, env=None)
    InputHook().after_context_created(context=context)
    return loader["parameters"]


@pytest.mark.parametrize(("env", "told"), [("test", 1), ("local", 0), (None, 0)])
def test_an_environment_in_place_of_conf_local_is_told(
    parameters, tmp_path, caplog, env, told
):
    loader = Loader(parameters=parameters, globals={"data": "data/test"})
    loader.conf_source = str(tmp_path)
    context = SimpleNamespace(config_loader=loader, env=env)
    for name in ("base", "local"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "globals.yml").write_text("data: data\n")
    InputHook().after_context_created(context=context)
    assert "conf/local" not in caplog.text
    (tmp_path / "local" / "catalog.yml").touch()
    InputHook().after_context_created(context=context)
    said = f"conf/local is not read: --env {env} takes its place"
    assert caplog.text.count(said) == told


@pytest.mark.parametrize(
    "entries", ["catalog.yml", "catalog_own.yaml", "catalog/own.json"]
)
def test_an_environment_does_not_replace_the_tables_of_conf_local(
    parameters, tmp_path, entries
):
    loader = Loader(parameters=parameters, globals={"data": "data"})
    loader.conf_source = str(tmp_path)
    context = SimpleNamespace(config_loader=loader, env="ray")
    for name in ("base", "local"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "globals.yml").write_text("data: data\n")
    (tmp_path / "local" / "parameters.yml").touch()
    InputHook().after_context_created(context=context)
    (tmp_path / "local" / entries).parent.mkdir(exist_ok=True)
    (tmp_path / "local" / entries).touch()
    with pytest.raises(
        InputError, match=r"--env ray does not read, and .* lie in data:"
    ):
        InputHook().after_context_created(context=context)


def test_tables_of_ones_own_lie_in_the_engine_of_all_others(
    parameters, tmp_path, monkeypatch
):
    default = TableDataset.DEFAULT_CONNECTION_CONFIG
    monkeypatch.setattr(TableDataset, "DEFAULT_CONNECTION_CONFIG", default)
    engine = {"backend": "duckdb", "threads": 1}
    loader = Loader(parameters=parameters, globals={"connection": engine})
    context = SimpleNamespace(config_loader=loader, env=None)
    InputHook().after_context_created(context=context)
    dataset = TableDataset(filepath=str(tmp_path / "own.parquet"))
    found = dataset.connection.raw_sql("SELECT current_setting('threads')")
    assert found.fetchone() == (1,)


# `kedro run --pipelines` takes several in the order of a set
@pytest.mark.parametrize(
    "modules", list(permutations([preprocess, scoring, train_eval]))
)
def test_pipelines_in_any_order_take_a_group_whole_and_in_part(parameters, modules):
    validator = ParameterValidator({m.__name__: m.create_pipeline() for m in modules})
    policy = validator.validate_raw_params(checked(parameters))["policy"]
    assert policy == PolicyParams.model_validate(parameters["policy"])


def breaks(tables, k, seed):
    raise KeyError("column")


def test_a_strategy_that_would_fail_is_told_of_before_scoring(parameters, caplog):
    own = {**parameters["select"], "strategy": f"{__name__}.breaks"}
    loader = Loader(parameters={**parameters, "select": own}, globals={})
    hook = InputHook()
    hook.after_context_created(context=SimpleNamespace(config_loader=loader, env=None))
    asked = {"run_params": {"runner": "SequentialRunner"}}
    hook.before_pipeline_run(**asked, pipeline=preprocess.create_pipeline())
    assert "breaks" not in caplog.text
    hook.before_pipeline_run(**asked, pipeline=scoring.create_pipeline())
    said = f"select.strategy {__name__}.breaks failed: KeyError: 'column' (test_hooks"
    assert said in caplog.text


def test_data_are_called_as_the_catalog_or_the_parameters_do(parameters):
    def called(data=None):
        own = {**parameters["experiment"], "data": data}
        entry = {"filepath": "shop.csv", "metadata": {"kedro-viz": {}}}
        loader = Loader(parameters={**parameters, "experiment": own}, globals={})
        loader["catalog"] = {"raw_interactions": entry}
        context = SimpleNamespace(config_loader=loader, env=None)
        InputHook().after_context_created(context=context)
        return loader["parameters"]["experiment"].data

    assert called() == "shop.csv"
    assert called("Our shop") == "Our shop"


def test_the_default_data_have_a_name():
    conf = Path(__file__).parents[1] / "conf"
    loader = OmegaConfigLoader(str(conf), **CONFIG_LOADER_ARGS)
    assert name_of(loader["catalog"]["raw_interactions"]) == "MovieLens-100K"


def test_a_number_is_what_was_checked(parameters):
    given = {**parameters, "seed": "42", "mine": {"seed": "42"}}
    assert checked(given)["seed"] == 42
    assert checked(given)["mine"] == {"seed": "42"}


def test_a_run_that_a_launcher_multiplies_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match=r"one of 2 .*\.accelerate: \{num_processes: 2\}"
    ):
        InputHook().before_pipeline_run(
            run_params={"runner": "SequentialRunner"}, pipeline=Pipeline([])
        )


def test_arms_need_what_no_other_pipeline_does(parameters):
    whole = copy.deepcopy(parameters)
    # the arms of conf/base name strategies that read gradients
    whole["score"] |= {"representativeness": None, "gradients": None}
    whole["select"]["compare"] = ["minirec.selection.strategies.random"]
    hook = InputHook()
    loader = Loader(parameters=whole, globals={})
    hook.after_context_created(context=SimpleNamespace(config_loader=loader, env=None))
    runs = {"run_params": {"runner": "SequentialRunner"}}
    hook.before_pipeline_run(**runs, pipeline=scoring.create_pipeline())
    refused = (
        r"experiment\.arms\.gradient-norm, .* reads gradients, and score.gradients"
    )
    with pytest.raises(InputError, match=refused):
        hook.before_pipeline_run(**runs, pipeline=experiment.create_pipeline())


def test_an_input_error_is_raised_as_itself():
    cause = InputError("`scores` is empty; lower `preprocess.k_core`.")
    with pytest.raises(InputError) as raised:
        InputHook().on_pipeline_error(error=chained(DatasetError("wrapped"), cause))
    assert raised.value is cause


def test_what_a_dataset_refused_is_one_sentence_with_its_name():
    refused = chained(
        DatasetError("raw_items: a.csv does not exist."),
        DatasetError("a.csv does not exist."),
    )
    with pytest.raises(InputError, match=r"^raw_items: a\.csv does not exist\.$"):
        InputHook().on_pipeline_error(error=refused)


def test_a_full_disk_is_one_sentence():
    full = chained(
        DatasetError("scores: Failed while saving"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    )
    with pytest.raises(
        InputError, match=r"^scores cannot be written \(.*\): make room"
    ):
        InputHook().on_pipeline_error(error=full)


def test_a_full_disk_names_where_a_node_wrote():
    full = OSError(28, "No space left on device", "data/finished_batches")
    sentence = (
        "data/finished_batches cannot be written (No space left on device): make room, "
        "or let `data` in globals.yml name another folder; what had finished is kept, "
        "and the same `kedro run` with --only-missing-outputs goes on behind it"
    )
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        InputHook().on_pipeline_error(error=full)


def widen(scores):
    return pd.DataFrame({"x": range(10_000)})


def test_a_table_that_has_no_room_leaves_the_others(tmp_path, little_room, parameters):
    hook = InputHook()
    hook.checked = check_parameters(parameters)
    catalog = DataCatalog.from_config(
        {
            name: {
                "type": "minirec.datasets.files.CSVDataset",
                "filepath": str(tmp_path / f"{name}.csv"),
                "save_args": {"index": False},
            }
            for name in ("scores", "wide")
        }
    )
    catalog["raw"] = pd.DataFrame({"x": [1.0, 2.0]})
    wide = node(widen, "scores", "wide", name="widen")
    pipeline = Pipeline([score_node, wide])
    told = r"^wide cannot be written \(File too large\): make room"
    with little_room(20_000), pytest.raises(InputError, match=told):
        run(pipeline, catalog, hook)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]
    assert catalog.load("scores")["x"].tolist() == [2, 3]
    run(Pipeline([wide]), catalog, hook)
    assert len(catalog.load("wide")) == 10_000


def test_costs_that_have_no_room_do_not_hide_the_error(tmp_path, caplog, little_room):
    catalog = make_catalog(tmp_path, ["scores", "costs"])
    pipeline = Pipeline([score_node, fail_node])
    with little_room(20), pytest.raises(InputError, match=r"^`select\.size` is 3"):
        run(pipeline, catalog, CostHook())
    assert "costs of what had finished are not kept" in caplog.text


@pytest.mark.parametrize(
    "error",
    [ValueError("not ours"), chained(DatasetError("scores: ?"), OSError("disk"))],
)
def test_any_other_error_keeps_its_traceback(error):
    assert InputHook().on_pipeline_error(error=error) is None
