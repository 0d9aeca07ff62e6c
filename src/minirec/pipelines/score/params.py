"""Parameters of the pipeline, as `params:score.*` hold them."""

from pydantic import Field

from minirec.policy.params import GRPOParams, Params


class WarmStartParams(Params):
    """A supervised start before any reinforcement; no steps, no start."""

    steps: int = Field(ge=0)
    learning_rate: float = Field(gt=0)
    prompts_per_step: int = Field(ge=1)


class ProxyParams(Params):
    """The short GRPO run on a random subset that makes the proxy."""

    prompts: int = Field(ge=1)
    grpo: GRPOParams
    prompts_per_step: int = Field(ge=1)


class ProbeParams(Params):
    """How many rollouts the proxy writes on each prompt, and how many at once."""

    rollouts: int = Field(ge=2)
    batch_size: int = Field(ge=1)


class GradientParams(Params):
    """Which part of the adapter is differentiated, and into how many dimensions."""

    last_blocks: int | None = Field(ge=1)
    dimensions: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class LearnabilityParams(Params):
    """Where learnability peaks and how fast it falls; no sigma: that of the pool."""

    mu: float
    sigma: float | None = Field(gt=0)


class ValueParams(Params):
    """The weight of learnability beside representativeness."""

    alpha: float = Field(ge=0)


class ScoreParams(Params):
    """All of the pipeline's parameters."""

    warm_start: WarmStartParams
    proxy: ProxyParams
    probe: ProbeParams
    gradients: GradientParams
    learnability: LearnabilityParams
    value: ValueParams
