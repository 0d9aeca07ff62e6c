"""Parameters of the pipeline, as `params:train_eval.*` hold them."""

from typing import Annotated

from pydantic import Field

from minirec.policy.params import GRPOParams, PaceParams, Params


class TrainParams(Params):
    """The GRPO run on the curriculum."""

    grpo: GRPOParams
    prompts_per_step: int = Field(ge=1)
    pace: PaceParams | None


class EvaluationParams(Params):
    """How many prompts at once, where rankings are cut, and the intervals."""

    batch_size: int = Field(ge=1)
    k: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    bootstrap_draws: int = Field(ge=100)
    confidence: float = Field(gt=0, lt=1)


class TrainEvalParams(Params):
    """All of the pipeline's parameters."""

    train: TrainParams
    evaluation: EvaluationParams
