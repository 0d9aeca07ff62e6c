"""Parameters of the pipeline, as `params:score.*` hold them."""

from typing import Any, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from minirec.errors import InputError
from minirec.policy.adaptive import AdaptiveParams
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
    """The most, if probing is adaptive."""
    adaptive: AdaptiveParams | None
    """Stops a sample early; None writes all rollouts of each."""
    batch_size: int | None = Field(ge=1)
    """Prompts at once; None: as many as fit into ``score.memory_gb``."""
    server: ServerParams | None
    """That writes them instead of this process, by the proxy that it serves."""

    @model_validator(mode="after")
    def begin_below_the_most(self) -> Self:
        """Refuse a first round of all the rollouts that there may be."""
        if self.adaptive is not None and self.adaptive.first >= self.rollouts:
            raise InputError(
                f"score.probe.adaptive.first is {self.adaptive.first}, and "
                f"score.probe.rollouts, which is the most of a sample, "
                f"{self.rollouts}, so that nothing could be spared: raise "
                "score.probe.rollouts, such as to 16, or lower the other"
            )
        return self

    @property
    def in_a_round(self) -> int:
        """How many rollouts of a prompt are written at once at most."""
        if self.adaptive is None:
            return self.rollouts
        return max(self.adaptive.first, self.adaptive.step)


class GradientParams(Params):
    """Where gradients are taken, of which part of the adapter, in how many dimensions.

    ``lora``: at the adapter of the last blocks, sketched. ``weights``: of a policy of
    item tokens, at the weights themselves of the last blocks, sketched. ``hidden``: at the last
    hidden state, by a forward pass alone. ``hessian``: the published variant of it, the
    Hessian times the mean gradient.
    """

    space: Literal["lora", "weights", "hidden", "hessian"]
    last_blocks: int | None = Field(ge=1)
    dimensions: int = Field(ge=1)
    batch_size: int | None = Field(ge=1)
    """Prompts at once; None: as many as fit into ``score.memory_gb``."""


class RepresentativenessParams(Params):
    """Which direction a sample's gradient should align with.

    ``mean``: that of the pool's gradients, as published. ``proxy``: the way its adapter
    moved in training. ``validation``: the mean gradient of validation prompts, as LESS.
    """

    direction: Literal["mean", "proxy", "validation"]


class LearnabilityParams(Params):
    """Where learnability peaks and how fast it falls; no sigma: that of the pool.

    mu ``auto``: what `minirec.selection.learnability.auto_mu` says of the pool.
    """

    mu: float | Literal["auto"]
    sigma: float | None = Field(gt=0)

    @field_validator("mu", mode="wrap")
    @classmethod
    def be_a_reward(
        cls, given: Any, check: ValidatorFunctionWrapHandler
    ) -> float | Literal["auto"]:
        """Refuse in one sentence what is neither."""
        try:
            return check(given)
        except ValidationError:
            raise InputError(
                f"score.learnability.mu is {given!r}: give a mean reward, or auto for "
                "one that follows from the pool's"
            ) from None


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
    gradients: GradientParams | None
    """None: none are taken."""
    representativeness: RepresentativenessParams | None
    """None: no sample is more representative than another, and value is learnability."""
    learnability: LearnabilityParams
    value: ValueParams

    @model_validator(mode="after")
    def move_where_gradients_are(self) -> Self:
        """Refuse a direction that gradients of this space do not have, or none has."""
        if self.representativeness is None:
            return self
        if self.gradients is None:
            raise InputError(
                "score.gradients is null, and score.representativeness would score "
                "them: set it to null, too"
            )
        space = self.gradients.space
        sketched = space in ("lora", "weights")
        if self.representativeness.direction == "proxy" and not sketched:
            raise InputError(
                "score.representativeness.direction is proxy, the way that its adapter "
                f"moved, and score.gradients.space is {space}: take the space lora, or "
                "another direction"
            )
        return self
