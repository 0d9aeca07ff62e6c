"""The preprocessing pipeline."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from minirec.pipelines.preprocess import nodes
from minirec.reporting import figures


def create_pipeline(**_: Any) -> Pipeline:
    """Return the way from raw histories to prompts."""
    return Pipeline([*_samples(), *_prompts()], tags="preprocess")


def _samples() -> list[Node]:
    """Return the way from raw histories to samples."""
    return [
        Node(
            nodes.prepare_interactions,
            inputs=[
                "raw_interactions",
                "raw_items",
                "params:preprocess.filter",
                "params:preprocess.k_core",
                "params:preprocess.split",
            ],
            outputs="interactions",
            name="prepare_interactions",
        ),
        Node(
            nodes.prepare_items,
            inputs=["raw_items", "interactions", "params:preprocess.item_text"],
            outputs="items",
            name="prepare_items",
        ),
        Node(
            nodes.build_samples,
            inputs=["interactions", "params:preprocess.window"],
            outputs="samples",
            name="build_samples",
        ),
        Node(
            nodes.report_leakage,
            inputs="samples",
            outputs="leakage",
            name="report_leakage",
        ),
    ]


def _prompts() -> list[Node]:
    """Return the way from samples to prompts."""
    return [
        Node(
            nodes.render_prompts,
            inputs=[
                "samples",
                "interactions",
                "items",
                "policy_model",
                "params:preprocess.pool",
                "params:policy.prompt",
                "params:policy.sampling.max_new_tokens",
                "params:seed",
                "params:policy.kind",
            ],
            outputs="prompts",
            name="render_prompts",
        ),
        Node(
            nodes.show_prompts,
            inputs=["prompts", "items"],
            outputs="prompt_examples",
            name="show_prompts",
        ),
        Node(
            figures.plot_prompts,
            inputs="prompts",
            outputs="prompt_figure",
            name="plot_prompts",
        ),
    ]
