"""Parameters of the pipeline, as `params:select.*` hold them."""

from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from minirec.errors import InputError
from minirec.functions import function_at
from minirec.policy.params import Params, words
from minirec.selection.pruning import Limit, Quantile


class PruneParams(Params):
    """Mean rewards beyond which a sample cannot teach; None: no limit.

    A limit is a mean reward, or ``{quantile: 0.9}`` of those of the pool.
    """

    too_easy: Limit | None
    """Samples with a higher mean reward go."""
    too_hard: Limit | None
    """Samples with a lower mean reward go."""
    min_spread: float | None = Field(ge=0)
    """Samples whose rewards have a lower standard deviation go; 0: those of equal
    rewards."""

    @field_validator("too_easy", "too_hard", mode="wrap")
    @classmethod
    def be_a_limit(
        cls, given: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Limit | None:
        """Refuse in one sentence what is no limit."""
        try:
            return check(given)
        except ValidationError:
            raise InputError(
                f"select.prune.{info.field_name} is {given!r}: give a mean reward, or "
                "{quantile: 0.9} for that quantile, from 0 to 1, of the pool's mean "
                "rewards, or null for no limit"
            ) from None

    @model_validator(mode="after")
    def leave_a_range(self) -> Self:
        """Refuse limits that no mean reward can meet, whatever the pool.

        A reward and a quantile are compared once the rewards are known.
        """
        easy, hard, kind = self.too_easy, self.too_hard, ""
        if isinstance(easy, Quantile) and isinstance(hard, Quantile):
            easy, hard, kind = easy.quantile, hard.quantile, "quantile "
        if isinstance(easy, float) and isinstance(hard, float) and easy < hard:
            raise InputError(
                f"select.prune.too_easy ({kind}{easy:g}) is below "
                f"select.prune.too_hard ({kind}{hard:g}), which leaves no sample: "
                "raise one or lower the other"
            )
        return self


class CurriculumParams(Params):
    """The order of training, by dotted path, and how many stages it has."""

    order: str
    """Dotted path of the function that orders the chosen samples."""
    n_stages: int = Field(ge=1)
    """Parts of equally many samples, the remainder in the last, in the order of
    training; at most ``select.size``."""

    @field_validator("order")
    @classmethod
    def find_order(cls, path: str) -> str:
        """Refuse a path that leads to no function."""
        function_at(path, "select.curriculum.order")
        return path


class SelectParams(Params):
    """What is left out, which strategy chooses how many, and in what order."""

    prune: PruneParams
    strategy: str
    """Dotted path of the function that chooses among what pruning keeps."""
    size: int | None = Field(ge=1)
    """Samples to choose; None: all that are kept."""
    compare: Annotated[list[str], BeforeValidator(words)]
    """Dotted paths of strategies whose picks are compared and not trained on; empty:
    none."""
    curriculum: CurriculumParams

    @field_validator("strategy")
    @classmethod
    def find_strategy(cls, path: str) -> str:
        """Refuse a path that leads to no function."""
        function_at(path, "select.strategy")
        return path

    @field_validator("compare")
    @classmethod
    def find_each_strategy_once(cls, paths: list[str]) -> list[str]:
        """Refuse a path that leads to no function or is there twice."""
        for path in paths:
            function_at(path, "select.compare")
            if paths.count(path) > 1:
                raise InputError(
                    f"select.compare names {path} {paths.count(path)} times: name each "
                    "strategy once"
                )
        return paths

    @model_validator(mode="after")
    def fill_every_stage(self) -> Self:
        """Refuse more stages than samples."""
        if self.size is not None and self.curriculum.n_stages > self.size:
            raise InputError(
                f"select.curriculum.n_stages is {self.curriculum.n_stages} for "
                f"select.size {self.size}: lower the one or raise the other"
            )
        return self
