"""Train every arm on several seeds, and say which samples were worth it."""

from minirec.pipelines.experiment.pipeline import create_pipeline

__all__ = ["create_pipeline"]
