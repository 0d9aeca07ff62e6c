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
    """Of supervised training, on prompts of the pool and their targets; 0: none."""
    prompts: int | None = Field(ge=1)
    """That it learns, the first of the pool's random draw; None: the proxy's."""
    learning_rate: float = Field(gt=0)
    """Of these steps."""
    prompts_per_step: int = Field(ge=1)
    """Prompts that a step learns."""


class ProxyParams(Params):
    """The short GRPO run on a random subset that makes the proxy."""

    prompts: int = Field(ge=1)
    """That it trains on: the first of the pool's random draw."""
    grpo: GRPOParams
    prompts_per_step: int = Field(ge=1)
    """Prompts of a step, each with ``grpo.num_generations`` completions."""


class ProbeParams(Params):
    """How many rollouts the proxy writes on each prompt, how many at once, and where."""

    rollouts: int = Field(ge=2)
    """Answers to each prompt; the most, if probing is adaptive."""
    adaptive: AdaptiveParams | None
    """Stops a sample early; None writes all rollouts of each."""
    batch_size: int | None = Field(ge=1)
    """Prompts at once; None: as many as fit into ``score.memory_gb``."""
    server: ServerParams | None
    """Writes the rollouts instead of this process, by the proxy that it serves; None:
    none does."""

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
    """What the loss is differentiated by: ``lora`` for a policy of text, ``weights``
    for one of item tokens, ``hidden`` or ``hessian`` for any."""
    last_blocks: int | None = Field(ge=1)
    """Transformer blocks, the last ones, that count in ``lora`` and ``weights``; None:
    all."""
    dimensions: int = Field(ge=1)
    """Numbers of the sketch, in ``lora`` and ``weights``: more keep angles better and
    take more disk."""
    batch_size: int | None = Field(ge=1)
    """Prompts at once; None: as many as fit into ``score.memory_gb``."""


class RepresentativenessParams(Params):
    """Which direction a sample's gradient should align with.

    ``mean``: that of the pool's gradients, as published. ``proxy``: the way its adapter
    moved in training. ``validation``: the mean gradient of validation prompts, as LESS.
    """

    direction: Literal["mean", "proxy", "validation"]
    """``mean`` of all gradients, the way that the ``proxy`` moved (in ``lora`` and
    ``weights``), or the mean gradient of ``validation`` prompts."""


class LearnabilityParams(Params):
    """Where learnability peaks and how fast it falls; no sigma: that of the pool.

    mu ``auto``: what `minirec.selection.learnability.auto_mu` says of the pool.
    """

    mu: float | Literal["auto"]
    """Mean reward that teaches most; ``auto`` finds it from the pool's own rewards."""
    sigma: float | None = Field(gt=0)
    """Width of the curve around mu, in mean reward: a larger one forgives more; None: the
    standard deviation of the pool's mean rewards."""

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
    """Value is alpha x learnability + representativeness; 0: representativeness
    alone."""


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
