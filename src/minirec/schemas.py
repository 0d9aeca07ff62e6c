"""The columns of every table, as pandera models that the catalog checks on save.

Ids are strings: an id is a name, whatever the source wrote it as. Rewards, ranks and
scores say their direction here once.
"""

import ibis.expr.datatypes as dt
import pandera.ibis as pai
import pandera.pandas as pa
from pandera.api.ibis.types import IbisData
from pandera.typing.pandas import Series

from minirec.columns import PARTS


class Interactions(pai.DataFrameModel):
    """Who chose what and when, after cleaning; a user has an item at most once.

    Of Ibis tables types alone are checked: a check of values would compute the table
    a second time. Nulls were refused when it was cleaned.
    """

    user_id: dt.string = pai.Field(nullable=True, description="as the source names it")
    item_id: dt.string = pai.Field(nullable=True, description="as the source names it")
    rating: dt.float64 = pai.Field(nullable=True, description="null without ratings")
    timestamp: dt.float64 = pai.Field(nullable=True, description="seconds since 1970")
    position: dt.int64 = pai.Field(nullable=True, description="in the user, from 0")
    split: dt.string = pai.Field(
        nullable=True, description="pretrain, train, valid or test"
    )


class Samples(pai.DataFrameModel):
    """One interaction each, with the window of the past before it."""

    sample_id: dt.int64 = pai.Field(nullable=True, description="row number from 0")
    user_id: dt.string = pai.Field(nullable=True, description="as the source names it")
    position: dt.int64 = pai.Field(nullable=True, description="of the target")
    timestamp: dt.float64 = pai.Field(nullable=True, description="of the target")
    target_item_id: dt.string = pai.Field(
        nullable=True, description="what the user chose next"
    )
    split: dt.string = pai.Field(nullable=True, description="of the target")

    @pai.dataframe_check
    @classmethod
    def history_item_id_holds_lists_of_ids(cls, data: IbisData) -> bool:
        """Check the column that pandera has no type for; oldest first."""
        return data.table.schema().get("history_item_id") == dt.Array(dt.string)


class Items(pa.DataFrameModel):
    """The catalogue, in ascending order of id: row i is item i of every ranking."""

    item_id: Series[str] = pa.Field(unique=True, description="as the source names it")
    title: Series[str] = pa.Field(
        str_length={"min_value": 1}, description="one line, as prompts show it"
    )
    text: Series[str] = pa.Field(description="what the encoder reads")
    popularity: Series[int] = pa.Field(ge=0, description="train interactions")


class Leakage(pa.DataFrameModel):
    """What training knows of the targets of a split; the counts are of its samples."""

    split: Series[str] = pa.Field(
        isin=["valid", "test"], unique=True, description="of the targets"
    )
    samples: Series[int] = pa.Field(ge=1, description="of the split")
    seen_targets: Series[int] = pa.Field(
        ge=0,
        description="the user trains on the same item: 0 unless something is wrong",
    )
    early_targets: Series[int] = pa.Field(
        ge=0, description="older than the last target of training: 0 if split by time"
    )
    new_targets: Series[int] = pa.Field(ge=0, description="training has no such item")


class Prompts(pa.DataFrameModel):
    """One next-item task each: what the policy reads and what the user chose."""

    sample_id: Series[int] = pa.Field(unique=True, ge=0, description="as in `samples`")
    split: Series[str] = pa.Field(
        isin=["train", "valid", "test"], description="of the target"
    )
    draw: Series[int] = pa.Field(
        ge=0, description="its place in the pool's draw: a larger pool only adds"
    )
    user_id: Series[str] = pa.Field(description="as the source names it")
    prompt: Series[str] = pa.Field(description="rendered by the chat template")
    n_tokens: Series[int] = pa.Field(gt=0, description="of the prompt")
    target_item_id: Series[str] = pa.Field(description="what the user chose next")
    history_item_id: Series[object] = pa.Field(description="oldest first")
    seen_item_id: Series[object] = pa.Field(description="all before the target")


