"""The project's pipelines, by name."""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

ORDER = ("preprocess", "score", "select", "train_eval")


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline under ``minirec.pipelines``, and all of them as one."""
    pipelines = find_pipelines(raise_errors=True)
    pipelines["__default__"] = sum(pipelines.values(), Pipeline([]))
    return pipelines
