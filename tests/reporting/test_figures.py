import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.errors import InputError
from minirec.reporting import figures
from minirec.reporting.figures import (
    plot_curriculum,
    plot_embeddings,
    plot_groups,
    plot_metrics,
    plot_overlap,
    plot_prompts,
    plot_rewards,
    plot_selection,
    plot_training,
)
from minirec.schemas import (
    Candidates,
    Curriculum,
    GroupMetrics,
    Metrics,
    Selection,
    StrategyPicks,
    TrainingLog,
)


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
def training_log() -> pd.DataFrame:
    return TrainingLog.validate(
        pd.DataFrame(
            {
                "step": [1, 2, 3, 4],
                "loss": 0.0,
                "learning_rate": 1e-4,
                "reward": [0.1, 0.3, 0.2, 0.4],
                "reward_std": 0.05,
                "frac_reward_zero_std": [0.0, 0.25, 0.0, 0.0],
                "completions/mean_length": 5.5,
                "entropy": [2.0, 1.9, 1.8, 1.7],
                "num_tokens": [500.0, 1000.0, 1500.0, 2000.0],
                "tokens_per_second": 250.0,
            }
        )
    )


def test_training_is_drawn_step_by_step_with_its_stages(training_log):
    # three stages of two, four and two prompts, two a step
    consumed = pd.DataFrame(
        {
            "position": range(8),
            "step": [0, 0, 1, 1, 2, 2, 3, 3],
            "stage": [0, 0, 0, 1, 1, 1, 1, 2],
        }
    )
    figure = plot_training(training_log, consumed)
    assert list(figure.data[0].y) == [0.1, 0.3, 0.2, 0.4]
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:2] == ["reward", "spread of rewards"]
    assert len(figure.data) == len(titles)  # of so few steps no running mean
    # the second stage, in every panel: from the middle of step 2 to that of step 4
    assert {(band.x0, band.x1) for band in figure.layout.shapes} == {(2.0, 4.0)}
    assert len(figure.layout.shapes) == len(titles)
    assert "4 steps" in figure.layout.title.text
    assert "3 stages" in figure.layout.title.text


def test_training_without_stages_has_no_bands(training_log):
    assert not plot_training(training_log).layout.shapes


def test_of_many_steps_the_running_mean_is_drawn(training_log):
    many = pd.concat([training_log] * 4, ignore_index=True)
    many["step"] = range(1, 17)
    rewards, means = plot_training(many).data[:2]
    assert list(rewards.y) == [0.1, 0.3, 0.2, 0.4] * 4
    # an eighth of 16: each with the one before it
    assert list(means.y[:4]) == pytest.approx([0.1, 0.2, 0.25, 0.3])
    assert means.name == "mean of 2 steps around"


@pytest.fixture
def prompts() -> pd.DataFrame:
    return pd.DataFrame({"split": ["train", "test", "train"], "n_tokens": [30, 50, 40]})


def test_prompts_are_counted_by_length_and_split(prompts):
    figure = plot_prompts(prompts)

    drawn = traces(figure)
    assert list(drawn["train (2)"].x) == [30, 40]
    assert list(drawn["test (1)"].x) == [50]
    assert figure.layout.title.text == "How long the prompts are: 50 tokens at most"


