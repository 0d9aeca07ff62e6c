"""The export pipeline."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from minirec.pipelines.export import nodes


def create_pipeline(**_: Any) -> Pipeline:
    """Return the way from the curriculum to files for other trainers."""
    return Pipeline(
        [
            Node(
                nodes.export_curriculum,
                inputs=[
                    "curriculum",
                    "prompts",
                    "items",
                    "policy_model",
                    "params:policy.prompt",
                    "params:policy.kind",
                ],
                outputs=["trl_dataset", "verl_dataset", "openrlhf_dataset"],
                name="export_curriculum",
            ),
            Node(
                nodes.export_chat_template,
                inputs=["policy_model", "params:policy.prompt", "params:policy.kind"],
                outputs="chat_template",
                name="export_chat_template",
            ),
        ],
        tags="export",
    )