class Rollouts(pa.DataFrameModel):
    """What the proxy wrote on each prompt; `rollout` counts from 0."""

    sample_id: Series[int] = pa.Field(description="as in `samples`")
    rollout: Series[int] = pa.Field(ge=0, description="from 0")
    completion: Series[str] = pa.Field(description="as it was written")
    token_id: Series[object] = pa.Field(description="with the end token, if written")

    class Config:
        """One row a rollout."""

        unique = ("sample_id", "rollout")


class Rewards(pa.DataFrameModel):
    """What each rollout earned; higher is better."""

    sample_id: Series[int] = pa.Field(description="as in `samples`")
    rollout: Series[int] = pa.Field(ge=0, description="from 0")
    rank: Series[int] = pa.Field(ge=0, description="of the target; 0 is best")
    reward: Series[float] = pa.Field(description="higher is better")
    failure: Series[str] = pa.Field(
        nullable=True,
        isin=["empty", "unparsable", "not_finite"],
        description="why there was no answer, which earns 0",
    )

    class Config:
        """One row a rollout."""

        unique = ("sample_id", "rollout")


class Learnability(pa.DataFrameModel):
    """How near a sample's mean reward lies to mu; higher teaches more."""

    sample_id: Series[int] = pa.Field(unique=True, description="as in `samples`")
    mean_reward: Series[float] = pa.Field(
        description="over its rollouts; higher is easier"
    )
    std_reward: Series[float] = pa.Field(ge=0, description="population std")
    learnability: Series[float] = pa.Field(
        ge=0, le=1, description="higher teaches more"
    )


class Representativeness(pa.DataFrameModel):
    """How a sample's gradient aligns with the global update; higher aligns more."""

    sample_id: Series[int] = pa.Field(unique=True, description="as in `samples`")
    representativeness: Series[float] = pa.Field(
        ge=0, le=1, description="higher aligns more"
    )


class Scores(pa.DataFrameModel):
    """Everything known of each sample of the pool, and its value."""

    sample_id: Series[int] = pa.Field(unique=True, description="as in `samples`")
    mean_reward: Series[float] = pa.Field(
        description="over its rollouts; higher is easier"
    )
    std_reward: Series[float] = pa.Field(
        ge=0, description="population std over its rollouts"
    )
    learnability: Series[float] = pa.Field(
        ge=0, le=1, description="higher teaches more"
    )
    representativeness: Series[float] = pa.Field(
        ge=0, le=1, description="higher aligns more"
    )
    value: Series[float] = pa.Field(
        ge=0, description="alpha x learnability + representativeness"
    )


class Candidates(Scores):
    """The scores, each with the reason why it stays or goes."""

    reason: Series[str] = pa.Field(
        isin=["kept", "too_easy", "too_hard", "no_spread"],
        description="why it stays or goes",
    )


class Selection(pa.DataFrameModel):
    """The chosen samples in order of choice, counted from 0."""

    position: Series[int] = pa.Field(
        unique=True, ge=0, description="in order of choice, from 0"
    )
    sample_id: Series[int] = pa.Field(unique=True, description="as in `samples`")
    value: Series[float] = pa.Field(
        ge=0, description="as in `scores`; higher is better"
    )


class StrategyPicks(pa.DataFrameModel):
    """What each of several strategies chooses of the same candidates."""

    # pandera's models have a method of the column's name
    path: Series[str] = pa.Field(alias="strategy", description="its dotted path")
    position: Series[int] = pa.Field(ge=0, description="in order of choice, from 0")
    sample_id: Series[int] = pa.Field(description="as in `samples`")

    class Config:
        """One row a strategy and pick."""

        unique = ("strategy", "position")


