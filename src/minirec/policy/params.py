"""Parameters of the policy, as `params:policy` holds them."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from kedro.utils import find_kedro_project
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from minirec.errors import InputError, did_you_mean
from minirec.functions import function_at

# the sections of a prompt template, and what stands for something in each
PLACEHOLDERS = {
    "system": (),
    "user": ("history",),
    "item": ("title", "rating", "time"),
    "answer": ("title", "reasoning"),
}

PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_NAME = re.compile(r"\[([a-z]+)\]")
_ANSWER = re.compile(r"(.*?)(?:\{reasoning\}(.+?))?\{title\}(.+)", re.DOTALL)


def words(given: Any) -> Any:
    """Take a text for the words in it: ``--params`` has no lists."""
    return given.split() if isinstance(given, str) else given


class Params(BaseModel):
    """A group of parameters in which an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PromptParams(Params):
    """The texts of a prompt, and how long it may be.

    Parameters give the texts as ``template``, the path of a text file, relative to the
    project; ``conf/prompts/titles.txt`` says how to write one. Once checked they are
    the sections of that file, so that an edit of the file is a change of parameters.
    An empty ``system`` leaves the system message out.
    """

    template: ClassVar[str]
    """Path of the file that holds the four texts below, from the project's folder: they
    are sections of it, and no parameters of their own."""
    system: str = ""
    """Section [system] of that file: the instruction."""
    user: str
    """Section [user]: the message, around {history}."""
    item: str
    """Section [item]: a line of the history, around {title}; may hold {rating} and
    {time}."""
    answer: str
    """Section [answer]: the answer, around {title}; may hold {reasoning} before it."""
    max_tokens: int | None = Field(ge=1)
    """Of a prompt at most: a longer one loses the oldest items of its history. None:
    what the model's context leaves beside the answer."""

    @model_validator(mode="before")
    @classmethod
    def read_file(cls, given: Any) -> Any:
        """Put the sections of the file in the place of its name."""
        if not isinstance(given, dict) or "template" not in given:
            return given  # checked before
        rest = {name: value for name, value in given.items() if name != "template"}
        if twice := [name for name in PLACEHOLDERS if name in rest]:
            raise InputError(
                f"policy.prompt names a template and gives {twice[0]} as well: write "
                f"it into the file below [{twice[0]}], and leave it out here"
            )
        return {**read_template(given["template"]), **rest}

    @model_validator(mode="after")
    def check_sections(self) -> Self:
        """Refuse placeholders that mean nothing where they stand, or are missing."""
        for section, known in PLACEHOLDERS.items():
            found = PLACEHOLDER.findall(getattr(self, section))
            if unknown := [name for name in found if name not in known]:
                names = " or ".join(f"{{{name}}}" for name in known)
                raise InputError(
                    f"policy.prompt.template: [{section}] holds {{{unknown[0]}}}, which "
                    f"stands for nothing: there may be {names or 'no placeholder'}"
                )
            if known and found.count(known[0]) != 1:
                raise InputError(
                    f"policy.prompt.template: [{section}] holds {{{known[0]}}} "
                    f"{found.count(known[0])} times: write it there once"
                )
        form = _ANSWER.fullmatch(self.answer)
        if not (
            form
            and form[3].strip()
            and (form[2] is None or form[2].strip())
            and "{reasoning}" not in form[1] + form[3]
        ):
            raise InputError(
                "policy.prompt.template: [answer] does not say where a title begins "
                'and ends: write it as "{title}" in quotation marks, or as '
                "{reasoning} <answer>{title}</answer>"
            )
        return self

    @property
    def answer_start(self) -> str:
        """What is given to the model: the answer goes on from here."""
        return self._form[0]

    @property
    def answer_mark(self) -> str:
        """What the model writes between its reasoning and the title, or nothing."""
        return self._form[1].strip()

    @property
    def answer_end(self) -> str:
        """What ends the title, as a line break does."""
        return self._form[2].strip()

    @property
    def _form(self) -> tuple[str, str, str]:
        form = _ANSWER.fullmatch(self.answer)
        assert form is not None
        return form[1], form[2] or "", form[3]


