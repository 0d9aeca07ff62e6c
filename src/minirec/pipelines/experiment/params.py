"""Parameters of the pipeline, as `params:experiment` holds them.

An arm is what one would write behind ``--params``: parameters by their dotted paths,
such as ``select.size``, with other values than the run has.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from minirec.errors import InputError, did_you_mean
from minirec.pipelines.score.params import ScoreParams
from minirec.pipelines.select.params import SelectParams
from minirec.pipelines.train_eval.params import TrainParams
from minirec.policy.params import Params, words

# the policy before reinforcement, an arm of every experiment
BEFORE = "before"

# what an arm may change: what comes after the rollouts and gradients that arms share
OF_ARMS = (
    "score.learnability",
    "score.representativeness",
    "score.value",
    "select",
    "train_eval.train",
)

# beside parameters, what an arm tries in the place of `experiment.search`
SEARCH = "search"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")

Overrides = dict[str, Any]
"""Values by dotted paths, or nested."""


class ArmSettings(NamedTuple):
    """The parameters of an arm that its own may differ in."""

    score: ScoreParams
    select: SelectParams
    train: TrainParams


class ExperimentParams(Params):
    """Which arms are trained on which seeds, and what each of them tries first."""

    data: str | None
    """What the tables and the reports call the data; None: as the catalog names its
    histories."""
    seeds: list[int] = Field(min_length=1)
    """Each has its own policy before reinforcement, proxy, rollouts, draws and
    training. Parameters may give their number n for the seeds from 1 to n, or them as
    one text, with blanks between."""
    valid: int | None = Field(ge=0)
    """Prompts of the validation split, on which settings are chosen; None: all."""
    scored_valid: int = Field(ge=0)
    """Further ones whose gradients are collected, for arms that agree with them."""
    only: Annotated[list[str] | None, BeforeValidator(words)]
    """Names of the arms to run; None: all. Parameters may give them as one text, with
    blanks between."""
    arms: dict[str, Overrides | None]
    """By name, what each arm changes of the run's parameters; None leaves an arm out
    that another configuration names."""
    search: list[Overrides] = Field(min_length=1)
    """What every arm tries on the validation split, beside its own parameters."""
    search_seeds: int = Field(ge=1)
    """How many of the seeds it is tried on, the first of them."""

    @field_validator("seeds", mode="before")
    @classmethod
    def count_seeds(cls, given: Any) -> Any:
        """Take a number n for the seeds from 1 to n, and a text for those in it."""
        if isinstance(given, int) and not isinstance(given, bool):
            if given < 1:
                raise InputError(f"experiment.seeds is {given}: give at least 1")
            return list(range(1, given + 1))
        return words(given)

    @field_validator("seeds", mode="after")
    @classmethod
    def know_each_seed_once(cls, seeds: list[int]) -> list[int]:
        """Refuse seeds that are there twice, or that no generator takes."""
        for seed in seeds:
            if not 0 <= seed < 2**32:
                raise InputError(
                    f"experiment.seeds holds {seed}: give whole numbers from 0 to "
                    f"{2**32 - 1}"
                )
            if seeds.count(seed) > 1:
                raise InputError(
                    f"experiment.seeds holds {seed} twice, which would count one "
                    "result as two: give each seed once"
                )
        return seeds

    @field_validator("arms")
    @classmethod
    def change_what_arms_may(
        cls, arms: dict[str, Overrides | None]
    ) -> dict[str, Overrides | None]:
        """Refuse names that are no names, and parameters that all arms share."""
        for name, given in arms.items():
            if name == BEFORE or not _NAME.fullmatch(name):
                raise InputError(
                    f"experiment.arms names {name!r}: "
                    + (
                        "this one is always there, give yours another name"
                        if name == BEFORE
                        else "use letters, digits, and -._ behind the first"
                    )
                )
            own = {k: v for k, v in (given or {}).items() if k != SEARCH}
            _refuse_shared(own, f"experiment.arms.{name}")
        return arms

    @field_validator("search")
    @classmethod
    def search_what_arms_may_change(cls, search: list[Overrides]) -> list[Overrides]:
        """Refuse parameters that all arms share."""
        for overrides in search:
            _refuse_shared(overrides, "experiment.search")
        return search

    @model_validator(mode="after")
    def try_as_much(self) -> Self:
        """Refuse arms that are unknown or try more or less than the others."""
        known = [name for name, given in self.arms.items() if given is not None]
        for name in self.only or ():
            if name not in (*known, BEFORE):
                raise InputError(
                    f"experiment.only names {name}, which is no arm: "
                    f"{did_you_mean(name, known)}experiment.arms names "
                    + ", ".join(known)
                )
        if not self.names:
            raise InputError(
                "experiment.arms leaves no arm to train: name one, such as "
                "minirec: {}, and let experiment.only be null or name it"
            )
        for name in self.names:
            own = (self.arms[name] or {}).get(SEARCH, self.search)
            if not isinstance(own, list) or len(own) != len(self.search):
                raise InputError(
                    f"experiment.arms.{name}.{SEARCH} is no list of "
                    f"{len(self.search)} settings, as experiment.search is: arms "
                    "that try more than others would win by that alone"
                )
            for overrides in own:
                _refuse_shared(overrides, f"experiment.arms.{name}.{SEARCH}")
        if self.tunes and self.valid == 0:
            raise InputError(
                f"experiment.valid is 0, and experiment.search has {len(self.search)} "
                "settings to choose from on prompts of the validation split: raise "
                "experiment.valid, or leave one setting"
            )
        return self

    @property
    def names(self) -> list[str]:
        """The arms that are trained, in the order of the parameters."""
        return [
            name
            for name, given in self.arms.items()
            if given is not None and (self.only is None or name in self.only)
        ]

    @property
    def tunes(self) -> bool:
        """Whether there is a choice of settings."""
        return len(self.search) > 1

    @property
    def tuned_on(self) -> list[int]:
        """The seeds on which settings are chosen."""
        return self.seeds[: self.search_seeds]

    def settings(self, arm: str) -> list[Overrides]:
        """Return what an arm tries: its parameters with those of each setting."""
        given = dict(self.arms[arm] or {})
        search = given.pop(SEARCH, self.search)
        return [changed(_nested(given), setting) for setting in search]


def settings_of(
    overrides: Overrides, score: ScoreParams, select: SelectParams, train: TrainParams
) -> ArmSettings:
    """Return the parameters of a run with some of them changed.

    Raises
    ------
    ValidationError
        If they cannot hold; `minirec.parameters` says so before anything runs.
    """
    whole = {
        "score": score.model_dump(mode="json"),
        "select": select.model_dump(mode="json"),
        "train_eval": {"train": train.model_dump(mode="json")},
    }
    new = changed(whole, overrides)
    return ArmSettings(
        ScoreParams.model_validate(new["score"]),
        SelectParams.model_validate(new["select"]),
        TrainParams.model_validate(new["train_eval"]["train"]),
    )


def changed(values: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Return nested values with those at some paths replaced.

    A group in the place of a group changes what it names; anything else takes the
    other's place.

    Examples
    --------
    >>> changed({"select": {"size": 64, "strategy": "a"}}, {"select.size": 8})
    {'select': {'size': 8, 'strategy': 'a'}}
    """
    new = dict(values)
    for name, value in _nested(overrides).items():
        old = new.get(name)
        both = isinstance(value, dict) and isinstance(old, Mapping)
        new[name] = changed(old or {}, value) if both else value
    return new