class Curriculum(pa.DataFrameModel):
    """The chosen samples in the order of training, counted from 0."""

    position: Series[int] = pa.Field(
        unique=True, ge=0, description="in the order of training, from 0"
    )
    sample_id: Series[int] = pa.Field(unique=True, description="as in `samples`")
    stage: Series[int] = pa.Field(ge=0, description="from 0, the easiest")
    mean_reward: Series[float] = pa.Field(
        description="over its rollouts; higher is easier"
    )


class Explanations(pa.DataFrameModel):
    """Why each chosen sample was chosen, in the order of training."""

    position: Series[int] = pa.Field(
        unique=True, ge=0, description="in the order of training, from 0"
    )
    stage: Series[int] = pa.Field(ge=0, description="from 0, the easiest")
    pick: Series[int] = pa.Field(
        unique=True, ge=0, description="in order of choice, from 0"
    )
    sample_id: Series[int] = pa.Field(unique=True, description="as in `samples`")
    user_id: Series[str] = pa.Field(description="as the source names it")
    target: Series[str] = pa.Field(description="title of what the user chose next")
    last_titles: Series[object] = pa.Field(
        description="of the history's last items, oldest first"
    )
    mean_reward: Series[float] = pa.Field(
        description="over its rollouts; higher is easier"
    )
    learnability: Series[float] = pa.Field(
        ge=0, le=1, description="higher teaches more"
    )
    representativeness: Series[float] = pa.Field(
        ge=0, le=1, description="higher aligns more"
    )
    value: Series[float] = pa.Field(
        ge=0, description="as in `scores`; higher is better"
    )
    distance: Series[float] = pa.Field(
        ge=0,
        le=2,
        nullable=True,
        description="cosine distance of its embedding from the nearest that was chosen "
        "before; null of the first pick, and beyond the first 4,096",
    )
    why: Series[str] = pa.Field(description="all of this in words; picks count from 1")


class TrainingLog(pa.DataFrameModel):
    """What training reported at each step, by TRL's own names; these among others."""

    step: Series[int] = pa.Field(unique=True, ge=1, description="from 1")
    loss: Series[float] = pa.Field(description="of the step")
    learning_rate: Series[float] = pa.Field(ge=0, description="at this step")
    reward: Series[float] = pa.Field(description="mean over the step's completions")
    reward_std: Series[float] = pa.Field(
        ge=0, description="of a prompt's completions, mean over the step's prompts"
    )
    frac_reward_zero_std: Series[float] = pa.Field(
        ge=0,
        le=1,
        description="share of completions whose group earned all the same",
    )
    mean_length: Series[float] = pa.Field(
        alias="completions/mean_length", ge=0, description="tokens of a completion"
    )
    entropy: Series[float] = pa.Field(
        ge=0, description="nats, mean over what was written"
    )
    num_tokens: Series[float] = pa.Field(
        ge=0,
        description="so far; a prompt counts once for each completion, of item tokens "
        "once",
    )
    tokens_per_second: Series[float] = pa.Field(
        ge=0, description="of the step, generation included, counted as num_tokens"
    )


class Consumed(pa.DataFrameModel):
    """The prompts in the order in which training consumed them."""

    position: Series[int] = pa.Field(
        unique=True, ge=0, description="in the order of training, from 0"
    )
    step: Series[int] = pa.Field(
        ge=0, description="the generation it belonged to, from 0"
    )
    sample_id: Series[int] = pa.Field(description="as in `samples`")
    stage: Series[int] = pa.Field(ge=0, description="of the curriculum")
    padding: Series[bool] = pa.Field(description="repeated to fill the last step")


class Rankings(pa.DataFrameModel):
    """Where each method placed the item that the user chose; rank 0 is best."""

    method: Series[str] = pa.Field(description="`trained`, `untrained` or a baseline")
    sample_id: Series[int] = pa.Field(description="as in `samples`")
    rank: Series[int] = pa.Field(ge=0, description="of the target; 0 is best")
    top_item_id: Series[object] = pa.Field(description="the first, best first")
    completion: Series[str] = pa.Field(nullable=True, description="if it wrote one")

    class Config:
        """One row a method and sample."""

        unique = ("method", "sample_id")


