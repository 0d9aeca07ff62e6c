"""The experiment's pipeline."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from minirec.pipelines.experiment import nodes
from minirec.pipelines.inputs import MODELS
from minirec.reporting import experiment

EVALUATION = "params:train_eval.evaluation"
INTERVALS = [
    f"{EVALUATION}.bootstrap_draws",
    f"{EVALUATION}.confidence",
    "params:seed",
]
# what arms are trained and ranked with
WORK = [
    "interactions",
    "experiment_prompts",
    "items",
    *MODELS,
    "params:policy",
    "params:ranking",
    "params:preprocess.window",
    "params:score",
    "params:select",
    "params:train_eval",
    "params:experiment",
    "params:execution",
    "experiment_work",
]
RESULTS = ["experiment_metrics", "experiment_runs"]


def create_pipeline(**_: Any) -> Pipeline:
    """Return the way from the samples to what each arm was worth."""
    return Pipeline([*_run(), *_evaluate(), *_report()], tags="experiment")


def _run() -> list[Node]:
    """Return what tunes, trains and ranks the arms."""
    return [
        Node(
            nodes.draw_prompts,
            inputs=[
                "samples",
                "interactions",
                "items",
                "policy_model",
                "params:preprocess.pool",
                "params:experiment.valid",
                "params:experiment.scored_valid",
                "params:policy.prompt",
                "params:policy.sampling.max_new_tokens",
                "params:seed",
                "params:policy.kind",
            ],
            outputs="experiment_prompts",
            name="draw_experiment_prompts",
        ),
        Node(
            nodes.tune_arms,
            inputs=WORK,
            outputs="experiment_tuning",
            name="tune_arms",
        ),
        Node(
            nodes.run_arms,
            inputs=["experiment_tuning", *WORK],
            outputs=[
                "experiment_runs",
                "experiment_costs",
                "experiment_rankings",
            ],
            name="run_arms",
        ),
    ]


def _evaluate() -> list[Node]:
    """Return what compares the arms."""
    return [
        Node(
            nodes.evaluate_experiment,
            inputs=[
                "experiment_rankings",
                "experiment_prompts",
                "items",
                f"{EVALUATION}.metrics",
                *INTERVALS,
            ],
            outputs=["experiment_metrics", "experiment_comparisons"],
            name="evaluate_experiment",
        ),
        Node(
            nodes.list_results,
            inputs=[
                "experiment_runs",
                "experiment_rankings",
                "experiment_metrics",
                "experiment_prompts",
                "items",
                "params:experiment",
                "params:policy.kind",
                *INTERVALS,
            ],
            outputs="experiment_results",
            name="list_results",
        ),
    ]


def _report() -> list[Node]:
    """Return what draws and tells what each was worth."""
    return [
        Node(
            experiment.plot_arms,
            inputs=[*RESULTS, "experiment_comparisons"],
            outputs="experiment_figure",
            name="plot_arms",
        ),
        Node(
            experiment.plot_cost,
            inputs=RESULTS,
            outputs="experiment_cost_figure",
            name="plot_cost",
        ),
        Node(
            experiment.plot_samples,
            inputs=RESULTS,
            outputs="experiment_samples_figure",
            name="plot_samples",
        ),
        Node(
            experiment.plot_difficulty,
            inputs=RESULTS,
            outputs="experiment_difficulty_figure",
            name="plot_difficulty",
        ),
        Node(
            experiment.render_report,
            inputs=[
                *RESULTS,
                "experiment_comparisons",
                "experiment_costs",
                "experiment_tuning",
                "experiment_figure",
                "experiment_cost_figure",
                "experiment_samples_figure",
                "experiment_difficulty_figure",
                "params:experiment.data",
                "params:experiment.seeds",
                "params:policy.kind",
                f"{EVALUATION}.confidence",
            ],
            outputs="experiment_report",
            name="render_report",
        ),
    ]
