import io

import pandas as pd
import pytest
from rich.console import Console

from minirec.reporting import summary


def metrics(samples: int = 1200) -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("popularity", "hr@10", 0.05, 0.025, 0.0751, 1200, samples),
            ("popularity", "ndcg@10", 0.025, 0.01, 0.04, 1200, samples),
            ("trained", "hr@10", 0.0854, 0.06, 0.11, 1200, samples),
            ("trained", "ndcg@10", 0.0424, 0.03, 0.057, 1200, samples),
        ],
        columns=["method", "metric", "mean", "low", "high", "users", "samples"],
    )


def printed(table) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_methods_come_in_order_with_mean_and_interval():
    lines = printed(summary.metrics_table(metrics()))

    rows = [line for line in lines if "[0." in line]
    assert [" ".join(row.split()) for row in rows] == [
        "policy trained on the selection 0.085 [0.060, 0.110] 0.042 [0.030, 0.057]",
        "popularity 0.050 [0.025, 0.075] 0.025 [0.010, 0.040]",
    ]
    assert any(line.split() == ["method", "HR@10", "NDCG@10"] for line in lines)
    assert "mean [bootstrap interval]; higher is better" in lines


@pytest.mark.parametrize(
    ("samples", "whose"),
    [(1200, "of 1,200 users of"), (3000, "of 1,200 users (3,000 samples) of")],
)
def test_the_title_counts_users_and_samples(samples, whose):
    assert whose in summary.metrics_table(metrics(samples)).title


def test_the_first_two_metrics_with_an_interval_are_shown():
    first = metrics().assign(metric=["mrr", "hr@5"] * 2)
    covered = metrics().assign(
        metric="coverage@10", low=float("nan"), high=float("nan")
    )

    table = summary.metrics_table(pd.concat([covered, first, metrics()]))

    assert [column.header for column in table.columns] == ["method", "MRR", "HR@5"]


def test_the_trained_policy_is_compared_with_each_other_method():
    comparisons = pd.DataFrame(
        [
            ("ndcg@10", "trained", "popularity", 0.0174, 0.002, 0.03, 0.0004),
            ("ndcg@10", "trained", "untrained", -0.0012, -0.01, 0.008, 0.5),
            ("hr@10", "trained", "untrained", 0.5, 0.4, 0.6, 0.01),
            ("ndcg@10", "untrained", "popularity", 0.5, 0.4, 0.6, 0.01),
        ],
        columns=["metric", "method", "other", "difference", "low", "high", "p_holm"],
    )

    lines = printed(summary.comparison_table(comparisons, "ndcg@10"))

    assert [
        " ".join(line.split()) for line in lines if "[+" in line or "[-" in line
    ] == [
        "the same policy untrained -0.001 [-0.010, +0.008] 0.500",
        "popularity +0.017 [+0.002, +0.030] <0.001",
    ]
    assert max(map(len, lines)) <= 80


def test_work_counts_prompts_rollouts_tokens_and_steps():
    rollouts = pd.DataFrame(
        {"sample_id": [1, 1, 2, 2], "token_id": [[5], [5, 6], [7], [7, 8, 9]]}
    )
    consumed = pd.DataFrame({"sample_id": [2, 1, 2], "step": [0, 0, 1]})
    rankings = pd.DataFrame(
        {
            "method": ["popularity", "trained", "untrained"],
            "sample_id": [3, 3, 3],
            "completion": [None, "Up", "Heat"],
        }
    )

    rewards = pd.DataFrame({"failure": [None, "empty", "not_finite", "empty"]})
    tables = (rollouts, rewards, consumed, rankings)
    lines = printed(summary.work_table(*tables, most=None))

    expected = [
        "scored   2 prompts by 4 rollouts of 7 tokens",
        "without an answer, rewarded with 0: 2 empty, 1 not finite",
        "trained  on 2 prompts in 2 steps",
        "ranked   1 prompts by 2 policies' answers",
    ]
    assert lines == expected
    assert printed(summary.work_table(*tables, most=2)) == expected
    saved = "4 of 2,048 rollouts written: 2,044 saved by adaptive probing"
    assert printed(summary.work_table(*tables, most=1024)) == [
        expected[0],
        saved,
        *expected[1:],
    ]


