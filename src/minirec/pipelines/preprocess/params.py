"""Parameters of the pipeline, as `params:preprocess.*` hold them."""

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from minirec.errors import InputError
from minirec.histories.splits import Method, Ties
from minirec.policy.params import Params


class FilterParams(Params):
    """Which interactions count, see `minirec.histories.prepare`; None: no limit."""

    min_rating: float | None
    """The lowest rating that counts, in the source's unit; rows without one go, too."""
    since: date | None
    """The first day that counts, in UTC, such as 2018-01-01."""
    until: date | None
    """The first day that no longer counts, in UTC."""
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
    """``leave_last_out``: each user's last interaction tests, the one before validates.
    ``time``: the last ones of all users. ``per_user``: the last ones of each."""
    pretrain: float = Field(ge=0, lt=1)
    """For ``per_user`` alone: share of each user's interactions, the first ones, that
    only pre-train a policy of item tokens."""
    valid: float = Field(gt=0, lt=1)
    """Share that validates: of all interactions for ``time``, of each user's for
    ``per_user``."""
    test: float = Field(gt=0, lt=1)
    """Share that tests, likewise."""
    ties: Ties
    """What orders a user's interactions at one time. ``random``: a hash of user and
    item, the same in every run."""


class PoolParams(Params):
    """How many prompts are drawn from a split; None: all of them."""

    train: int | None = Field(ge=1)
    """Drawn to be scored and chosen from."""
    valid: int | None = Field(ge=0)
    """Scored beside those of training, for a direction and not to be chosen."""
    test: int | None = Field(ge=1)
    """Drawn to be evaluated on."""


class PreprocessParams(Params):
    """How histories become samples, and which of them become prompts."""

    filter: FilterParams
    k_core: int = Field(ge=1)
    """Interactions that each user and each item keeps at least."""
    window: int = Field(ge=1)
    """Items of the past that a sample holds at most."""
    split: SplitParams
    item_text: str
    """How an item reads for the encoder: columns of ``raw_items`` in braces."""
    pool: PoolParams
