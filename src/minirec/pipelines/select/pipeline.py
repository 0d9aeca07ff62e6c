"""The selection pipeline."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from minirec.pipelines.select import nodes
from minirec.reporting import figures

# what a strategy chooses by
TABLES = ["candidates", "prompts", "items", "gradients", "embeddings"]


def create_pipeline(**_: Any) -> Pipeline:
    """Return the way from scores to the curriculum."""
    return Pipeline([*_choose(), *_draw()], tags="select")


def _choose() -> list[Node]:
    """Return the way from scores to the curriculum, and why it is that."""
    return [
        Node(
            nodes.prune_by_reward,
            inputs=["scores", "params:select.prune"],
            outputs="candidates",
            name="prune_by_reward",
        ),
        Node(
            nodes.select_samples,
            inputs=[
                *TABLES,
                "params:select.strategy",
                "params:select.size",
                "params:seed",
            ],
            outputs="selection",
            name="select_samples",
        ),
        Node(
            nodes.compare_strategies,
            inputs=[
                *TABLES,
                "params:select.compare",
                "params:select.size",
                "params:seed",
            ],
            outputs="strategy_picks",
            name="compare_strategies",
        ),
        Node(
            nodes.stage_curriculum,
            inputs=[
                "selection",
                "scores",
                "params:select.curriculum",
                "params:seed",
            ],
            outputs="curriculum",
            name="stage_curriculum",
        ),
        Node(
            nodes.explain_picks,
            inputs=[
                "params:select.strategy",
                *("candidates", "selection", "curriculum"),
                *("prompts", "items", "embeddings"),
                "params:score.learnability",
                "params:score.representativeness",
            ],
            outputs="explanations",
            name="explain_picks",
        ),
    ]


def _draw() -> list[Node]:
    """Return what draws the choice."""
    return [
        Node(
            nodes.plot_rewards,
            inputs=[
                *("candidates", "selection"),
                *("params:select.prune", "params:score.learnability"),
            ],
            outputs="reward_figure",
            name="plot_rewards",
        ),
        Node(
            figures.plot_selection,
            inputs=["candidates", "selection"],
            outputs="selection_figure",
            name="plot_selection",
        ),
        Node(
            figures.plot_overlap,
            inputs=["strategy_picks", "candidates", "selection"],
            outputs="overlap_figure",
            name="plot_overlap",
        ),
        Node(
            figures.plot_embeddings,
            inputs=["candidates", "selection", "embeddings"],
            outputs="embedding_figure",
            name="plot_embeddings",
        ),
        Node(
            figures.plot_curriculum,
            inputs="curriculum",
            outputs="curriculum_figure",
            name="plot_curriculum",
        ),
    ]
