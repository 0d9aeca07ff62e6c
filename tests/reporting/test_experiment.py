import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from minirec.reporting import experiment
from minirec.reporting.page import NO_BREAK
from minirec.schemas import ExperimentComparisons, ExperimentMetrics, ExperimentRuns

ARMS = {  # ndcg@10, samples, flops
    "before": (0.08, 0, 0.0),
    "full": (0.085, 800, 2e12),
    "minirec-without-representativeness": (0.09, 100, 1e12),
    "random": (0.082, 100, 3e12),
    "<b>": (0.07, 100, 0.5e12),
}


@pytest.fixture
def metrics():
    rows = [
        (arm, metric, mean, mean - 0.01, mean + 0.01, 2, 900, 3000)
        for arm, (mean, *_) in ARMS.items()
        for metric in ("ndcg@10", "hr@10")
    ]
    columns = ["arm", "metric", "mean", "low", "high", "seeds", "users", "samples"]
    return ExperimentMetrics.validate(pd.DataFrame(rows, columns=columns))


@pytest.fixture
def runs():
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "setting": 0,
            "overrides": "select.size=100" if samples == 100 else None,
            "samples": samples,
            "pool": 800,
            "mean_reward": 0.01 * samples if samples else np.nan,
            "ndcg@10": mean + 0.001 * seed,
            "seconds": 10.0,
            "tokens_generated": 1,
            "tokens_trained": 2,
            "tokens_read": 3,
            "flops": flops,
        }
        for arm, (mean, samples, flops) in ARMS.items()
        for seed in (1, 2)
    ]
    return ExperimentRuns.validate(pd.DataFrame(rows))


@pytest.fixture
def comparisons():
    rows = [
        {
            "metric": "ndcg@10",
            "arm": arm,
            "other": other,
            "difference": ARMS[arm][0] - ARMS[other][0],
            "low": 0.001,
            "high": 0.01,
            "p_value": 0.0005,
            "p_holm": 0.0005,
            "verdict": "better" if arm.startswith("minirec") else "open",
            "seeds": 2,
            "users": 900,
            "samples": 3000,
        }
        for arm in ARMS
        for other in ARMS
        if arm != other
    ]
    return ExperimentComparisons.validate(pd.DataFrame(rows))


@pytest.fixture
def costs(runs):
    return runs[runs["samples"] > 0].assign(part="training")


def test_arms_come_from_the_best_to_the_worst_with_their_cost(metrics, runs):
    table = experiment.overview(metrics, runs)
    assert [name[:7] for name in table["arm"]] == [
        *("minirec", "full", "random", "before", "<b>")
    ]
    assert table["relative"].tolist() == [0.5, 1, 1.5, 0, 0.25]


def test_costs_are_seconds_where_flops_are_unknown(metrics, runs):
    runs["flops"] = np.nan
    assert experiment.cost_column(runs) == "seconds"
    assert experiment.overview(metrics, runs)["relative"].tolist() == [1] * 5
    figure = experiment.plot_cost(metrics, runs)
    assert figure.layout.xaxis.title.text.startswith("seconds")


def test_the_summary_fits_80_columns(metrics, comparisons, runs):
    console = Console(file=io.StringIO(), width=80)
    console.print(experiment.summary_table(metrics, comparisons, runs))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    said = [" ".join(line.split()) for line in lines]
    assert "5 arms on 2 seeds, 3,000 test samples of 900 users" in said
    # the long name goes on in the next line
    (own,) = [line for line in said if line.startswith("minirec")]
    assert own.endswith("0.0900 [0.0800, 0.1000] +0.0050* +0.0080* 50%")
    assert "full 0.0850 [0.0750, 0.0950] +0.0030 100%" in said
    assert "random 0.0820 [0.0720, 0.0920] -0.0030 150%" in said
    assert "before 0.0800 [0.0700, 0.0900] -0.0050 -0.0020 0%" in said


def test_without_the_whole_pool_there_is_no_share_of_it(metrics, comparisons, runs):
    metrics, runs = (table[table["arm"] != "full"] for table in (metrics, runs))
    console = Console(file=io.StringIO(), width=80)
    console.print(experiment.summary_table(metrics, comparisons, runs))
    assert "- full" not in console.file.getvalue()
    assert experiment.overview(metrics, runs)["relative"].isna().all()


def test_arms_stand_beside_the_whole_pool_or_else_the_policy_before(
    metrics, runs, comparisons
):
    seeds, means, *legend = experiment.plot_arms(metrics, runs, comparisons).data
    assert [trace.name for trace in legend] == [
        "MiniRec and its parts",
        "other ways to choose",
    ]
    assert list(means.y) == ["<b>", "before", "random", means.y[3]]
    assert list(means.x) == pytest.approx([-0.015, -0.005, -0.003, 0.005])
    assert set(seeds.y) == set(means.y)
    assert list(seeds.x) == pytest.approx(np.repeat([-0.005, 0.005, -0.003, -0.015], 2))
    metrics, runs = (table[table["arm"] != "full"] for table in (metrics, runs))
    figure = experiment.plot_arms(metrics, runs, comparisons)
    assert "beside before (0.0800)" in figure.layout.title.text
    assert "before" not in figure.data[1].y


def test_names_of_near_points_are_written_on_different_sides_or_not_at_all():
    x, means = pd.Series([1.0] * 9 + [9.0]), pd.Series([5.0] * 9 + [6.0])
    y = pd.DataFrame({"mean": means, "low": means, "high": means})
    others = [f"longest-history-{n}" for n in range(8)]
    names = pd.Series([*others, "minirec", "minirec-as-published"])
    texts, sides = experiment._names(x, y, names)
    written = [side for text, side in zip(texts, sides, strict=True) if text]
    assert texts[-2] == "minirec"  # which comes first
    assert "" in texts
    assert sides[-1].endswith("left")  # what lies at the right edge
    beside = [s for s in written[:-1] if not s.endswith("center")]
    assert len(set(beside)) == len(beside)


def test_figures_show_every_trained_arm(metrics, runs):
    figure = experiment.plot_samples(metrics, runs)
    assert sorted(figure.data[0].x) == [100, 100, 100, 800]
    assert figure.layout.annotations[0].text == "before"
    rewards = experiment.plot_difficulty(metrics, runs).data[0].x
    assert sorted(rewards) == pytest.approx([1, 1, 1, 8])


def test_the_page_loads_nothing_and_shows_names_as_they_are(
    metrics, comparisons, runs, costs
):
    figures = [
        plot(metrics, runs)
        for plot in (
            experiment.plot_cost,
            experiment.plot_samples,
            experiment.plot_difficulty,
        )
    ]
    figures.insert(0, experiment.plot_arms(metrics, runs, comparisons))
    tuning = pd.DataFrame(
        {
            "arm": "full",
            "setting": [0, 1],
            "overrides": ["a=1", "a=2"],
            "seed": 1,
            "ndcg@10": [0.1, 0.2],
            "chosen": [False, True],
        }
    )
    page = experiment.render_report(
        metrics,
        runs,
        comparisons,
        costs,
        tuning,
        *figures,
        "D & D",
        [1, 2],
        "text",
        0.95,
    )
    page = page.replace(NO_BREAK, " ")
    assert "D &amp; D" in page
    assert "<td>&lt;b&gt;</td>" in page
    assert page.count("Plotly.newPlot(") >= 4
    assert "<script src" not in page
    assert (
        '<span class="better">+0.0050</span> [+0.0010, +0.0100], p &lt; 0.001' in page
    )
    assert "chosen" in page
