import pandas as pd
import pytest

from minirec.reporting.figures import (
    plot_metrics,
    plot_overlap,
    plot_prompts,
    plot_rewards,
    plot_selection,
)
from minirec.schemas import Candidates, Metrics, Selection, StrategyPicks


@pytest.fixture
def candidates() -> pd.DataFrame:
    return Candidates.validate(
        pd.DataFrame(
            {
                "sample_id": [3, 5, 8, 9],
                "mean_reward": [0.2, 0.1, 0.95, 0.0],
                "std_reward": [0.1, 0.2, 0.05, 0.0],
                "learnability": [0.8, 0.5, 0.1, 0.0],
                "representativeness": [0.3, 1.0, 0.6, 0.0],
                "value": [1.1, 1.5, 0.7, 0.0],
                "reason": ["kept", "kept", "too_easy", "too_hard"],
            }
        )
    )


@pytest.fixture
def selection() -> pd.DataFrame:
    return Selection.validate(
        pd.DataFrame({"position": [0, 1], "sample_id": [5, 3], "value": [1.5, 1.1]})
    )


def traces(figure) -> dict:
    return {trace.name: trace for trace in figure.data}


@pytest.fixture
def prompts() -> pd.DataFrame:
    return pd.DataFrame({"split": ["train", "test", "train"], "n_tokens": [30, 50, 40]})


def test_prompts_are_counted_by_length_and_split(prompts):
    figure = plot_prompts(prompts)

    drawn = traces(figure)
    assert list(drawn["train (2)"].x) == [30, 40]
    assert list(drawn["test (1)"].x) == [50]
    assert figure.layout.title.text == "How long the prompts are: 50 tokens at most"


def test_rewards_are_counted_by_reason_and_picks_marked(candidates, selection):
    drawn = traces(plot_rewards(candidates, selection))

    assert list(drawn) == [
        "kept (2)",
        "pruned: too easy (1)",
        "pruned: too hard (1)",
        "selected (2)",
    ]
    assert list(drawn["kept (2)"].x) == [0.2, 0.1]
    assert sorted(drawn["selected (2)"].x) == [0.1, 0.2]


def test_picks_lie_at_their_scores_in_order_of_choice(candidates, selection):
    drawn = traces(plot_selection(candidates, selection))

    picks = drawn["selected (2)"]
    assert list(picks.x) == [0.5, 0.8]
    assert list(picks.y) == [1.0, 0.3]
    assert list(picks.text) == ["0", "1"]
    assert list(drawn["pruned: too easy (1)"].x) == [0.1]


def test_bars_end_at_the_mean_and_whiskers_at_the_interval():
    metrics = Metrics.validate(
        pd.DataFrame(
            [
                ("trained", "hr@10", 0.5, 0.25, 1.0, 4, 4),
                ("nearest", "hr@10", 0.25, 0.125, 0.5, 4, 4),
                ("trained", "ndcg@10", 0.375, 0.25, 0.5, 4, 4),
                ("nearest", "ndcg@10", 0.125, 0.0, 0.25, 4, 4),
            ],
            columns=["method", "metric", "mean", "low", "high", "users", "samples"],
        )
    )

    hit_ratio, ndcg = plot_metrics(metrics).data

    assert list(hit_ratio.y) == [
        "nearest items to the history",
        "policy trained on the selection",
    ]
    assert list(hit_ratio.x) == [0.25, 0.5]
    assert list(hit_ratio.error_x.array) == [0.25, 0.5]
    assert list(hit_ratio.error_x.arrayminus) == [0.125, 0.25]
    assert list(ndcg.x) == [0.125, 0.375]


def test_every_axis_says_what_it_measures(prompts, candidates, selection):
    figures = [draw(candidates, selection) for draw in (plot_rewards, plot_selection)]
    for layout in (figure.layout for figure in [plot_prompts(prompts), *figures]):
        assert layout.title.text
        assert layout.xaxis.title.text
        assert layout.yaxis.title.text


def test_the_overlap_is_the_share_of_picks_in_common(candidates):
    ours, mine = "minirec.selection.strategies.random", "mine.choose"
    picks = StrategyPicks.validate(
        pd.DataFrame(
            {
                "strategy": [ours, mine, ours, mine, "other.f", "other.f"],
                "position": [0, 0, 1, 1, 0, 1],
                "sample_id": [3, 5, 5, 3, 3, 8],
            }
        )
    )
    figure = plot_overlap(picks, pd.concat([candidates] * 2))

    (drawn,) = figure.data
    assert list(drawn.x) == list(drawn.y) == ["random", mine, "other.f"]
    assert [list(row) for row in drawn.z] == [[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]]
    # 2 picks of the 4 that are kept
    assert drawn.colorbar.ticktext[1] == "chance: 50%"


def test_no_strategies_to_compare_are_no_error(candidates):
    nothing = pd.DataFrame({"strategy": [], "position": [], "sample_id": []})
    figure = plot_overlap(nothing, candidates)
    assert not figure.data
    assert figure.layout.title.text.startswith("No strategies to compare")
