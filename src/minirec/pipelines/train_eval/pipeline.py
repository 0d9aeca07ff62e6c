"""The training and evaluation pipeline."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from minirec.pipelines.inputs import CATALOGUE, MODELS
from minirec.pipelines.train_eval import nodes
from minirec.reporting import figures, report, trace

EVALUATION = "params:train_eval.evaluation"
METRICS = f"{EVALUATION}.metrics"
INTERVALS = [
    f"{EVALUATION}.bootstrap_draws",
    f"{EVALUATION}.confidence",
    "params:seed",
]


def create_pipeline(**_: Any) -> Pipeline:
    """Return the way from the curriculum to metrics."""
    return Pipeline([*_train(), *_rank(), *_evaluate(), *_report()], tags="train_eval")


def _train() -> list[Node]:
    """Return what trains the policy on the curriculum."""
    return [
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
    ]


def _rank() -> list[Node]:
    """Return what ranks the test split, by the policy and by baselines."""
    return [
        Node(
            nodes.rank_baselines,
            inputs=[
                "prompts",
                "interactions",
                *CATALOGUE,
                "encoder_model",
                "params:ranking.prior_weight",
                "params:preprocess.window",
                f"{EVALUATION}.batch_size",
                f"{EVALUATION}.baselines",
                f"{EVALUATION}.item_knn",
                f"{EVALUATION}.sasrec",
                f"{EVALUATION}.top_items",
                "checkpoints",
                "params:seed",
            ],
            outputs="baseline_rankings",
            name="rank_baselines",
        ),
        Node(
            nodes.rank_items,
            inputs=[
                "baseline_rankings",
                "prompts",
                *CATALOGUE,
                "initial_adapter",
                "policy_adapter",
                *MODELS,
                "params:policy",
                "params:ranking",
                f"{EVALUATION}.batch_size",
                f"{EVALUATION}.top_items",
            ],
            outputs="rankings",
            name="rank_items",
        ),
    ]


def _evaluate() -> list[Node]:
    """Return what measures the rankings."""
    return [
        Node(
            nodes.evaluate_rankings,
            inputs=["rankings", "prompts", "items", METRICS, *INTERVALS],
            outputs=["metrics", "comparisons"],
            name="evaluate_rankings",
        ),
        Node(
            nodes.evaluate_groups,
            inputs=[
                *("rankings", "prompts", "items", METRICS),
                f"{EVALUATION}.groups",
                *INTERVALS,
            ],
            outputs="group_metrics",
            name="evaluate_groups",
        ),
        Node(
            figures.plot_metrics,
            inputs="metrics",
            outputs="metrics_figure",
            name="plot_metrics",
        ),
        Node(
            figures.plot_groups,
            inputs="group_metrics",
            outputs="group_figure",
            name="plot_groups",
        ),
    ]


def _report() -> list[Node]:
    """Return what tells the run on its pages."""
    return [
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
                "explanations",
                "consumed",
            ],
            outputs="traces",
            name="render_traces",
        ),
        Node(
            nodes.report_run,
            inputs=[
                "interactions",
                *MODELS,
                "base_parameters",
                "params:experiment.data",
                "params:seed",
                "params:policy",
                "params:ranking",
                "params:preprocess",
                "params:score",
                "params:select",
                "params:train_eval",
                *report.TABLES,
                *report.FIGURES,
            ],
            outputs="report",
            name=report.NODE,
        ),
    ]
