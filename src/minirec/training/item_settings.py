"""Settings of GRPO for a policy of item tokens, by TRL's names."""

from typing import NamedTuple

from minirec.errors import InputError
from minirec.policy.params import GRPOParams

# settings of TRL's ``GRPOConfig`` that mean something here, with TRL's defaults
DEFAULTS = {
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "scale_rewards": "group",
}


class Settings(NamedTuple):
    """Of a run, by TRL's names."""

    learning_rate: float
    num_generations: int
    beta: float
    num_train_epochs: int
    max_grad_norm: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    scale_rewards: str


def item_settings(grpo: GRPOParams) -> Settings:
    """Return the settings that training by item tokens has.

    Raises
    ------
    InputError
        If there are others, or a step is to be taken in several parts or repeated.
    """
    given = grpo.model_dump()
    for name in ("gradient_accumulation_steps", "num_iterations"):
        if given.pop(name) != 1:
            raise InputError(
                f"grpo.{name} is not 1, and policy.kind is item_tokens, whose steps "
                "are taken whole and once: leave it out"
            )
    if others := given.keys() - set(Settings._fields):
        raise InputError(
            f"grpo.{min(others)} has no meaning where policy.kind is item_tokens, which "
            f"is not trained by TRL: leave it out; there are {', '.join(DEFAULTS)}"
        )
    settings = Settings(**{**DEFAULTS, **given})
    if settings.scale_rewards not in ("group", "none"):
        raise InputError(
            f"grpo.scale_rewards is {settings.scale_rewards!r}: give group or none, "
            "which policy.kind item_tokens has"
        )
    return settings
