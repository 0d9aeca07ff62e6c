"""Parameters of the pipeline, as `params:preprocess.*` hold them."""

from pydantic import Field

from minirec.histories.splits import Method
from minirec.policy.params import Params


class SplitParams(Params):
    """How interactions are split; the shares are for ``time`` alone."""

    method: Method
    valid: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)


class PoolParams(Params):
    """How many prompts are drawn from a split; None: all of them."""

    train: int | None = Field(ge=1)
    test: int | None = Field(ge=1)


class PreprocessParams(Params):
    """How histories become samples, and which of them become prompts."""

    k_core: int = Field(ge=1)
    window: int = Field(ge=1)
    split: SplitParams
    pool: PoolParams