def pool(n: int, k: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return candidates with the rewards 0 to 1, of which the last k are selected."""
    rewards = np.linspace(0, 1, n)
    candidates = pd.DataFrame(
        {
            "sample_id": np.arange(n),
            "mean_reward": rewards,
            "learnability": rewards,
            "representativeness": rewards[::-1],
            "reason": "kept",
        }
    )
    ids = np.arange(n - k, n)
    return candidates, pd.DataFrame({"position": np.arange(k), "sample_id": ids})


def test_rewards_are_counted_by_reason_and_picks_marked(candidates, selection):
    drawn = traces(plot_rewards(candidates, selection))

    assert list(drawn) == [
        "kept (2)",
        "pruned: too easy (1)",
        "pruned: too hard (1)",
        "selected (2)",
    ]
    # 0.95 in at most 60 bars: 0.02 a bar
    assert drawn["kept (2)"].x == pytest.approx([0.11, 0.21])
    assert list(drawn["kept (2)"].y) == [1, 1]
    assert drawn["kept (2)"].customdata[0] == pytest.approx([0.1, 0.12])
    assert sorted(drawn["selected (2)"].x) == [0.1, 0.2]


def test_limits_are_lines_with_their_names(candidates, selection):
    figure = plot_rewards(candidates, selection, too_easy=0.9, too_hard=0.05)

    assert [line.x0 for line in figure.layout.shapes] == [0.05, 0.9]
    texts = [note.text for note in figure.layout.annotations]
    assert texts == ["\u25c2 too hard (0.05)", "too easy \u25b8 (0.9)"]


def test_without_limits_there_are_no_lines(candidates, selection):
    assert not plot_rewards(candidates, selection).layout.shapes
    assert not plot_rewards(candidates, selection, mu=7.0).layout.shapes
    one = plot_rewards(candidates, selection, too_hard=0.0)
    assert [line.x0 for line in one.layout.shapes] == [0]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=20),
    st.floats(0, 1e-15),
)
def test_every_sample_is_in_a_bar(rewards, shift):
    candidates, selection = pool(2 * len(rewards), 1)
    candidates["mean_reward"] = [*rewards, *(reward + shift for reward in rewards)]

    bars, _ = plot_rewards(candidates, selection).data

    assert sum(bars.y) == len(candidates)
    assert len(bars.y) <= figures.BARS + 1


def test_picks_lie_at_their_scores_with_the_first_on_top(candidates, selection):
    drawn = traces(plot_selection(candidates, selection))

    picks = drawn["selected (2)"]
    assert list(picks.x) == [0.8, 0.5]
    assert list(picks.y) == [0.3, 1.0]
    assert list(picks.marker.color) == [2, 1]
    assert list(picks.text) == ["2", "1"]
    assert list(drawn["pruned: too easy (1)"].x) == [0.1]
    # all of the kept are picks, and drawn once
    assert list(drawn) == [
        "pruned: too easy (1)",
        "pruned: too hard (1)",
        "selected (2)",
    ]


def test_ten_picks_wear_their_number():
    (others, picks) = plot_selection(*pool(n=20, k=12)).data
    assert list(others.x) == list(np.linspace(0, 1, 20)[:8])
    assert list(picks.text) == ["", "", "10", *"987654321"]


@pytest.fixture
def embeddings() -> dict[str, np.ndarray]:
    """Rows in another order than the samples, and one of no sample."""
    return {
        "sample_id": np.array([9, 8, 7, 5, 3]),
        "matrix": np.array([[0, 0, 1], [0, 1, 0], [9, 9, 9], [0, -7, 0], [0, 0, -2]]),
    }


def test_the_plane_holds_rows_at_unit_length(candidates, selection, embeddings):
    figure = plot_embeddings(candidates, selection, embeddings)

    # 3 and 9 are opposite, and so are 5 and 8, at a right angle to them
    drawn = traces(figure)
    at = {
        sample: np.array([x, y])
        for trace in figure.data
        for (sample, *_), x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    for sample in 3, 5, 8, 9:
        assert np.linalg.norm(at[sample]) == pytest.approx(1)
    assert at[3] == pytest.approx(-at[9])
    assert at[5] == pytest.approx(-at[8])
    assert at[3] @ at[5] == pytest.approx(0)
    picks = drawn["selected (2)"]
    assert [sample for sample, *_ in picks.customdata] == [3, 5]
    assert list(picks.text) == ["2", "1"]
    assert "(50.0% of the variance)" in figure.layout.xaxis.title.text
    assert "(50.0% of the variance)" in figure.layout.yaxis.title.text


def test_the_plane_is_the_same_in_whatever_order_rows_come():
    candidates, selection = pool(n=30, k=4)
    rng = np.random.default_rng(0)
    matrix, order = rng.normal(size=(30, 5)), rng.permutation(30)

    def plane(candidates, ids, matrix):
        drawn = plot_embeddings(
            candidates, selection, {"sample_id": ids, "matrix": matrix}
        ).data[0]
        rows = zip(drawn.customdata, drawn.x, drawn.y, strict=True)
        return sorted((known[0], x, y) for known, x, y in rows)

    once = plane(candidates, np.arange(30), matrix)
    again = plane(candidates.iloc[order], order, matrix[order])
    np.testing.assert_allclose(once, again, atol=1e-12)


def test_samples_that_are_all_alike_are_one_point(candidates, selection):
    ids = candidates["sample_id"].to_numpy()
    for matrix in np.zeros((4, 3)), np.ones((4, 1)):
        figure = plot_embeddings(
            candidates, selection, {"sample_id": ids, "matrix": matrix}
        )
        assert all(not np.any([trace.x, trace.y]) for trace in figure.data)
        assert "(0.0% of the variance)" in figure.layout.xaxis.title.text


def test_a_sample_without_embedding_is_an_error(candidates, selection, embeddings):
    embeddings["sample_id"][1] = 4
    with pytest.raises(
        InputError, match="embeddings lacks 1 of 4 candidates, sample 8"
    ):
        plot_embeddings(candidates, selection, embeddings)


def test_of_a_large_pool_a_part_is_drawn_and_every_pick(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DRAWN", 40)
    candidates, selection = pool(n=1000, k=100)
    np.save(tmp_path / "matrix.npy", np.random.default_rng(0).normal(size=(1000, 3)))
    embeddings = {
        "sample_id": np.arange(1000),
        "matrix": np.load(tmp_path / "matrix.npy", mmap_mode="r"),
    }
    for what, draw in (
        ("Scores", lambda: plot_selection(candidates, selection)),
        ("Embeddings", lambda: plot_embeddings(candidates, selection, embeddings)),
    ):
        figure = draw()
        drawn = traces(figure)
        others, picks = drawn["kept (1,000)"], drawn["selected (100)"]
        assert 30 < len(others.x) < 40
        assert not np.isin(others.customdata[:, 0], picks.customdata[:, 0]).any()
        assert len(picks.x) == 100
        title = f"{what} of 40 of 1,000 samples, 100 selected"
        assert figure.layout.title.text == title
        assert figure == draw()


@pytest.fixture
def curriculum() -> pd.DataFrame:
    """Sixteen samples in two stages, the second of reward 0; rows in no order."""
    table = pd.DataFrame(
        {
            "position": np.arange(16),
            "sample_id": np.arange(100, 116),
            "stage": np.repeat([0, 1], 8),
            "mean_reward": np.repeat([0.5, 0.0], 8),
        }
    )
    return Curriculum.validate(table.iloc[::-1])


def test_the_curriculum_is_drawn_in_order_with_its_running_mean(curriculum):
    samples, mean = plot_curriculum(curriculum).data

    assert list(samples.x) == list(mean.x) == list(range(1, 17))
    assert list(samples.y) == [0.5] * 8 + [0] * 8
    assert [list(known) for known in samples.customdata[7:9]] == [[107, 1], [108, 2]]
    # an eighth of 16: each with the one before it
    assert list(mean.y) == [0.5] * 8 + [0.25] + [0] * 7
    assert mean.name == "mean of 2 samples around"


def test_of_few_samples_there_is_no_running_mean(curriculum):
    assert len(plot_curriculum(curriculum.head(15)).data) == 1


def test_stages_are_told_apart_by_bands(curriculum):
    layout = plot_curriculum(curriculum).layout

    assert [(band.x0, band.x1) for band in layout.shapes] == [(8.5, 16.5)]
    assert [(note.text, note.x) for note in layout.annotations] == [
        ("stage 1", 4.5),
        ("2", 12.5),
    ]


def test_of_many_stages_some_are_named(curriculum):
    layout = plot_curriculum(curriculum.assign(stage=curriculum["position"])).layout

    names = [note.text for note in layout.annotations]
    assert names == ["stage 1", "3", "5", "7", "9", "11", "13", "15"]
    assert len(layout.shapes) == 8


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


def test_groups_are_drawn_by_history_and_by_target():
    rows = [
        ("history_length", 9, 40, "trained", 0.3),
        ("history_length", 5, 8, "trained", 0.2),
        ("history_length", 5, 8, "popularity", 0.1),
        ("target_popularity", 3, 3, "trained", 0.4),
    ]
    table = pd.DataFrame(rows, columns=["by", "least", "most", "method", "mean"])
    table = table.assign(
        metric="ndcg@10", low=table["mean"] / 2, high=1.0, users=2, samples=3
    )
    other = table.assign(metric="hr@10", mean=1.0)
    groups = GroupMetrics.validate(pd.concat([other, table], ignore_index=True))

    trained, popular, by_target = plot_groups(groups).data

    assert list(trained.x) == ["5 to 8", "9 to 40"]
    assert list(trained.y) == [0.2, 0.3]
    assert list(trained.error_y.arrayminus) == [0.1, 0.15]
    assert list(popular.x) == ["5 to 8"]
    assert (list(by_target.x), list(by_target.y)) == (["3"], [0.4])


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
    selection = pd.DataFrame({"sample_id": [8, 9]})
    figure = plot_overlap(picks, pd.concat([candidates] * 2), selection)

    (drawn,) = figure.data
    assert list(drawn.x) == list(drawn.y) == ["selection", "random", mine, "other.f"]
    assert [list(row) for row in drawn.z] == [
        [1, 0, 0, 0.5],
        [0, 1, 1, 0.5],
        [0, 1, 1, 0.5],
        [0.5, 0.5, 0.5, 1],
    ]
    # 2 picks of the 4 that are kept
    assert drawn.colorbar.ticktext[1] == "chance: 50%"


def test_no_strategies_to_compare_are_no_error(candidates):
    nothing = pd.DataFrame({"strategy": [], "position": [], "sample_id": []})
    figure = plot_overlap(nothing, candidates, candidates.head(1))
    assert not figure.data
    assert figure.layout.title.text.startswith("No strategies to compare")


def test_every_figure_says_what_it_shows_and_fits_the_preview(
    prompts, candidates, selection, embeddings, curriculum
):
    for figure in (
        plot_prompts(prompts),
        plot_rewards(candidates, selection),
        plot_selection(candidates, selection),
        plot_embeddings(candidates, selection, embeddings),
        plot_curriculum(curriculum),
    ):
        assert 0 < len(figure.layout.title.text) <= 60
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text