def read_template(name: str) -> dict[str, str]:
    """Return the sections of a prompt template, without blank lines around them.

    Parameters
    ----------
    name
        Path of a text file, relative to the project; ``conf/prompts/titles.txt`` says
        what it holds.

    Raises
    ------
    InputError
        If the file cannot be read, or its sections are not those it should have.
    """
    what = f"policy.prompt.template {name}"
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    try:
        text = (project / str(name)).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{what} cannot be read ({reason}): name a text file by its path from the "
            "project's folder, such as conf/prompts/titles.txt"
        ) from None
    sections: dict[str, str] = {}
    section = None
    for number, line in enumerate(text.split("\n"), start=1):
        if named := _NAME.fullmatch(line.strip()):
            section = named[1]
            if section not in PLACEHOLDERS or section in sections:
                raise InputError(
                    f"{what}: [{section}] in line {number} is "
                    f"{'there twice' if section in sections else 'no section'}: the "
                    "sections are [system], [user], [item] and [answer], each once"
                )
            sections[section] = ""
        elif section:
            sections[section] += f"{line.rstrip()}\n"
        elif line.strip() and not line.startswith("#"):
            raise InputError(
                f"{what}: line {number} belongs to no section: begin it with # if it "
                "is a comment, or put it below [system], [user], [item] or [answer]"
            )
    sections = {name: text.strip("\n") for name, text in sections.items()}
    for needed in ("user", "item", "answer"):
        if not sections.get(needed):
            raise InputError(
                f"{what} has no section [{needed}]: add it, as in "
                "conf/prompts/titles.txt"
            )
    return sections


class LoraParams(Params):
    """Low-rank adapters, by peft's own names."""

    r: int = Field(ge=1)
    """Rank of the adapter: more can learn more, and takes more memory."""
    lora_alpha: int = Field(ge=1)
    """The adapter's output is multiplied by lora_alpha / r."""
    lora_dropout: float = Field(ge=0, lt=1)
    """Share of the adapter's inputs that training leaves out at random."""
    target_modules: str | list[str]
    """Names of the layers that are adapted, or ``all-linear``."""


class SamplingParams(Params):
    """How the policy writes when it probes and when it trains."""

    max_new_tokens: int = Field(ge=1)
    """Of an answer at most, its reasoning included."""
    temperature: float = Field(gt=0)
    """Divides logits: below 1 answers are more alike, above 1 less."""


class PretrainingParams(Params):
    """The supervised start of a policy of item tokens: next-item prediction."""

    epochs: int = Field(ge=1)
    """At most."""
    patience: int = Field(ge=1)
    """Epochs without a better NDCG@10 on the validation split, after which it stops."""
    validation_windows: int = Field(ge=1)
    """Drawn from that split at most."""
    batch_size: int = Field(ge=1)
    """Pieces of histories a step."""
    learning_rate: float = Field(gt=0)
    """Of AdamW."""
    weight_decay: float = Field(ge=0)
    """Of AdamW; 0: none."""


class ItemTokenParams(Params):
    """The LM whose tokens are items, by the names of transformers' ``LlamaConfig``."""

    hidden_size: int = Field(ge=1)
    """Numbers of a token's state; a multiple of twice num_attention_heads."""
    intermediate_size: int = Field(ge=1)
    """Numbers between the two linear maps of a block."""
    num_hidden_layers: int = Field(ge=1)
    """Transformer blocks."""
    num_attention_heads: int = Field(ge=1)
    """Of each block."""
    slate_size: int = Field(ge=1)
    """Items of an answer."""
    pretraining: PretrainingParams

    @model_validator(mode="after")
    def divide_evenly(self) -> Self:
        """Refuse heads that rotary positions cannot turn."""
        if self.hidden_size % (2 * self.num_attention_heads):
            raise InputError(
                f"policy.item_tokens.hidden_size is {self.hidden_size}, which is no "
                f"multiple of twice num_attention_heads ({self.num_attention_heads}): "
                "change one of the two"
            )
        return self


