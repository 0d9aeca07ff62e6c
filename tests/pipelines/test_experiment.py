"""An experiment end to end on a tiny policy of items, and what it does twice or not."""

import copy
from types import SimpleNamespace

import ibis
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from minirec import schemas
from minirec.errors import InputError
from minirec.parameters import check_arms, check_parameters
from minirec.pipelines.experiment import nodes, work
from minirec.pipelines.experiment.kept import forget, keep
from minirec.pipelines.experiment.params import ArmSettings, changed, settings_of, shown

STRATEGIES = "minirec.selection.strategies"
ORDERS = "minirec.selection.curriculum"
SMALL = {
    "policy": {
        "item_tokens": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "pretraining": {"epochs": 3, "patience": 1, "validation_windows": 30},
        }
    },
    "preprocess": {"k_core": 2, "window": 6, "pool": {"train": 24, "test": 20}},
    "score": {
        "proxy": {"prompts": 8, "prompts_per_step": 4, "grpo": {"num_generations": 8}},
        "probe": {"rollouts": 8},
    },
    "select": {"prune": {"min_spread": None}, "size": 10},
    "train_eval": {
        "train": {
            "prompts_per_step": 4,
            "grpo": {"num_generations": 8, "num_train_epochs": 2},
        },
        "evaluation": {"bootstrap_draws": 200},
    },
}
EXPERIMENT = {
    "experiment": {
        "seeds": 2,
        "valid": 12,
        "scored_valid": 4,
        "only": "full minirec random",
        "search": [
            {"train_eval.train.grpo.learning_rate": 1e-3},
            {"train_eval.train.grpo.learning_rate": 1e-2},
        ],
        "search_seeds": 1,
    }
}


@pytest.fixture(scope="module")
def project(copy_project):
    """A copy of the project whose environment of items works on the fixtures."""
    path = copy_project()
    own = path / "conf" / "item_tokens"
    catalog = (path / "conf" / "test" / "catalog.yml").read_text()
    (own / "catalog.yml").write_text(catalog)
    merged = OmegaConf.merge(OmegaConf.load(own / "parameters.yml"), SMALL)
    OmegaConf.save(merged, own / "parameters.yml")
    OmegaConf.save(OmegaConf.create(EXPERIMENT), own / "parameters_experiment.yml")
    return path


@pytest.fixture(scope="module")
def given(parameters, project):
    """All parameters of the environment, as YAML holds them."""
    own = project / "conf" / "item_tokens"
    parts = [
        OmegaConf.load(own / f"{n}.yml")
        for n in ("parameters", "parameters_experiment")
    ]
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(parameters), *parts))


@pytest.fixture(scope="module")
def ran(project, kedro):
    """Tables of the project in which the experiment has run, and what it said."""
    parts = "preprocess,experiment"
    done = kedro(project, "run", "--env", "item_tokens", "--pipelines", parts)
    assert done.returncode == 0, done.stdout + done.stderr
    data = project / "data" / "item_tokens"
    return SimpleNamespace(
        data=data,
        said=done.stdout,
        interactions=pd.read_parquet(data / "02_intermediate" / "interactions.parquet"),
        items=pd.read_parquet(data / "02_intermediate" / "items.parquet"),
        prompts=pd.read_parquet(data / "03_primary" / "experiment_prompts.parquet"),
        rankings=pd.read_parquet(
            data / "07_model_output" / "experiment_rankings.parquet"
        ),
        runs=pd.read_csv(data / "08_reporting" / "experiment_runs.csv"),
        costs=pd.read_csv(data / "08_reporting" / "experiment_costs.csv"),
    )


@pytest.fixture
def again(ran, given):
    """Return a function that runs the experiment in this process, in some folder."""

    def run(folder, processes=1, prompts=ran.prompts, **experiment):
        whole = copy.deepcopy(given)
        whole["experiment"] |= experiment
        whole["execution"]["processes"] = processes
        params = check_parameters(whole)
        inputs = (
            ibis.memtable(ran.interactions),
            prompts,
            ran.items,
            *({}, {}, params.policy, params.ranking, params.preprocess.window),
            *(params.score, params.select, params.train_eval, params.experiment),
            *(params.execution, folder),
        )
        tuning = schemas.ExperimentTuning.validate(nodes.tune_arms(*inputs))
        return tuning, *nodes.run_arms(tuning, *inputs)

    return run


