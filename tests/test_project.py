"""The whole way, as a user runs it, in the environment ``test``."""

import re
import shutil
from html import unescape
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from minirec.pipelines.select import nodes
from minirec.reporting.page import NO_BREAK
from minirec.reporting.picks import explain_picks, say_what_decided
from minirec.reporting.summary import METHODS
from minirec.selection.strategies import TIMES_DISTANCE

TABLES = {
    "02_intermediate": ["interactions", "items"],
    "03_primary": ["samples", "prompts"],
    "04_feature": ["rollouts", "rewards", "learnability", "representativeness"],
    "05_model_input": ["scores", "candidates", "selection", "curriculum"],
    "06_models": ["consumed"],
    "07_model_output": ["rankings"],
}
MATRICES = {
    "04_feature": ["item_embeddings", "gradients", "embeddings"],
    "06_models": [
        f"{name}_adapter/adapter_model" for name in ("initial", "proxy", "policy")
    ],
}


def table(run, name):
    layer = next(layer for layer, names in TABLES.items() if name in names)
    return pd.read_parquet(run.path / "data" / "test" / layer / f"{name}.parquet")


def test_every_sample_of_the_pool_is_scored_once(test_run, parameters):
    prompts = table(test_run, "prompts")
    pool = prompts.loc[prompts["split"] == "train", "sample_id"]
    assert len(pool) == parameters["preprocess"]["pool"]["train"]
    assert sorted(table(test_run, "scores")["sample_id"]) == sorted(pool)
    rollouts = table(test_run, "rollouts").groupby("sample_id").size()
    assert set(rollouts) == {parameters["score"]["probe"]["rollouts"]}
    assert sorted(rollouts.index) == sorted(pool)


def test_no_prompt_tells_what_is_asked(test_run):
    """Neither the target nor anything after it stands in a prompt's history."""
    interactions = table(test_run, "interactions").set_index(["user_id", "item_id"])
    samples = table(test_run, "samples").set_index("sample_id")
    for prompt in table(test_run, "prompts").itertuples():
        position = samples["position"][prompt.sample_id]
        for item in prompt.history_item_id:
            assert interactions["position"][prompt.user_id, item] < position


def test_only_what_was_kept_is_selected(test_run, parameters):
    candidates = table(test_run, "candidates")
    kept = candidates.loc[candidates["reason"] == "kept", "sample_id"]
    selection = table(test_run, "selection")
    assert len(selection) == parameters["select"]["size"]
    assert set(selection["sample_id"]) <= set(kept)
    assert set(table(test_run, "curriculum")["sample_id"]) == set(
        selection["sample_id"]
    )


def test_the_stages_go_from_easy_to_hard(test_run):
    stages = table(test_run, "curriculum").groupby("stage")["mean_reward"]
    for easier, harder in pairwise(sorted(stages.groups)):
        assert stages.min()[easier] >= stages.max()[harder]


def test_training_consumed_the_curriculum_to_its_last_prompt(test_run):
    curriculum = table(test_run, "curriculum").sort_values("position")
    consumed = table(test_run, "consumed").sort_values("position")
    own = consumed.loc[~consumed["padding"], "sample_id"]
    assert own.tolist() == curriculum["sample_id"].tolist()
    last = curriculum.loc[curriculum["stage"] == curriculum["stage"].max(), "sample_id"]
    assert set(consumed.loc[consumed["padding"], "sample_id"]) <= set(last)


def test_rankings_leave_out_what_the_user_has_seen(test_run):
    seen = table(test_run, "prompts").set_index("sample_id")["seen_item_id"]
    rankings = table(test_run, "rankings")
    assert set(rankings["method"]) == set(METHODS)
    for row in rankings.itertuples():
        assert not set(row.top_item_id) & set(seen[row.sample_id])


def test_metrics_are_the_means_of_the_rankings(test_run, parameters):
    metrics = pd.read_csv(test_run.path / "data/test/08_reporting/metrics.csv")
    rankings = table(test_run, "rankings")
    for row in metrics[metrics["metric"] == "hr@10"].itertuples():
        rank = rankings.loc[rankings["method"] == row.method, "rank"]
        assert row.mean == pytest.approx((rank < 10).mean())
        assert row.low <= row.mean <= row.high
        assert row.samples == parameters["preprocess"]["pool"]["test"]