class HeadParams(Params):
    """How the kind ``policy_head`` reads items, and what it learns of them."""

    item: str
    """The user's message by which an item is read, around {title}."""
    temperature: float = Field(gt=0)
    """Divides cosines in the item loss."""
    item_loss_weight: float = Field(ge=0)
    """Of the item loss beside the loss of what was written; 0: none."""
    refresh: int = Field(ge=1)
    """Training steps after which the items are read anew."""
    batch_size: int = Field(ge=1)
    """Items, or prompts with their rollouts, that are read at once."""

    @field_validator("item")
    @classmethod
    def hold_the_title(cls, item: str) -> str:
        """Refuse a text that would be the same for all items, or knows no such name."""
        if PLACEHOLDER.findall(item) != ["title"]:
            raise InputError(
                f"policy.head.item is {item!r}: write {{title}} into it once, which "
                "stands for the item's title, and no other placeholder"
            )
        return item


class PolicyParams(Params):
    """The kind of policy, its precision, prompts, adapter and sampling."""

    kind: Literal["text", "item_tokens", "policy_head"]
    """``text`` writes a title, ``item_tokens`` items, ``policy_head`` ranks by its own
    hidden state."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"]
    """Precision of the policy's weights and of computing with them."""
    prompt: PromptParams
    lora: LoraParams
    sampling: SamplingParams
    item_tokens: ItemTokenParams | None
    head: HeadParams

    @model_validator(mode="after")
    def describe_the_kind(self) -> Self:
        """Refuse the kind ``item_tokens`` without its group."""
        if self.kind == "item_tokens" and self.item_tokens is None:
            raise InputError(
                "policy.kind is item_tokens, and policy.item_tokens is null: run with "
                "--env item_tokens, or copy the group from "
                "conf/item_tokens/parameters.yml"
            )
        if self.kind == "item_tokens" and self.dtype not in ("float32", "float64"):
            raise InputError(
                f"policy.dtype is {self.dtype}, and policy.kind is item_tokens, all of "
                "whose weights are trained in small steps: take float32"
            )
        return self

    @model_validator(mode="after")
    def reason_before_the_mark(self) -> Self:
        """Refuse a head without a mark to read the hidden state at."""
        if self.kind == "policy_head" and not self.prompt.answer_mark:
            raise InputError(
                "policy.kind is policy_head, which reads its hidden state at the mark "
                "behind the reasoning, and [answer] of policy.prompt.template has no "
                "{reasoning}: name conf/prompts/head.txt, or one of your own that has"
            )
        return self


class RewardParams(Params):
    """One of several rewards, and how much of it counts."""

    function: str
    """Its dotted path: ``f(ranks, scores, targets)``, or with ``items`` behind them;
    higher is better."""
    weight: float
    """Multiplies it before all are added up; a negative one punishes."""


class RankingParams(Params):
    """How what was written becomes a ranking, and a ranking a reward."""

    prior_weight: float = Field(ge=0)
    """How much popularity, from 0 to 1, adds to the similarity of texts, from -1 to
    1."""
    reward: str | Annotated[list[RewardParams], Field(min_length=1)]
    """The dotted path of a function, or several with their weights."""

    @field_validator("reward")
    @classmethod
    def find_reward(cls, given: str | list[RewardParams]) -> str | list[RewardParams]:
        """Refuse a path that leads to no function."""
        for path, _ in _weighted(given):
            function_at(path, "ranking.reward")
        return given

    @property
    def rewards(self) -> list[tuple[str, float]]:
        """The paths of all rewards with their weights."""
        return _weighted(self.reward)