def without_time(table):
    return table.drop(columns="seconds", errors="ignore")


def test_every_output_is_there_and_holds_what_its_schema_says(ran):
    reporting = ran.data / "08_reporting"
    arms = {"before", "full", "minirec", "random"}
    assert set(ran.runs["arm"]) == set(ran.rankings["arm"]) == arms
    assert set(ran.runs["seed"]) == {1, 2}
    assert ran.rankings.groupby(["arm", "seed"]).size().eq(20).all()
    of_arm = ran.runs.set_index("arm")
    assert set(of_arm.loc["full", "samples"]) == {24}
    assert set(of_arm.loc["random", "samples"]) == {10}
    assert set(of_arm.loc["before", "samples"]) == {0}
    results = pd.read_csv(reporting / "experiment_results.csv")
    assert results.groupby("arm")["seed"].agg(list).map(set).eq({"1", "2", "all"}).all()
    own = results.set_index(["arm", "seed"])
    means = ran.runs.groupby("arm")["ndcg@10"].mean()
    for arm in arms:
        assert own.loc[(arm, "all"), "ndcg@10"] == pytest.approx(means[arm])
    assert own.loc[("random", "1"), "fraction"] == pytest.approx(10 / 24)
    flops = ran.runs.groupby("arm")["flops"].mean()
    assert own.loc[("random", "all"), "flops"] == pytest.approx(flops["random"])
    page = (reporting / "experiment_report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "Plotly.newPlot" in page
    assert "<script src=" not in page
    assert "4 arms on 2 seeds" in ran.said


def test_arms_of_a_seed_share_all_but_their_own(ran):
    shared = ran.costs[~ran.costs["part"].isin(["selection", "training"])]
    # measured once for a seed: seconds of all arms are the same to the last digit
    assert shared.groupby(["seed", "part"])["seconds"].nunique().eq(1).all()
    assert shared.groupby("part")["seconds"].nunique().eq(2).all()


def test_an_arm_pays_for_what_it_cannot_choose_without(ran):
    parts = ran.costs.groupby("arm")["part"].agg(set)
    assert parts["full"] == parts["random"] == {"selection", "training"}
    assert parts["minirec"] == {
        *("proxy", "rewards", "gradients", "embeddings"),
        *("selection", "training"),
    }
    assert "before" not in parts
    assert ran.runs.set_index("arm").loc["before", "flops"].eq(0).all()


def test_costs_by_hand(ran):
    own = ran.costs.set_index(["arm", "seed", "part"]).sort_index()
    # twice 10 prompts, 8 answers of one item each; steps of four prompts
    assert own.loc[("random", 1, "training"), "tokens_generated"] == 2 * 10 * 8
    assert own.loc[("full", 1, "training"), "tokens_generated"] == 2 * 24 * 8
    # twice 8 prompts of the proxy; 24 of the pool and 4 of validation are probed
    assert own.loc[("minirec", 1, "proxy"), "tokens_generated"] == 2 * 8 * 8
    assert own.loc[("minirec", 1, "rewards"), "tokens_generated"] == (24 + 4) * 8
    sums = ran.costs.groupby(["arm", "seed"])["flops"].sum()
    for row in ran.runs[ran.runs["arm"] != "before"].itertuples():
        assert row.flops == pytest.approx(sums[row.arm, row.seed])


def test_a_killed_experiment_goes_on_where_it_was(ran, again, tmp_path, monkeypatch):
    done = []
    train = work.train

    def die_at_the_fifth(inputs, folder, key, execution):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(key)
        return train(inputs, folder, key, execution)

    monkeypatch.setattr(work, "train", die_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        again(tmp_path)
    first = set(done)
    done.clear()

    def note(inputs, folder, key, execution):
        done.append(key)
        return train(inputs, folder, key, execution)

    monkeypatch.setattr(work, "train", note)
    _, runs, costs, rankings = again(tmp_path)
    assert len(first) == 4
    assert not first & set(done)
    # three arms try two settings on one seed, and go on with one of them on the other
    assert len(first) + len(done) == 3 * 2 + 3
    # as the one that was not killed, in another process
    pd.testing.assert_frame_equal(rankings, ran.rankings)
    expected = without_time(ran.runs)
    found = without_time(runs).fillna({"overrides": np.nan})
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    pd.testing.assert_frame_equal(without_time(costs), without_time(ran.costs))

    done.clear()
    again(tmp_path)
    assert done == []
    again(tmp_path, only="random")
    assert done == []


def test_the_longest_training_begins_first(given, again, tmp_path, monkeypatch):
    begun = []
    run_jobs = nodes.run_jobs

    def note(function, given, jobs, processes, label):
        if label == "arms":
            begun.extend(job.label for job in jobs)
        return run_jobs(function, given, jobs, processes, label)

    monkeypatch.setattr(nodes, "run_jobs", note)
    full = given["experiment"]["arms"]["full"]
    arms = {"one": {}, "same": {}, "full": full}
    again(tmp_path, search=[{}], only=None, arms=arms, seeds=[6])
    # and what another trains is not waited for
    names = ["full-0", "one-0", "before", "same-0"]
    assert begun == [f"{name}-seed-6" for name in names]


def test_processes_side_by_side_change_nothing(again, tmp_path):
    one, two = (
        again(tmp_path / str(n), processes=n, search=[{}], only="random", seeds=[3])
        for n in (1, 2)
    )
    for table, same in zip(one, two, strict=True):
        pd.testing.assert_frame_equal(without_time(table), without_time(same))


def test_more_prompts_to_tune_on_leave_what_was_made(ran, again, tmp_path):
    def made():
        return {path for path in tmp_path.glob("*/*") if path.parent.name != "ranks"}

    own = {"seeds": [4], "search": [{}], "only": "random"}
    valid = ran.prompts["split"] == "valid"
    last = ran.prompts[valid].nlargest(6, "draw").index
    again(tmp_path, prompts=ran.prompts.drop(index=last), **own)
    first = made()
    again(tmp_path, **own)
    assert made() == first != set()


def test_costs_that_are_unknown_stay_so_in_the_results(ran, given):
    params = check_parameters(given)
    runs = ran.runs.copy()
    runs.loc[(runs["arm"] == "full") & (runs["seed"] == 1), "flops"] = np.nan
    metrics = pd.read_csv(ran.data / "08_reporting" / "experiment_metrics.csv")
    tables = (runs, ran.rankings, metrics, ran.prompts, ran.items)
    found = nodes.list_results(*tables, params.experiment, "item_tokens", 200, 0.95, 1)
    schemas.ExperimentResults.validate(found.assign(data="ours"))
    unknown = found[found["flops"].isna()]
    assert unknown[["arm", "seed"]].to_numpy().tolist() == [
        ["full", "1"],
        ["full", "all"],
    ]


def test_seeds_differ_in_policy_proxy_and_draw(ran):
    before = ran.rankings[ran.rankings["arm"] == "before"]
    one, two = (before[before["seed"] == seed]["rank"].tolist() for seed in (1, 2))
    assert one != two
    params = SimpleNamespace(prompts=ran.prompts, scored_valid=4)
    drawn = [work.Given.scored(params, seed) for seed in (1, 2)]
    assert [len(each) for each in drawn] == [24 + 4] * 2
    first = [each.sort_values("draw")["sample_id"].tolist()[:8] for each in drawn]
    assert first[0] != first[1]


TABLES = pd.DataFrame(
    {
        "sample_id": [1, 2, 3, 4],
        "mean_reward": [0.1, 0.2, 0.3, 0.4],
        "std_reward": 0.1,
        "learnability": [0.0, 0.5, 1.0, 0.2],
        "representativeness": [0.4, 1.0, 0.0, 0.9],
        "value": [0.4, 1.5, 1.0, 1.1],
        "reason": "kept",
    }
)


@pytest.mark.parametrize(
    ("strategy", "order", "prune", "wanted"),
    [
        ("random", "order_shuffled", None, set()),
        ("random", "order_in_stages", None, {"rewards"}),
        ("random", "order_shuffled", 0.0, {"rewards"}),
        ("highest_reward", "order_shuffled", None, {"rewards"}),
        ("gradient_norm", "order_shuffled", None, {"rewards", "gradients"}),
        ("k_center", "order_shuffled", None, {"embeddings"}),
        ("without_representativeness", "order_sorted", None, {"rewards", "embeddings"}),
        ("without_diversity", "order_shuffled", None, {"rewards", "gradients"}),
        (
            "diverse",
            "order_in_stages",
            0.0,
            {"rewards", "gradients", "embeddings"},
        ),
    ],
)
def test_what_a_choice_takes(parameters, strategy, order, prune, wanted):
    assert needed(parameters, strategy, order, prune) == wanted


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        ("without_diversity", {"rewards"}),
        ("diverse", {"rewards", "embeddings"}),
        ("gradient_norm", {"rewards", "gradients"}),
    ],
)
def test_a_value_of_rewards_alone_takes_no_gradients(parameters, strategy, wanted):
    rest = {"score.representativeness": None}
    assert needed(parameters, strategy, "order_shuffled", None, **rest) == wanted


