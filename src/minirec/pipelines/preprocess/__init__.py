"""Raw histories to prompts: clean, split, window, draw, render."""

from minirec.pipelines.preprocess.pipeline import create_pipeline

__all__ = ["create_pipeline"]
