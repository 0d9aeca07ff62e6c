"""All parameters as one model, and what must hold between those of two pipelines.

Kedro checks each group that a node takes, but no single number or text; this model
checks them all before anything runs, and refuses names that no node takes, such as a
misspelt ``score.prob``.
"""

from collections.abc import Container
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from minirec.errors import InputError, did_you_mean, what_is_wrong
from minirec.execution.params import ExecutionParams
from minirec.functions import function_at
from minirec.pipelines.experiment.params import ExperimentParams, changed, shown
from minirec.pipelines.preprocess.params import PreprocessParams
from minirec.pipelines.score.params import ScoreParams
from minirec.pipelines.select.params import SelectParams
from minirec.pipelines.train_eval.params import TrainEvalParams
from minirec.policy.params import Params, PolicyParams, RankingParams
from minirec.policy.rewards import try_reward
from minirec.ranking.rewards import reads_items, weighted_sum
from minirec.selection.answers import try_order, try_strategy
from minirec.selection.strategies import READ_GRADIENTS
from minirec.training.item_settings import item_settings

# which `--params` may name though the catalog takes them, see conf/base/globals.yml
OF_CATALOG = {"policy_model", "policy_revision", "encoder_model", "encoder_revision"}


# in the catalogue by which a reward is tried
MADE_UP_ITEMS = 1000


class Parameters(Params, extra="ignore"):
    """The groups that the pipelines take; groups of your own are left alone."""

    seed: int = Field(ge=0, lt=2**32)
    """Of all that is random: equal seeds give equal tables."""
    execution: ExecutionParams
    policy: PolicyParams
    ranking: RankingParams
    preprocess: PreprocessParams
    score: ScoreParams
    select: SelectParams
    train_eval: TrainEvalParams
    experiment: ExperimentParams

    @model_validator(mode="after")
    def draw_enough(self) -> Self:
        """Refuse to draw more samples than the pool will have."""
        pool = self.preprocess.pool.train
        for name, wanted in (
            ("select.size", self.select.size),
            ("score.proxy.prompts", self.score.proxy.prompts),
            ("score.warm_start.prompts", self.score.warm_start.prompts),
        ):
            if pool is not None and wanted is not None and wanted > pool:
                raise InputError(
                    f"{name} is {wanted}, and preprocess.pool.train draws {pool}: "
                    "lower the one or raise the other"
                )
        return self

    @model_validator(mode="after")
    def share_out_batches(self) -> Self:
        """Refuse steps that cannot be cut into equal parts."""
        processes = self.execution.train_processes
        for name, group in (
            ("score.proxy", self.score.proxy),
            ("train_eval.train", self.train_eval.train),
        ):
            n, parts = group.prompts_per_step, group.grpo.gradient_accumulation_steps
            if n % processes:
                raise InputError(
                    f"{name}.prompts_per_step is {n}, which execution.accelerate's "
                    f"{processes} processes cannot share out evenly: let it be a "
                    f"multiple of {processes}"
                )
            if n // processes * group.grpo.num_generations % parts:
                raise InputError(
                    f"{name}: {n // processes} prompts of {group.grpo.num_generations} "
                    "completions (prompts_per_step, grpo.num_generations) cannot be cut "
                    f"into the {parts} equal parts of grpo.gradient_accumulation_steps: "
                    "let it divide their product"
                )
        return self

    @model_validator(mode="after")
    def fit_the_kind(self) -> Self:
        """Refuse what the kind of policy does not have."""
        kind = self.policy.kind
        space = self.score.gradients and self.score.gradients.space
        if space == ("lora" if kind == "item_tokens" else "weights"):
            other = "weights" if kind == "item_tokens" else "lora"
            raise InputError(
                f"score.gradients.space is {space}, which policy.kind {kind} does not "
                f"have: take {other}, hidden or hessian"
            )
        if kind != "item_tokens":
            return self
        for name, given in (
            ("score.probe.server", self.score.probe.server),
            ("execution.accelerate", self.execution.accelerate),
        ):
            if given:
                raise InputError(
                    f"{name} is for text, and policy.kind is item_tokens, which this "
                    "process samples and trains in seconds: set it to null"
                )
        for group in (self.score.proxy, self.train_eval.train):
            item_settings(group.grpo)
        return self

    @model_validator(mode="after")
    def write_what_is_read(self) -> Self:
        """Refuse what makes or takes titles where the policy writes none."""
        if self.policy.kind != "policy_head":
            return self
        if self.score.probe.server is not None:
            raise InputError(
                "score.probe.server is set, and policy.kind is policy_head, whose "
                "hidden states no server gives: set the server to null, or take the "
                "kind text"
            )
        if self.score.warm_start.steps:
            raise InputError(
                f"score.warm_start.steps is {self.score.warm_start.steps}, which would "
                "teach titles, and policy.kind is policy_head, which writes none: set "
                "it to 0"
            )
        return self

    @model_validator(mode="after")
    def have_a_direction(self) -> Self:
        """Refuse a direction of prompts that are not drawn."""
        wanted = self.score.representativeness
        if wanted is None or wanted.direction != "validation":
            return self
        if self.preprocess.pool.valid == 0:
            raise InputError(
                "score.representativeness.direction is validation, and "
                "preprocess.pool.valid draws none: raise it, or take another direction"
            )
        return self

    @model_validator(mode="after")
    def choose_without_gradients(self) -> Self:
        """Refuse strategies that read gradients where none are taken."""
        if self.score.gradients is not None:
            return self
        named = [("select.strategy", self.select.strategy)]
        named += [("select.compare", path) for path in self.select.compare]
        for name, path in named:
            if function_at(path, name) in READ_GRADIENTS:
                raise InputError(
                    f"{name} names {path}, which reads gradients, and score.gradients "
                    "is null: leave it out, or take gradients"
                )
        return self


