"""Train the policy on the curriculum, and say how well it ranks."""

from minirec.pipelines.train_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
