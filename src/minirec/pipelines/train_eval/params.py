"""Parameters of the pipeline, as `params:train_eval.*` hold them."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from minirec.errors import InputError
from minirec.policy.params import GRPOParams, PaceParams, Params, words
from minirec.ranking.metrics import COVERAGE, NOVELTY, OF_RANK, metric_named
from minirec.training.sasrec import SasrecParams


class TrainParams(Params):
    """The GRPO run on the curriculum."""

    grpo: GRPOParams
    prompts_per_step: int = Field(ge=1)
    """Prompts of a step, each with ``grpo.num_generations`` completions."""
    pace: PaceParams | None
    """When a harder stage of the curriculum opens; None: after one pass through the one
    before."""


class ItemKnnParams(Params):
    """The baseline `minirec.ranking.baselines.item_knn_scores`."""

    neighbours: int = Field(ge=1)
    """Items most like an item that are kept."""
    last: int = Field(ge=1)
    """Items of a history that count, the last ones."""


class EvaluationParams(Params):
    """What ranks beside the policy, and how rankings are summed up."""

    batch_size: int = Field(ge=1)
    """Prompts that are ranked at once."""
    baselines: Annotated[
        list[Literal["popularity", "nearest", "item_knn", "sasrec"]],
        BeforeValidator(words),
    ]
    """What ranks beside the policy before and after training; empty: nothing."""
    item_knn: ItemKnnParams
    sasrec: SasrecParams
    top_items: int = Field(ge=1)
    """First items that a ranking holds."""
    metrics: Annotated[list[str], BeforeValidator(words)] = Field(min_length=1)
    """``hr@k``, ``ndcg@k``, ``mrr``, ``novelty@k``, ``coverage@k``: the first two that
    say how well the target ranks are printed and drawn."""
    groups: int = Field(ge=1)
    """Of test samples, of about as many each, by length of history and by popularity of
    the target."""
    bootstrap_draws: int = Field(ge=100)
    """Of each interval, and of each test: more are surer and slower."""
    confidence: float = Field(gt=0, lt=1)
    """Share of these draws that an interval holds."""

    @model_validator(mode="after")
    def rank_by_each_once(self) -> Self:
        """Refuse a baseline that is named twice, as it would be trained twice."""
        for name in self.baselines:
            if self.baselines.count(name) > 1:
                raise InputError(
                    f"train_eval.evaluation.baselines names {name} more than once: "
                    "name each once"
                )
        return self

    @model_validator(mode="after")
    def know_the_metrics(self) -> Self:
        """Refuse metrics that are unknown, or of more items than rankings hold."""
        named = [
            metric_named(name, "train_eval.evaluation.metrics") for name in self.metrics
        ]
        if len(set(named)) < len(named):
            raise InputError(
                "train_eval.evaluation.metrics names a metric twice: name each once"
            )
        if not any(kind in OF_RANK for kind, _ in named):
            raise InputError(
                "train_eval.evaluation.metrics names none that says how well the target "
                "ranks: add hr@k, ndcg@k or mrr, such as ndcg@10"
            )
        for name, (kind, k) in zip(self.metrics, named, strict=True):
            if kind in (NOVELTY, COVERAGE) and k and k > self.top_items:
                raise InputError(
                    f"train_eval.evaluation.metrics names {name}, and rankings hold "
                    f"{self.top_items} items: raise train_eval.evaluation.top_items"
                )
        return self


class TrainEvalParams(Params):
    """All of the pipeline's parameters."""

    train: TrainParams
    evaluation: EvaluationParams
