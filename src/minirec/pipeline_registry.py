"""The project's pipelines, by name."""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

ORDER = ("preprocess", "score", "select", "train_eval")

# those that run only by their names, after the ones above
APART = ("export", "experiment")


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline under ``minirec.pipelines``, and all of them as one.

    Those of `APART` are no part of that one.
    """
    pipelines = find_pipelines(raise_errors=True)
    whole = [pipelines[name] for name in pipelines if name not in APART]
    pipelines["__default__"] = sum(whole, Pipeline([]))
    return pipelines


def pipeline_of(node: Node) -> str:
    """Return the pipeline that the node is tagged with, such as ``score``.

    Of a pipeline of your own its first tag, or ``other``.
    """
    own = min(node.tags, default="other")
    return next((name for name in (*ORDER, *APART) if name in node.tags), own)