class Metrics(pa.DataFrameModel):
    """Mean over the test samples with its bootstrap interval; novelty is in bits.

    Higher is better, but for novelty and coverage, which no recommender needs to have.
    """

    method: Series[str] = pa.Field(description="as in `rankings`")
    metric: Series[str] = pa.Field(description="by its name, such as ndcg@10")
    mean: Series[float] = pa.Field(ge=0, description="over the samples")
    low: Series[float] = pa.Field(ge=0, nullable=True, description="null for coverage")
    high: Series[float] = pa.Field(ge=0, nullable=True, description="null for coverage")
    users: Series[int] = pa.Field(gt=0, description="of the samples")
    samples: Series[int] = pa.Field(gt=0, description="that the mean is over")

    class Config:
        """One row a method and metric."""

        unique = ("method", "metric")


class Comparisons(pa.DataFrameModel):
    """How far two methods are apart on the same samples, and whether by chance.

    Each pair is there in both directions.
    """

    metric: Series[str] = pa.Field(description="such as ndcg@10")
    method: Series[str] = pa.Field(description="as in `rankings`")
    other: Series[str] = pa.Field(description="the one that it is compared with")
    difference: Series[float] = pa.Field(description="of the means, method minus other")
    low: Series[float] = pa.Field(description="of the paired bootstrap interval")
    high: Series[float] = pa.Field(description="of the paired bootstrap interval")
    p_value: Series[float] = pa.Field(gt=0, le=1, description="randomisation test")
    p_holm: Series[float] = pa.Field(
        gt=0, le=1, description="the same, allowing for all that `method` meets"
    )
    users: Series[int] = pa.Field(gt=0, description="of the samples")
    samples: Series[int] = pa.Field(gt=0, description="that both ranked")

    class Config:
        """One row a pair of methods and metric."""

        unique = ("metric", "method", "other")


class GroupMetrics(pa.DataFrameModel):
    """The metrics within groups of test samples."""

    by: Series[str] = pa.Field(
        isin=["history_length", "target_popularity"],
        description="what the groups differ in",
    )
    least: Series[int] = pa.Field(ge=0, description="of the group")
    most: Series[int] = pa.Field(ge=0, description="of the group")
    method: Series[str] = pa.Field(description="as in `rankings`")
    metric: Series[str] = pa.Field(description="such as ndcg@10")
    mean: Series[float] = pa.Field(ge=0, description="over the group's samples")
    low: Series[float] = pa.Field(ge=0, description="of its bootstrap interval")
    high: Series[float] = pa.Field(ge=0, description="of its bootstrap interval")
    users: Series[int] = pa.Field(gt=0, description="of the samples")
    samples: Series[int] = pa.Field(gt=0, description="that the mean is over")

    class Config:
        """One row a group, method and metric."""

        unique = ("by", "least", "method", "metric")


class Costs(pa.DataFrameModel):
    """What each node took when it last ran."""

    pipeline: Series[str]
    node: Series[str] = pa.Field(unique=True)
    datasets: Series[str] = pa.Field(description="that it made")
    seconds: Series[float] = pa.Field(ge=0, description="with loading and saving")
    peak_memory_gb: Series[float] = pa.Field(gt=0, description="of the process so far")
    tokens_generated: Series[int] = pa.Field(ge=0, description="that models wrote")
    tokens_trained: Series[int] = pa.Field(
        ge=0, description="that a step of training read and differentiated"
    )
    tokens_read: Series[int] = pa.Field(
        ge=0, description="besides: prompts, rollouts scored, texts embedded"
    )
    flops: Series[float] = pa.Field(
        ge=0,
        nullable=True,
        description="of the models' matrix products; null: unknown, as of a server's",
    )
    finished_at: Series[str] = pa.Field(description="ISO 8601, UTC")


