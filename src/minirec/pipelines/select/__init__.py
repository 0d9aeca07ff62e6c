"""Choose what to train on, and in what order: prune, select, stage."""

from minirec.pipelines.select.pipeline import create_pipeline

__all__ = ["create_pipeline"]
