"""Parameters of the pipeline, as `params:preprocess.*` hold them."""

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from minirec.errors import InputError
from minirec.histories.splits import Method
from minirec.policy.params import Params


class FilterParams(Params):
    """Which interactions count, see `minirec.histories.prepare`; None: no limit."""

    min_rating: float | None
    since: date | None
    until: date | None
    untitled: Literal["fail", "drop"]
    """What to do about items without a title; ``drop``: leave out what names them."""

    @model_validator(mode="after")
    def leave_a_day(self) -> Self:
        """Refuse limits between which no time lies."""
        if self.since and self.until and self.since >= self.until:
            raise InputError(
                f"preprocess.filter.since is {self.since}, and until is {self.until}, "
                "the first day that no longer counts: let it be later"
            )
        return self


class SplitParams(Params):
    """How interactions are split; the shares are for ``time`` and ``per_user``."""

    method: Method
    pretrain: float = Field(ge=0, lt=1)
    """For ``per_user`` alone: each user's first ones, which only pre-train a policy."""
    valid: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)


class PoolParams(Params):
    """How many prompts are drawn from a split; None: all of them."""

    train: int | None = Field(ge=1)
    valid: int | None = Field(ge=0)
    """Scored beside those of training, for a direction and not to be chosen."""
    test: int | None = Field(ge=1)


class PreprocessParams(Params):
    """How histories become samples, and which of them become prompts."""

    filter: FilterParams
    k_core: int = Field(ge=1)
    window: int = Field(ge=1)
    split: SplitParams
    item_text: str
    pool: PoolParams