class ExperimentTuning(pa.DataFrameModel):
    """What each arm of an experiment earned on the validation split, by setting."""

    arm: Series[str]
    setting: Series[int] = pa.Field(ge=0, description="its place in the search")
    overrides: Series[str] = pa.Field(
        nullable=True, description="as --params takes them; null: none"
    )
    seed: Series[int] = pa.Field(ge=0)
    ndcg: Series[float] = pa.Field(alias="ndcg@10", ge=0, le=1)
    chosen: Series[bool]

    class Config:
        """One row an arm, setting and seed; none where there was one setting."""

        unique = ("arm", "setting", "seed")
        coerce = True


class ExperimentRankings(pa.DataFrameModel):
    """Where each arm placed the item that the user chose; rank 0 is best."""

    arm: Series[str]
    seed: Series[int] = pa.Field(ge=0)
    sample_id: Series[int]
    rank: Series[int] = pa.Field(ge=0)

    class Config:
        """One row an arm, seed and test sample."""

        unique = ("arm", "seed", "sample_id")


class ExperimentRuns(pa.DataFrameModel):
    """What each arm was trained on, what it was worth, and what all of it cost."""

    arm: Series[str]
    seed: Series[int] = pa.Field(ge=0)
    setting: Series[int] = pa.Field(ge=0, description="the chosen one")
    overrides: Series[str] = pa.Field(
        nullable=True, description="as --params takes them; null: none"
    )
    samples: Series[int] = pa.Field(ge=0, description="trained on; 0 before training")
    pool: Series[int] = pa.Field(ge=1, description="that they were chosen from")
    mean_reward: Series[float] = pa.Field(
        nullable=True, description="of the samples; null before training"
    )
    ndcg: Series[float] = pa.Field(alias="ndcg@10", ge=0, le=1)
    seconds: Series[float] = pa.Field(ge=0)
    tokens_generated: Series[int] = pa.Field(ge=0)
    tokens_trained: Series[int] = pa.Field(ge=0)
    tokens_read: Series[int] = pa.Field(ge=0)
    flops: Series[float] = pa.Field(ge=0, nullable=True, description="null: unknown")

    class Config:
        """One row an arm and seed."""

        unique = ("arm", "seed")


class ExperimentCosts(pa.DataFrameModel):
    """What an arm cost, part by part: of what arms share, what it cannot do without."""

    arm: Series[str]
    seed: Series[int] = pa.Field(ge=0)
    part: Series[str] = pa.Field(isin=list(PARTS))
    seconds: Series[float] = pa.Field(ge=0)
    tokens_generated: Series[int] = pa.Field(ge=0)
    tokens_trained: Series[int] = pa.Field(ge=0)
    tokens_read: Series[int] = pa.Field(ge=0)
    flops: Series[float] = pa.Field(ge=0, nullable=True, description="null: unknown")

    class Config:
        """One row an arm, seed and part."""

        unique = ("arm", "seed", "part")


class ExperimentMetrics(pa.DataFrameModel):
    """Mean over seeds and test samples, with its interval over users and seeds."""

    arm: Series[str]
    metric: Series[str] = pa.Field(description="by its name, such as ndcg@10")
    mean: Series[float] = pa.Field(ge=0)
    low: Series[float] = pa.Field(ge=0)
    high: Series[float] = pa.Field(ge=0)
    seeds: Series[int] = pa.Field(gt=0)
    users: Series[int] = pa.Field(gt=0)
    samples: Series[int] = pa.Field(gt=0)

    class Config:
        """One row an arm and metric."""

        unique = ("arm", "metric")


