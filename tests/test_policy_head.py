"""The whole way of the kind ``policy_head``, as a user runs it."""

import pandas as pd

from minirec.datasets.adapter import AdapterDataset
from minirec.policy.head import HeadPolicy
from minirec.policy.loading import attach_adapter, load_model, load_tokenizer
from minirec.policy.params import PolicyParams
from minirec.policy.rewards import Tasks
from minirec.ranking.grounding import target_rank

GIVEN = {
    "policy.kind": "policy_head",
    "policy.dtype": "float64",
    "policy.prompt.template": "conf/prompts/head.txt",
    "score.warm_start.steps": 0,
    "train_eval.train.grpo.learning_rate": 0.05,
}


def test_all_pipelines_run_and_no_item_is_stale(
    copy_project, kedro, parameters, policy_model
):
    path = copy_project()
    given = ",".join(f"{name}={value}" for name, value in GIVEN.items())
    done = kedro(path, "run", "--env", "test", "--params", given)
    assert done.returncode == 0, done.stdout + done.stderr
    data = path / "data" / "test"

    def table(name):
        return pd.read_parquet(next(data.rglob(f"{name}.parquet")))

    assert table("rewards")["failure"].isna().all()
    assert (table("proxy_log")["item_loss"] > 0).all()
    rank = table("rankings").pivot_table("rank", "sample_id", "method")
    assert (rank["trained"] != rank["untrained"]).any()

    params = PolicyParams.model_validate(
        {
            **parameters["policy"],
            "kind": "policy_head",
            "prompt": {"template": "conf/prompts/head.txt", "max_tokens": None},
        }
    )
    tokenizer = load_tokenizer(policy_model)
    base = load_model(policy_model, "float64", tokenizer, params.prompt)
    prompts, items = table("prompts"), table("items")
    test = prompts[prompts["split"] == "test"]
    for method, name in (("untrained", "initial"), ("trained", "policy")):
        adapter = AdapterDataset(filepath=str(data / f"06_models/{name}_adapter"))
        lm = attach_adapter(base, adapter.load())
        policy = HeadPolicy(items, params, lm, tokenizer)
        scores, _ = policy.recommend(test["prompt"].tolist())
        ids = test["sample_id"].tolist()
        found = target_rank(*Tasks(test, items).masked(ids, scores))
        assert found.tolist() == rank.loc[ids, method].tolist()
        base = lm.unload()
