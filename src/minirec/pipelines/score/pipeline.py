"""The scoring pipeline."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from minirec.pipelines.inputs import CATALOGUE, MODELS
from minirec.pipelines.score import nodes
from minirec.reporting import figures


def create_pipeline(**_: Any) -> Pipeline:
    """Return the way from prompts to scores."""
    return Pipeline([*_train_proxy(), *_probe(), *_score()], tags="score")


def _train_proxy() -> list[Node]:
    """Return the way from the policy before reinforcement to its proxy."""
    return [
        Node(
            nodes.embed_items,
            inputs=["items", "encoder_model"],
            outputs="item_embeddings",
            name="embed_items",
        ),
        Node(
            nodes.warm_start_policy,
            inputs=[
                "interactions",
                "prompts",
                "items",
                "policy_model",
                "params:policy.kind",
                "params:policy.dtype",
                "params:policy.prompt",
                "params:policy.lora",
                "params:policy.item_tokens",
                "params:preprocess.window",
                "params:score.proxy.prompts",
                "params:score.warm_start",
                "checkpoints",
                "params:seed",
            ],
            outputs="initial_adapter",
            name="warm_start_policy",
        ),
        Node(
            nodes.train_proxy,
            inputs=[
                "prompts",
                *CATALOGUE,
                "initial_adapter",
                *MODELS,
                "params:policy",
                "params:ranking",
                "params:score.proxy",
                "params:execution",
                "checkpoints",
                "params:seed",
            ],
            outputs=["proxy_adapter", "proxy_log"],
            name="train_proxy",
        ),
        Node(
            figures.plot_training,
            inputs="proxy_log",
            outputs="proxy_figure",
            name="plot_proxy",
        ),
    ]


def _probe() -> list[Node]:
    """Return what the proxy writes on each prompt, earns, and would learn from it."""
    return [
        Node(
            nodes.probe_rewards,
            inputs=[
                "prompts",
                *CATALOGUE,
                "proxy_adapter",
                *MODELS,
                "params:policy",
                "params:ranking",
                "params:score.probe",
                "params:score.memory_gb",
                "params:execution",
                "finished_batches",
                "params:seed",
            ],
            outputs=["rollouts", "rewards"],
            name="probe_rewards",
        ),
        Node(
            nodes.collect_gradients,
            inputs=[
                "prompts",
                "rollouts",
                "rewards",
                "proxy_adapter",
                "policy_model",
                "params:policy",
                "params:score.gradients",
                "params:score.memory_gb",
                "params:execution",
                "finished_batches",
                "params:seed",
            ],
            outputs="gradients",
            name="collect_gradients",
        ),
    ]


def _score() -> list[Node]:
    """Return the way from rewards and gradients to the scores of each sample."""
    return [
        Node(
            nodes.score_learnability,
            inputs=["prompts", "rewards", "params:score.learnability"],
            outputs="learnability",
            name="score_learnability",
        ),
        Node(
            nodes.score_representativeness,
            inputs=[
                "prompts",
                "gradients",
                "initial_adapter",
                "proxy_adapter",
                "params:score.gradients",
                "params:score.representativeness",
                "params:seed",
            ],
            outputs="representativeness",
            name="score_representativeness",
        ),
        Node(
            nodes.embed_samples,
            inputs=["prompts", "items", "encoder_model", "initial_adapter"],
            outputs="embeddings",
            name="embed_samples",
        ),
        Node(
            nodes.join_scores,
            inputs=["learnability", "representativeness", "params:score.value"],
            outputs="scores",
            name="join_scores",
        ),
    ]
