"""The training and evaluation pipeline."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from minirec.pipelines.inputs import CATALOGUE, MODELS
from minirec.pipelines.train_eval import nodes
from minirec.reporting import figures, trace


def create_pipeline(**_: Any) -> Pipeline:
    """Return the way from the curriculum to metrics."""
    return Pipeline(
        [
            Node(
                nodes.train_policy,
                inputs=[
                    "curriculum",
                    "prompts",
                    *CATALOGUE,
                    "initial_adapter",
                    *MODELS,
                    "params:policy",
                    "params:ranking",
                    "params:train_eval.train",
                    "params:execution",
                    "checkpoints",
                    "params:seed",
                ],
                outputs=["policy_adapter", "policy_log", "consumed"],
                name="train_policy",
            ),
            Node(
                figures.plot_training,
                inputs=["policy_log", "consumed"],
                outputs="policy_figure",
                name="plot_policy",
            ),
            Node(
                nodes.rank_items,
                inputs=[
                    "prompts",
                    *CATALOGUE,
                    "initial_adapter",
                    "policy_adapter",
                    *MODELS,
                    "params:policy",
                    "params:ranking",
                    "params:train_eval.evaluation.batch_size",
                ],
                outputs="rankings",
                name="rank_items",
            ),
            Node(
                nodes.evaluate_rankings,
                inputs=[
                    "rankings",
                    "prompts",
                    "params:train_eval.evaluation.k",
                    "params:train_eval.evaluation.bootstrap_draws",
                    "params:train_eval.evaluation.confidence",
                    "params:seed",
                ],
                outputs="metrics",
                name="evaluate_rankings",
            ),
            Node(
                figures.plot_metrics,
                inputs="metrics",
                outputs="metrics_figure",
                name="plot_metrics",
            ),
            Node(
                trace.render_traces,
                inputs=[
                    "items",
                    "prompts",
                    "rollouts",
                    "rewards",
                    "candidates",
                    "selection",
                    "curriculum",
                    "consumed",
                ],
                outputs="traces",
                name="render_traces",
            ),
        ],
        tags="train_eval",
    )
