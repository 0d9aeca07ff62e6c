"""Parameters of the pipeline, as `params:score.*` hold them."""

from typing import Literal

from pydantic import Field

from minirec.policy.params import GRPOParams, Params
from minirec.policy.server import ServerParams


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
    """How many rollouts the proxy writes on each prompt, how many at once, and where."""

    rollouts: int = Field(ge=2)
    batch_size: int | None = Field(ge=1)
    """Prompts at once; None: as many as fit into ``score.memory_gb``."""
    server: ServerParams | None
    """That writes them instead of this process, by the proxy that it serves."""


class GradientParams(Params):
    """Where gradients are taken, of which part of the adapter, in how many dimensions.

    ``lora``: at the adapter of the last blocks, sketched. ``hidden``: at the last
    hidden state, by a forward pass alone. ``hessian``: the published variant of it, the
    Hessian times the mean gradient.
    """

    space: Literal["lora", "hidden", "hessian"]
    last_blocks: int | None = Field(ge=1)
    dimensions: int = Field(ge=1)
    batch_size: int | None = Field(ge=1)
    """Prompts at once; None: as many as fit into ``score.memory_gb``."""


class LearnabilityParams(Params):
    """Where learnability peaks and how fast it falls; no sigma: that of the pool."""

    mu: float
    sigma: float | None = Field(gt=0)


class ValueParams(Params):
    """The weight of learnability beside representativeness."""

    alpha: float = Field(ge=0)


class ScoreParams(Params):
    """All of the pipeline's parameters."""

    memory_gb: float = Field(gt=0)
    """What a batch may take beside the model, in units of 10^9 bytes."""
    warm_start: WarmStartParams
    proxy: ProxyParams
    probe: ProbeParams
    gradients: GradientParams
    learnability: LearnabilityParams
    value: ValueParams
