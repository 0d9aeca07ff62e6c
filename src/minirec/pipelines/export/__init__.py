"""Write the curriculum as other trainers read it."""

from minirec.pipelines.export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
