"""Score the pool: what each sample would teach, and how it aligns with the rest."""

from minirec.pipelines.score.pipeline import create_pipeline

__all__ = ["create_pipeline"]
