"""Parameters of the pipeline, as `params:select.*` hold them."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from minirec.errors import InputError
from minirec.functions import function_at
from minirec.policy.params import Params


class PruneParams(Params):
    """Rewards beyond which a sample cannot teach; None: no limit."""

    too_easy: float | None
    too_hard: float | None
    min_spread: float | None = Field(ge=0)

    @model_validator(mode="after")
    def leave_a_range(self) -> Self:
        """Refuse limits that no mean reward can meet."""
        easy, hard = self.too_easy, self.too_hard
        if easy is not None and hard is not None and easy < hard:
            raise InputError(
                f"select.prune.too_easy ({easy:g}) is below select.prune.too_hard "
                f"({hard:g}), which leaves no sample: raise one or lower the other"
            )
        return self


class CurriculumParams(Params):
    """The order of training, by dotted path, and how many stages it has."""

    order: str
    n_stages: int = Field(ge=1)

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
    size: int = Field(ge=1)
    compare: list[str]
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
        if self.curriculum.n_stages > self.size:
            raise InputError(
                f"select.curriculum.n_stages is {self.curriculum.n_stages} for "
                f"select.size {self.size}: lower the one or raise the other"
            )
        return self