def test_equal_seeds_give_equal_tables(test_run, copy_project, kedro):
    again = copy_project()
    done = kedro(again, "run", "--env", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    for layer, names in TABLES.items():
        for name in names:
            file = f"data/test/{layer}/{name}.parquet"
            pd.testing.assert_frame_equal(
                pd.read_parquet(test_run.path / file), pd.read_parquet(again / file)
            )
    for layer, names in MATRICES.items():
        for name in names:
            file = f"data/test/{layer}/{name}.safetensors"
            one, same = load_file(test_run.path / file), load_file(again / file)
            assert one.keys() == same.keys()
            assert all((one[key] == same[key]).all() for key in one)


def test_threads_find_what_one_process_finds(test_run, copy_project, kedro):
    threaded = copy_project()
    done = kedro(threaded, "run", "--env", "test", "--runner", "ThreadRunner")
    assert done.returncode == 0, done.stdout + done.stderr
    for file in ("05_model_input/scores.parquet", "08_reporting/metrics.csv"):
        read = pd.read_parquet if file.endswith("parquet") else pd.read_csv
        one, other = (
            read(path / "data/test" / file) for path in (test_run.path, threaded)
        )
        pd.testing.assert_frame_equal(one, other)


def test_the_run_says_what_it_found_and_where_it_lies(test_run, parameters):
    said = " ".join(test_run.output.split())
    metrics = pd.read_csv(test_run.path / "data/test/08_reporting/metrics.csv")
    ndcg = metrics[metrics["metric"] == "ndcg@10"].set_index("method")["mean"]
    for method, name in METHODS.items():
        row, *compared = [
            line
            for line in test_run.output.splitlines()
            if line.strip().startswith(name)
        ]
        assert f" {ndcg[method]:.3f} [" in row
        assert len(compared) == (method != "trained")

    pool = parameters["preprocess"]["pool"]
    rollouts = pool["train"] * parameters["score"]["probe"]["rollouts"]
    assert f"scored {pool['train']} prompts by {rollouts} rollouts of " in said
    assert f"trained on {parameters['select']['size']} prompts in " in said
    assert f"ranked {pool['test']} prompts by 2 policies' answers" in said

    layers = "data/test/05_model_input", "data/test/08_reporting"
    assert f"tables {layers[0]}/selection.parquet, {layers[1]}/metrics.csv" in said
    assert f"figures {layers[1]}: in the report and kedro viz " in said
    assert "adapter data/test/06_models/policy_adapter: see docs/adapter.md" in said


def test_the_report_tells_the_run_and_what_it_took(test_run, parameters):
    assert "report   data/test/08_reporting/report.html: all of it" in test_run.output
    reporting = test_run.path / "data/test/08_reporting"
    page = unescape((reporting / "report.html").read_text())
    page = page.replace(' class="text"', "").replace(NO_BREAK, " ")
    metrics = pd.read_csv(reporting / "metrics.csv")
    for row in metrics[metrics["metric"] == "ndcg@10"].itertuples():
        assert f"{row.mean:.4f} [{row.low:.4f}, {row.high:.4f}]" in page
    explanations = pd.read_parquet(reporting / "explanations.parquet")
    assert len(explanations) == parameters["select"]["size"]
    for why in explanations["why"]:
        assert f"<div>C{why.removeprefix('c')}.</div>" in page
    # the nodes of this very run
    costs = pd.read_csv(reporting / "costs.csv").set_index("node")["seconds"]
    for node in ("train_proxy", "train_policy", "rank_items"):
        assert f"<td>{node}</td><td>{costs[node]:.3g}</td>" in page
    # here and in conf/base
    assert "<td>policy.lora.r</td><td>2</td><td>8</td>" in page


@pytest.mark.parametrize(("strategy", "column"), TIMES_DISTANCE.items())
def test_each_reason_names_the_largest_product_of_those_left(
    test_run, strategy, column
):
    tables = {name: table(test_run, name) for name in ("prompts", "items")}
    tables["candidates"] = candidates = table(test_run, "candidates")
    folder = test_run.path / "data/test/04_feature"
    tables["embeddings"] = embeddings = load_file(folder / "embeddings.safetensors")
    path = f"{strategy.__module__}.{strategy.__name__}"
    chosen = nodes.select_samples(
        **tables, gradients={}, strategy=path, size=10, seed=0
    )
    explained = explain_picks(
        **tables,
        selection=chosen,
        curriculum=chosen.assign(stage=0),
        mu=0.1,
        sigma=0.1,
        direction=None,
    )
    reasons = say_what_decided(explained, strategy).set_index("sample_id")["why"]

    kept = candidates[candidates["reason"] == "kept"].set_index("sample_id")
    rows = pd.DataFrame(embeddings["matrix"], embeddings["sample_id"], dtype=float)
    rows = rows.loc[kept.index]
    units = rows.div(np.linalg.norm(rows, axis=1), axis=0)
    first, *others = chosen["sample_id"]
    assert kept[column].idxmax() == first
    assert reasons[first].endswith(f"; it has the highest {column} of all kept")
    for n, sample in enumerate(others, start=1):
        before = chosen["sample_id"][:n]
        distance = (1 - units @ units.loc[before].T).min(axis=1)
        product = (kept[column] * distance).drop(before)
        # cosines are sums of 16 products, each of which is rounded by up to 1e-16
        assert product[sample] == pytest.approx(product.max(), abs=1e-14)
        said = re.search(
            rf"; {column} x distance is (\S+), the largest", reasons[sample]
        )
        assert float(said[1]) == pytest.approx(product.max(), abs=0.005)


def test_a_run_without_what_can_be_left_out_is_told_too(test_run, tmp_path, kedro):
    path = tmp_path / "project"
    shutil.copytree(test_run.path, path)
    (path / "conf/test/parameters_less.yml").write_text(
        "score: {gradients: null, representativeness: null}\n"
        "select: {compare: []}\n"
        "train_eval: {evaluation: {baselines: []}}\n"
        "experiment: {only: [random]}\n"  # others read gradients
    )
    done = kedro(path, "run", "--env", "test", "--only-missing-outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (path / "data/test/08_reporting/report.html").read_text()
    assert "does not count" in page
    assert "gradient agrees" not in page
    assert "represent\u00adativeness" not in page
    assert "No strategies to compare" not in page
    assert "beside no baseline" in page


def test_a_single_pipeline_runs_on_what_lies_there(test_run, kedro):
    done = kedro(test_run.path, "run", "--env", "test", "--pipelines", "select")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        "Wrote candidates, curriculum, curriculum_figure, embedding_figure, "
        "explanations, overlap_figure, reward_figure, selection, selection_figure, "
        "strategy_picks. Next: kedro run --pipelines train_eval --env test"
    )