class ExperimentComparisons(pa.DataFrameModel):
    """How far two arms are apart on the same samples and seeds, and whether by chance."""

    metric: Series[str]
    arm: Series[str]
    other: Series[str]
    difference: Series[float] = pa.Field(description="of the means, arm minus other")
    low: Series[float] = pa.Field(description="of the interval over users and seeds")
    high: Series[float] = pa.Field(description="of the interval over users and seeds")
    p_value: Series[float] = pa.Field(
        gt=0, le=1, description="randomisation test over users, of the mean over seeds"
    )
    p_holm: Series[float] = pa.Field(
        gt=0, le=1, description="the same, allowing for all others of the arm"
    )
    verdict: Series[str] = pa.Field(
        isin=["better", "worse", "open"],
        description="better or worse only if interval and p_holm both say so",
    )
    seeds: Series[int] = pa.Field(gt=0)
    users: Series[int] = pa.Field(gt=0)
    samples: Series[int] = pa.Field(gt=0)

    class Config:
        """One row a metric and pair of arms, in both directions."""

        unique = ("metric", "arm", "other")


class ExperimentResults(pa.DataFrameModel):
    """NDCG@10 and costs of each arm, seed by seed and of all seeds together."""

    data: Series[str]
    policy: Series[str] = pa.Field(description="its kind")
    arm: Series[str]
    fraction: Series[float] = pa.Field(ge=0, le=1, description="of the pool")
    seed: Series[str] = pa.Field(description="or: all, with means of the costs")
    windows: Series[int] = pa.Field(gt=0, description="test samples")
    ndcg: Series[float] = pa.Field(alias="ndcg@10", ge=0, le=1)
    low: Series[float] = pa.Field(ge=0, description="over users; of all, seeds, too")
    high: Series[float] = pa.Field(ge=0, description="over users; of all, seeds, too")
    seconds: Series[float] = pa.Field(ge=0, description="selection included")
    tokens: Series[float] = pa.Field(ge=0, description="selection included")
    flops: Series[float] = pa.Field(
        ge=0, nullable=True, description="selection included; null: unknown"
    )

    class Config:
        """One row an arm and seed, and one an arm."""

        unique = ("arm", "seed")


class ForTRL(pa.DataFrameModel):
    """The curriculum in its order, as TRL's ``GRPOTrainer`` takes it.

    It hands every column but ``prompt`` on to the reward functions.
    """

    prompt: Series[str] = pa.Field(description="the whole text that the policy reads")
    chat: Series[object] = pa.Field(description="its messages, of role and content")
    n_tokens: Series[int] = pa.Field(gt=0)
    position: Series[int] = pa.Field(unique=True, ge=0)
    sample_id: Series[int] = pa.Field(unique=True)
    stage: Series[int] = pa.Field(ge=0)
    mean_reward: Series[float] = pa.Field(description="of the proxy; higher is easier")
    target_item_id: Series[str]
    target_title: Series[str] = pa.Field(description="as an answer holds it")
    history_item_id: Series[object] = pa.Field(
        description="in the prompt, oldest first"
    )
    seen_item_id: Series[object] = pa.Field(description="all before the target")


class ForVerl(pa.DataFrameModel):
    """The curriculum in its order, as verl's ``RLHFDataset`` takes it."""

    data_source: Series[str] = pa.Field(eq="minirec")
    prompt: Series[object] = pa.Field(description="messages, of role and content")
    ability: Series[str] = pa.Field(eq="recommendation")
    reward_model: Series[object] = pa.Field(
        description="style `rule`, and the target's title as ground_truth"
    )
    extra_info: Series[object] = pa.Field(
        description="index (the position), split, and `trl_dataset` from n_tokens on"
    )


class ForOpenRLHF(pa.DataFrameModel):
    """The curriculum in its order, as OpenRLHF's ``PromptDataset`` takes it."""

    prompt: Series[str] = pa.Field(description="the whole text that the policy reads")
    chat: Series[object] = pa.Field(description="its messages, of role and content")
    position: Series[int] = pa.Field(unique=True, ge=0)
    sample_id: Series[int] = pa.Field(unique=True)
    stage: Series[int] = pa.Field(ge=0)
    mean_reward: Series[float] = pa.Field(description="of the proxy; higher is easier")
    datasource: Series[str] = pa.Field(eq="minirec")
    label: Series[str] = pa.Field(description="JSON of `trl_dataset` from position on")