def test_pruning_counts_samples_and_their_reward():
    candidates = pd.DataFrame(
        {
            "mean_reward": [0.2, 0.9, 0.3, 0.0, 0.5, 0.1],
            "reason": ["kept", "too_easy", "kept", "too_hard", "kept", "no_spread"],
        }
    )

    lines = printed(summary.pruning_table(candidates))

    assert [line.split() for line in lines if line.strip(" ─")] == [
        ["of", "the", "pool", "samples", "share", "share", "of", "reward"],
        ["kept", "3", "50.0%", "50.0%"],
        ["too", "easy", "1", "16.7%", "45.0%"],
        ["too", "hard", "1", "16.7%", "0.0%"],
        ["no", "spread", "1", "16.7%", "5.0%"],
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("rewards", [[0.0, 0.0], [0.5, -0.1]])
def test_rewards_without_a_sum_have_no_shares(rewards):
    candidates = pd.DataFrame({"mean_reward": rewards, "reason": ["kept"] * 2})

    lines = printed(summary.pruning_table(candidates))

    assert [line.split() for line in lines if line.startswith("kept")] == [
        ["kept", "2", "100.0%", "-"]
    ]


@pytest.mark.parametrize(
    ("flops", "told"),
    [
        ([2e12, 34.5e12, 0.0], "36.5 TFLOP"),
        ([2e15, None, 0.0], "2 PFLOP (beside probe_rewards)"),
        ([0.0, 0.0, 0.0], "0 FLOP"),
    ],
)
def test_places_take_paths_and_sum_the_costs(flops, told):
    paths = {
        "selection": "data/05/selection.parquet",
        "metrics": "data/08/metrics.csv",
        "reward_figure": "data/08/reward_figure.json",
        "metrics_figure": "data/08/metrics_figure.json",
        "policy_adapter": "data/06/policy_adapter",
        "report": "data/08/report.html",
    }
    costs = pd.DataFrame(
        {
            "pipeline": ["select", "score", "score"],
            "seconds": [6.0, 90.0, 60.0],
            "peak_memory_gb": [2.0, 3.14, 3.14],
            "node": ["select_samples", "probe_rewards", "train_proxy"],
            "tokens_generated": [1000, 6388, 0],
            "tokens_trained": [9000, 0, 0],
            "tokens_read": [0, 120_000, 0],
            "flops": flops,
        }
    )

    lines = printed(summary.places_table(paths, costs))

    assert lines[:5] == [
        "tables   data/05/selection.parquet, data/08/metrics.csv, …",
        "figures  data/08: in the report and kedro viz",
        "adapter  data/06/policy_adapter: see docs/adapter.md",
        "report   data/08/report.html: all of it, on one page",
        "minutes  score 2.5, select 0.1; 3.1 GB at peak",
    ]
    costs = f"tokens   7,388 written, 9,000 trained on, 120,000 read; {told} look"
    assert " ".join(lines[5:]).startswith(costs)


def test_places_leave_out_what_is_not_on_disk():
    lines = printed(summary.places_table({}, None))

    assert [line.split()[0] for line in lines] == [
        "look",
        "notebooks/:",
    ]


@pytest.mark.parametrize(
    ("env", "viz", "notebooks"),
    [
        (None, "make viz (`kedro viz run`)", "notebooks/"),
        ("local", "make viz (`kedro viz run`)", "notebooks/"),
        ("test", "`kedro viz run --env test`", "notebooks/ with KEDRO_ENV=test set"),
    ],
)
def test_places_say_how_to_look_at_the_environment_of_the_run(env, viz, notebooks):
    lines = printed(summary.places_table({}, None, env))

    assert " ".join(" ".join(lines).split()) == (
        f"look {viz}: pipelines, tables, figures "
        f"{notebooks}: scores and picks, other methods, one user"
    )


@pytest.mark.parametrize(
    ("written", "command", "line"),
    [
        (["scores"], "kedro run", "Wrote scores. Next: kedro run"),
        (["rewards", "scores"], None, "Wrote rewards, scores."),
        ([], None, "Everything was up to date."),
    ],
)
def test_what_comes_next(written, command, line):
    assert summary.what_comes_next(written, command) == line