def shown(overrides: Overrides) -> str:
    """Return overrides as one line, as ``--params`` takes them.

    Examples
    --------
    >>> shown({"select": {"size": 8, "prune": {"too_easy": None}}})
    'select.size=8, select.prune.too_easy=null'
    """
    return ", ".join(f"{path}={_plain(value)}" for path, value in _leaves(overrides))


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _leaves(overrides: Overrides, above: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in overrides.items():
        path = f"{above}{name}"
        whole = not isinstance(value, dict) or not value
        found += [(path, value)] if whole else _leaves(value, f"{path}.")
    return found


def _nested(overrides: Overrides) -> Overrides:
    """Return overrides without dots in their names."""
    tree: Overrides = {}
    for path, value in overrides.items():
        first, _, rest = path.partition(".")
        inner = {rest: value} if rest else value
        if isinstance(inner, dict):
            inner = _nested(inner)
            old = tree.get(first)
            inner = changed(old, inner) if isinstance(old, dict) else inner
        tree[first] = inner
    return tree


def _refuse_shared(overrides: Any, where: str) -> None:
    """Refuse what is no group of parameters, and parameters that all arms share."""
    if not isinstance(overrides, dict):
        raise InputError(
            f"{where} holds {overrides!r}: write parameters and their values, such as "
            "select.size: 64"
        )
    for path, _ in _leaves(overrides):
        if not any(path == group or path.startswith(f"{group}.") for group in OF_ARMS):
            raise InputError(
                f"{where} changes {path}, which all arms share: an arm may change "
                f"{', '.join(OF_ARMS[:-1])} and {OF_ARMS[-1]}; set it for the whole run"
            )
