"""Parameters are checked as a whole, before anything runs."""

import copy
from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader

from minirec.errors import InputError
from minirec.parameters import check_arms, check_parameters
from minirec.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[1] / "conf"
OVERLAYS = sorted(
    folder.name
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in {"base", "local", "prompts"}
)
REWARD = "minirec.ranking.rewards.ndcg_and_probability"


@pytest.fixture
def changed(parameters):
    """Return a function that checks the parameters with one of them changed."""

    def check(path, value):
        whole = copy.deepcopy(parameters)
        *groups, last = path.split(".")
        group = whole
        for name in groups:
            group = group[name]
        group[last] = value
        return check_parameters(whole)

    return check


def test_names_may_be_given_as_one_text(changed):
    names = changed("train_eval.evaluation.metrics", "hr@5 mrr").train_eval
    assert names.evaluation.metrics == ["hr@5", "mrr"]
    strategies = ["minirec.selection.strategies." + n for n in ("random", "balanced")]
    assert changed("select.compare", " ".join(strategies)).select.compare == strategies
    assert changed("select.compare", "").select.compare == []


@pytest.mark.parametrize("env", OVERLAYS)
def test_every_overlay_gives_parameters_that_hold(env):
    args = {**CONFIG_LOADER_ARGS, "default_run_env": env}
    check_arms(check_parameters(OmegaConfigLoader(str(CONF), **args)["parameters"]))


def test_any_setting_of_trl_s_is_passed_by_its_own_name(changed):
    grpo = changed("train_eval.train.grpo.loss_type", "dr_grpo").train_eval.train.grpo
    assert grpo.config()["loss_type"] == "dr_grpo"


def test_there_may_be_no_baseline(changed):
    assert changed("train_eval.evaluation.baselines", []).train_eval


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            "score.warm_start.prompts",
            300,
            "score.warm_start.prompts is 300, and preprocess.pool.train draws 24: lower "
            "the one or raise the other",
        ),
        (
            "train_eval.train.grpo.lost_type",
            "grpo",
            "train_eval.train.grpo.lost_type is no setting of TRL's GRPOConfig: did you "
            "mean loss_type? Its documentation lists them",
        ),
        (
            "train_eval.train.grpo.temperature",
            0.7,
            "train_eval.train.grpo.temperature is decided by the parameter "
            "policy.sampling.temperature: set that one, and leave this out",
        ),
        (
            "train_eval.train.grpo.top_p",
            0.9,
            "train_eval.train.grpo.top_p would change nothing: completions are drawn "
            "from the whole distribution, at policy.sampling.temperature, unless "
            "use_vllm is true: leave it out",
        ),
        (
            "train_eval.train.grpo.logging_steps",
            5,
            "train_eval.train.grpo.logging_steps cannot be set, since the table of a "
            "training has a row for every step: leave it out",
        ),
        (
            "train_eval.train.grpo.gradient_accumulation_steps",
            3,
            "train_eval.train: 4 prompts of 4 completions (prompts_per_step, "
            "grpo.num_generations) cannot be cut into the 3 equal parts of "
            "grpo.gradient_accumulation_steps: let it divide their product",
        ),
        (
            "train_eval.evaluation.baselines",
            ["sasrec", "popularity", "sasrec"],
            "train_eval.evaluation.baselines names sasrec more than once: name each "
            "once",
        ),
        (
            "execution.accelerate",
            {"num_processes": 4},
            "score.proxy.prompts_per_step is 2, which execution.accelerate's 4 "
            "processes cannot share out evenly: let it be a multiple of 4",
        ),
        (
            "execution.accelerate",
            {"main_process_port": 0},
            "execution.accelerate: num_processes is to be 2 or more: give the number "
            "of processes, or set execution.accelerate to null to train in this one",
        ),
        (
            "train_eval.evaluation.metrics",
            ["hr@10", "ndgc@10"],
            "train_eval.evaluation.metrics names 'ndgc@10', which is no metric: did "
            "you mean ndcg@10? There are hr@k, ndcg@k, novelty@k and coverage@k, such "
            "as ndcg@10, and mrr",
        ),
        (
            "train_eval.evaluation.metrics",
            ["mrr", "coverage@50"],
            "train_eval.evaluation.metrics names coverage@50, and rankings hold 10 "
            "items: raise train_eval.evaluation.top_items",
        ),
        (
            "train_eval.evaluation.metrics",
            ["mrr", "mrr"],
            "train_eval.evaluation.metrics names a metric twice: name each once",
        ),
        (
            "train_eval.evaluation.metrics",
            ["coverage@10"],
            "train_eval.evaluation.metrics names none that says how well the target "
            "ranks: add hr@k, ndcg@k or mrr, such as ndcg@10",
        ),
        (
            "ranking.reward",
            [{"function": REWARD, "weight": 1}, {"function": "no.where", "weight": 1}],
            "ranking.reward is 'no.where', which cannot be imported (No module named "
            "'no'): give the dotted path of a function, such as package.module.function; "
            "a module of your own lies in src/",
        ),
    ],
)
def test_what_cannot_hold_is_told_in_one_sentence(changed, path, value, sentence):
    with pytest.raises(InputError) as refused:
        changed(path, value)
    assert refused.value.message == sentence