def _weighted(reward: str | list[RewardParams]) -> list[tuple[str, float]]:
    if isinstance(reward, str):
        return [(reward, 1.0)]
    return [(one.function, one.weight) for one in reward]


# what MiniRec itself sets of TRL's `GRPOConfig`, and which parameter decides it
DECIDED = {
    "output_dir": "data in globals.yml",
    "seed": "seed",
    "temperature": "policy.sampling.temperature",
    "max_completion_length": "policy.sampling.max_new_tokens",
    "per_device_train_batch_size": "prompts_per_step",
    "generation_batch_size": "prompts_per_step",
    "steps_per_generation": "gradient_accumulation_steps",
    "max_steps": "num_train_epochs",
    "shuffle_dataset": "select.curriculum",
    "save_strategy": "execution.checkpoint_steps",
    "save_steps": "execution.checkpoint_steps",
    "bf16": "policy.dtype",
    "fp16": "policy.dtype",
    "reward_weights": "ranking.reward",
    "chat_template_kwargs": "policy.prompt.template",
}

_EACH_STEP = "the table of a training has a row for every step"
_AS_IT_GOES = "prompts are drawn while training goes on, not ahead of it"

# what no parameter decides, and why it is as it is
FIXED = {
    "logging_strategy": _EACH_STEP,
    "logging_steps": _EACH_STEP,
    "dataloader_num_workers": _AS_IT_GOES,
    "dataloader_prefetch_factor": _AS_IT_GOES,
}

# what TRL's own sampling and vLLM's understand
OF_SAMPLING = (
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "generation_kwargs",
    "cache_implementation",
)


class GRPOParams(BaseModel):
    """Settings of TRL's ``GRPOConfig``, by its own names: these, and any other."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    learning_rate: float = Field(gt=0)
    """Of the optimizer, AdamW unless ``optim`` names another."""
    num_generations: int = Field(ge=2)
    """Completions of each prompt, which are compared with one another."""
    beta: float = Field(ge=0)
    """Weight of the divergence from the policy before training; 0: none."""
    num_train_epochs: int = Field(1, ge=1)
    """Passes over the prompts, each in the same order."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Parts that a step's completions are trained on in, one after the other."""
    num_iterations: int = Field(1, ge=1)
    """Optimizer steps on the same completions."""

    @model_validator(mode="after")
    def be_known(self) -> Self:
        """Refuse names that TRL does not know, and those that would be passed over."""
        others = self.model_extra or {}
        for name in others:
            if name in DECIDED:
                raise InputError(
                    f"grpo.{name} is decided by the parameter {DECIDED[name]}: set "
                    "that one, and leave this out"
                )
            if name in FIXED:
                raise InputError(
                    f"grpo.{name} cannot be set, since {FIXED[name]}: leave it out"
                )
            if name in OF_SAMPLING and not others.get("use_vllm"):
                raise InputError(
                    f"grpo.{name} would change nothing: completions are drawn from the "
                    "whole distribution, at policy.sampling.temperature, unless "
                    "use_vllm is true: leave it out"
                )
        if others:  # TRL takes seconds to import
            from trl import GRPOConfig

            known = {field.name for field in fields(GRPOConfig)}
            for name in others.keys() - known:
                raise InputError(
                    f"grpo.{name} is no setting of TRL's GRPOConfig: "
                    f"{did_you_mean(name, known)}Its documentation lists them"
                )
        return self

    def config(self) -> dict[str, Any]:
        """Return them as keyword arguments, but those that make up the order."""
        return self.model_dump(exclude={"num_train_epochs"})


class PaceParams(Params):
    """When a stage of the curriculum gives way to the next, harder one."""

    rise: float = Field(ge=0)
    """In mean reward, above what the proxy earned on the same prompts."""
    window: int = Field(ge=1)
    """Prompts of a stage, the last ones, over which the rise is averaged."""
    max_passes: int = Field(ge=1)
    """Through a stage at most; then the next one opens all the same."""