def needed(parameters, strategy, order, prune, **others):
    params = check_parameters(parameters)
    overrides = others | {
        "select.strategy": f"{STRATEGIES}.{strategy}",
        "select.curriculum.order": f"{ORDERS}.{order}",
        "select.prune.min_spread": prune,
        "select.size": 4,
        "select.curriculum.n_stages": 2,
    }
    settings = settings_of(
        overrides, params.score, params.select, params.train_eval.train
    )
    assert isinstance(settings, ArmSettings)
    rng = np.random.default_rng(0)
    matrix = {"sample_id": np.arange(1, 5), "matrix": rng.normal(size=(4, 3))}
    prompts, items = pd.DataFrame({"sample_id": [1, 2, 3, 4]}), pd.DataFrame()
    tables = (TABLES, prompts, items, matrix, matrix)
    selection = work.select.select_samples(
        *tables, settings.select.strategy, settings.select.size, 0
    )
    needs = work.needed(settings, *tables, selection, 0)
    return {name for name, needed in needs.items() if needed}


def test_what_was_made_is_kept_with_its_costs_until_it_is_damaged(tmp_path):
    made = []

    def make():
        made.append(1)
        return {
            "table": pd.DataFrame({"a": [1, 2]}),
            "matrix": {"matrix": np.ones((2, 2))},
        }

    folder = tmp_path / "kind" / "0123456789abcdef"
    for _ in range(2):
        kept = keep(folder, make)
        assert kept.load("table")["a"].tolist() == [1, 2]
        assert kept.load("matrix")["matrix"].sum() == 4
        assert kept.spent["seconds"] >= 0
        assert kept.spent["flops"] == 0
    assert len(made) == 1
    (folder / "table.parquet").write_bytes(b"")
    assert keep(folder, make).load("table")["a"].tolist() == [1, 2]
    assert len(made) == 2
    forget(folder)
    assert list(folder.parent.iterdir()) == []


