"""MiniRec: the few training samples that matter for an LLM recommender."""

__version__ = "0.1.0"