def check_parameters(parameters: dict) -> Parameters:
    """Return the parameters as a model.

    Parameters
    ----------
    parameters
        As Kedro's ``parameters`` holds them.

    Raises
    ------
    InputError
        Naming each parameter that is missing, unknown or out of range, or the reward if
        it fails for ranks that are made up.
    """
    for name in parameters.keys() - Parameters.model_fields.keys() - OF_CATALOG:
        if meant := did_you_mean(name, [*Parameters.model_fields, *OF_CATALOG]):
            raise InputError(f"parameters: {name} is unknown: {meant}".rstrip())
    try:
        checked = Parameters.model_validate(parameters)
    except ValidationError as error:
        raise InputError(_sentences(error)) from None
    # here and not in the model, which every arm of an experiment is held to as well;
    # without those that read the table of items, which may not be there yet
    rewards = [
        (path, weight)
        for path, weight in checked.ranking.rewards
        if not reads_items(function_at(path, "ranking.reward"))
    ]
    try_reward(weighted_sum(rewards, None), MADE_UP_ITEMS)
    return checked


def check_arms(parameters: Parameters) -> None:
    """Refuse an arm of the experiment whose parameters could not be run with.

    A strategy or order of its own is tried, as by `try_choices`.

    Parameters
    ----------
    parameters
        As `check_parameters` returns them.

    Raises
    ------
    InputError
        Naming the arm, its setting, and what is wrong with it; or if a server is to
        write the rollouts, which serves one proxy, while each seed has its own.
    """
    if parameters.score.probe.server is not None:
        raise InputError(
            "score.probe.server serves one proxy, and each seed of an experiment has "
            "its own: let score.probe.server be null for the pipeline experiment"
        )
    whole = parameters.model_dump(mode="json")
    # those that the arms' gradients are to agree with
    whole["preprocess"]["pool"]["valid"] = parameters.experiment.scored_valid
    whole["select"]["compare"] = []  # an experiment compares its arms alone
    tried: set[str] = set()
    for arm in parameters.experiment.names:
        for number, overrides in enumerate(parameters.experiment.settings(arm)):
            try:
                own = Parameters.model_validate(changed(whole, overrides))
            except ValidationError as error:
                raise InputError(
                    f"experiment.arms.{arm}, setting {number} "
                    f"({shown(overrides)}): {_sentences(error)}"
                ) from None
            tried |= try_choices(own, tried, f"experiment.arms.{arm}: ")


def try_choices(
    parameters: Parameters, tried: Container[str] = (), where: str = ""
) -> set[str]:
    """Try strategies and the order, if they are one's own, and warn if they fail.

    The run asks them only when everything is scored.

    Parameters
    ----------
    parameters
        That name them.
    tried
        Paths that need not be tried again.
    where
        What stands before the parameters in a message.

    Returns
    -------
    set of str
        The paths of all.
    """
    select, own = parameters.select, parameters.select.curriculum
    named = dict.fromkeys(select.compare, "select.compare")
    named[select.strategy] = "select.strategy"
    for path, name in named.items():
        if path not in tried:
            gradients = parameters.score.gradients is not None
            try_strategy(path, where + name, gradients)
    if own.order not in tried:
        try_order(own.order, f"{where}select.curriculum.order", own.n_stages)
    return {*named, own.order}


def plain_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return all parameters as plain values, alike whichever of them Kedro has checked.

    Parameters
    ----------
    parameters
        As the catalog's ``parameters`` holds them: as written, or as models.

    Raises
    ------
    InputError
        As `check_parameters`.
    """
    written = {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in parameters.items()
    }
    return written | check_parameters(written).model_dump(mode="json")


def _sentences(error: ValidationError) -> str:
    return "; ".join(_sentence(one) for one in error.errors())


def _sentence(error: ErrorDetails) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":  # one of our own
        said = str(error["ctx"]["error"])
        # a group that stands in several places does not know where it stands
        group = name.rpartition(".")[2]
        return name + said.removeprefix(group) if said.startswith(f"{group}.") else said
    if error["type"] == "extra_forbidden" and (known := _fields_of(error["loc"][:-1])):
        meant = did_you_mean(str(error["loc"][-1]), known)
        return f"parameters: {name} is unknown: {meant}There are {', '.join(known)}"
    return f"parameters: {what_is_wrong(error['loc'], error)}"


def _fields_of(place: tuple[int | str, ...]) -> list[str]:
    """Return the names in a group of parameters; none where it is not a plain group."""
    group: Any = Parameters
    for name in place:
        field = getattr(group, "model_fields", {}).get(name)
        group = field.annotation if field else None
    return sorted(getattr(group, "model_fields", {}))
