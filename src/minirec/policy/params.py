"""Parameters of the policy, as `params:policy` holds them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from minirec.functions import function_at


class Params(BaseModel):
    """A group of parameters in which an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PromptParams(Params):
    """The texts around a history; ``{history}`` stands for its titles.

    An empty ``system`` leaves the system message out.
    """

    system: str
    user: str = Field(pattern=r"\{history\}")
    answer_start: str
    answer_end: str = Field(min_length=1)


class LoraParams(Params):
    """Low-rank adapters, by peft's own names."""

    r: int = Field(ge=1)
    lora_alpha: int = Field(ge=1)
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: str | list[str]


class SamplingParams(Params):
    """How the policy writes when it probes and when it trains."""

    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(gt=0)


class PolicyParams(Params):
    """The kind of policy, its precision, prompts, adapter and sampling."""

    kind: Literal["text"]
    dtype: Literal["float32", "bfloat16", "float16", "float64"]
    prompt: PromptParams
    lora: LoraParams
    sampling: SamplingParams


class RankingParams(Params):
    """How what was written becomes a ranking, and a ranking a reward."""

    prior_weight: float = Field(ge=0)
    reward: str

    @field_validator("reward")
    @classmethod
    def find_reward(cls, path: str) -> str:
        """Refuse a path that leads to no function."""
        function_at(path, "ranking.reward")
        return path


class GRPOParams(Params):
    """Settings of TRL's ``GRPOConfig``, by its own names."""

    learning_rate: float = Field(gt=0)
    num_generations: int = Field(ge=2)
    beta: float = Field(ge=0)

    def config(self) -> dict[str, Any]:
        """Return them as keyword arguments."""
        return self.model_dump()