def test_overrides_are_merged_by_their_paths():
    whole = {"select": {"prune": {"too_easy": 0.5, "too_hard": 0.1}, "size": 3}}
    new = changed(
        whole, {"select.prune.too_easy": {"quantile": 0.9}, "select.size": None}
    )
    assert new == {
        "select": {
            "prune": {"too_easy": {"quantile": 0.9}, "too_hard": 0.1},
            "size": None,
        }
    }
    assert whole["select"]["size"] == 3
    two = changed({"select.size": 3}, {"select": {"prune": {"too_hard": 0.2}}})
    assert shown(two) == "select.size=3, select.prune.too_hard=0.2"


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        ({"seeds": []}, "experiment.seeds"),
        ({"seeds": [1, 2, 1]}, "experiment.seeds holds 1 twice"),
        ({"seeds": [-1]}, "experiment.seeds holds -1"),
        ({"seeds": "4 5 4"}, "experiment.seeds holds 4 twice"),
        ({"seeds": "4 x"}, "experiment.seeds"),
        ({"only": "ful"}, "names ful, which is no arm: did you mean full?"),
        ({"only": "before"}, "leaves no arm to train"),
        ({"arms": {"before": {}}}, "this one is always there"),
        ({"arms": {"a/b": {}}}, "'a/b': use letters"),
        (
            {"arms": {"a": {"score.probe.rollouts": 4}}, "only": None},
            "experiment.arms.a changes score.probe.rollouts, which all arms share",
        ),
        (
            {"search": [{"policy.kind": "text"}, {}]},
            "experiment.search changes policy.kind",
        ),
        (
            {"arms": {"a": {"search": [{}]}}, "only": None},
            "experiment.arms.a.search is no list of 2 settings",
        ),
        ({"valid": 0}, "experiment.valid is 0, and experiment.search has 2 settings"),
        (
            {"arms": {"a": {"select.size": 500}}, "only": None},
            "experiment.arms.a, setting 0 .* select.size is 500, and "
            "preprocess.pool.train draws 24",
        ),
        (
            {"arms": {"a": {"select.sise": 5}}, "only": None},
            "experiment.arms.a, .*select.sise is unknown: did you mean size?",
        ),
        (
            {"arms": {"a": {"select.strategy": "no.where"}}, "only": None},
            "experiment.arms.a, .*select.strategy is 'no.where'",
        ),
        (
            {
                "arms": {"a": {"score.representativeness.direction": "validation"}},
                "only": None,
                "scored_valid": 0,
            },
            "experiment.arms.a, .*direction is validation",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(given, experiment, sentence):
    whole = copy.deepcopy(given)
    whole["experiment"] |= experiment
    with pytest.raises(InputError, match=sentence):
        check_arms(check_parameters(whole))


def test_an_arm_may_tune_what_it_alone_has(given):
    whole = copy.deepcopy(given)
    own = [{"select.prune.too_hard": 0.1}, {"select.prune.too_hard": 0.2}]
    whole["experiment"] |= {"only": None, "arms": {"a": {"search": own}, "b": {}}}
    experiment = check_parameters(whole).experiment
    assert [shown(each) for each in experiment.settings("a")] == [
        "select.prune.too_hard=0.1",
        "select.prune.too_hard=0.2",
    ]
    assert [shown(each) for each in experiment.settings("b")] == [
        "train_eval.train.grpo.learning_rate=0.001",
        "train_eval.train.grpo.learning_rate=0.01",
    ]


def breaks(ids, mean_reward, n_stages, seed):
    raise KeyError("column")


def test_the_order_of_an_arm_is_tried_before_anything_is_scored(given, caplog):
    whole = copy.deepcopy(given)
    order = f"{__name__}.breaks"
    whole["experiment"]["arms"] = {"a": {"select.curriculum.order": order}}
    whole["experiment"]["only"] = None
    check_arms(check_parameters(whole))
    (said,) = caplog.messages  # once, though the arm has two settings
    assert said.startswith(f"experiment.arms.a: select.curriculum.order {order} failed")


def test_a_larger_choice_than_the_pool_is_refused_where_the_pool_is_all(again):
    with pytest.raises(InputError, match="no prompts beyond the 16"):
        again("unused", scored_valid=16)


def test_with_one_setting_nothing_is_tried(again, tmp_path):
    tuning, runs, _, _ = again(tmp_path, search=[{}], only="random", seeds=[5], valid=0)
    assert tuning.empty
    assert runs["setting"].tolist() == [0, 0]
