import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets import load_dataset
from minirec import schemas
from minirec.datasets.files import JSONLinesDataset, ParquetDataset
from minirec.errors import InputError
from minirec.pipelines.export import nodes, reward
from minirec.pipelines.export.reward import load_reward, make_reward
from minirec.policy.loading import load_tokenizer
from minirec.policy.params import PolicyParams, PromptParams, RankingParams
from minirec.policy.prompts import render_prompts
from minirec.ranking.encoder import encode, load_encoder

GUIDE = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
EXAMPLES = dict(
    zip(
        ("trl", "verl", "openrlhf"),
        re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL),
        strict=True,
    )
)
FILES = {"trl": "trl.parquet", "verl": "verl.parquet", "openrlhf": "openrlhf.jsonl"}
ORDER = [9, 4, 7, 2, 11, 3, 8, 5]  # ids of the samples, as the curriculum has them


@pytest.fixture(scope="module")
def prompt():
    given = {"template": "conf/prompts/titles.txt", "max_tokens": None}
    return PromptParams.model_validate(given)


@pytest.fixture(scope="module")
def items():
    titles = ["The Silent Harbour", 'The "Paper" {history}', "Été, à Paris", "Winter"]
    return pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": titles,
            "text": titles,
            "popularity": [3, 1, 1, 1],
        }
    )


@pytest.fixture(scope="module")
def prompts(items, policy_model, prompt):
    """One more than the curriculum has, in another order."""
    ids = [*sorted(ORDER), 12]
    seen = [["b", "c"], ["c"], ["b", "d", "c"]]
    pool = pd.DataFrame(
        {
            "sample_id": ids,
            "split": "train",
            "draw": range(len(ids)),
            "user_id": [f"u{sample_id}" for sample_id in ids],
            "target_item_id": "a",
            "history_item_id": [seen[row % 3][-2:] for row in range(len(ids))],
            "seen_item_id": [seen[row % 3] for row in range(len(ids))],
        }
    )
    table = render_prompts(pool, items, policy_model, prompt, max_new_tokens=8)
    # lists as Parquet gives them back
    return table.assign(seen_item_id=table["seen_item_id"].map(np.array))


@pytest.fixture(scope="module")
def curriculum():
    table = pd.DataFrame(
        {
            "position": range(len(ORDER)),
            "sample_id": ORDER,
            "stage": [0, 0, 0, 0, 1, 1, 1, 1],
            "mean_reward": np.linspace(0.9, 0.1, len(ORDER)),
        }
    )
    return table.sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, curriculum, prompts, items, policy_model, prompt):
    """The files, and a copy of the model's folder with their chat template."""
    path = tmp_path_factory.mktemp("export")
    tables = nodes.export_curriculum(
        curriculum, prompts, items, policy_model, prompt, "text"
    )
    models = (schemas.ForTRL, schemas.ForVerl, schemas.ForOpenRLHF)
    types = (ParquetDataset, ParquetDataset, JSONLinesDataset)
    for file, kind, table, model in zip(
        FILES.values(), types, tables, models, strict=True
    ):
        dataset = kind(filepath=str(path / file))
        dataset.save(model.validate(table))
        model.validate(dataset.load())
    shutil.copytree(policy_model["pretrained_model_name_or_path"], path / "model")
    template = nodes.export_chat_template(policy_model, prompt, "text")
    (path / "model" / "chat_template.jinja").write_text(template, "utf-8")
    return path


@pytest.fixture
def rows(folder, tmp_path):
    """Return a function that reads a file as the trainers do."""

    def read(trainer):
        file = str(folder / FILES[trainer])
        kind = "json" if file.endswith("jsonl") else "parquet"
        split = {"split": "train", "cache_dir": str(tmp_path)}
        return load_dataset(kind, data_files=file, **split)

    return read


def known(trainer, row):
    """What a reward of that trainer can ask about a sample."""
    return {
        "trl": lambda: row,
        "verl": lambda: row["extra_info"],
        "openrlhf": lambda: json.loads(row["label"]),
    }[trainer]()


@pytest.mark.parametrize("trainer", FILES)
def test_the_samples_come_back_in_the_order_of_the_curriculum(
    rows, trainer, prompts, curriculum
):
    found = [known(trainer, row) for row in rows(trainer)]

    assert [row["sample_id"] for row in found] == ORDER
    assert [row["position"] for row in found] == list(range(len(ORDER)))
    ordered = curriculum.sort_values("position")
    assert [row["stage"] for row in found] == ordered["stage"].tolist()
    assert [row["mean_reward"] for row in found] == ordered["mean_reward"].tolist()
    assert {row["target_title"] for row in found} == {"The Silent Harbour"}
    own = prompts.set_index("sample_id")
    for row in found:
        assert row["target_item_id"] == "a"
        assert row["history_item_id"] == own["history_item_id"][row["sample_id"]]
        assert row["seen_item_id"] == own["seen_item_id"][row["sample_id"]].tolist()


def test_the_columns_are_those_that_the_trainers_read(rows):
    assert set(rows("verl").column_names) == {
        *("data_source", "prompt", "ability", "reward_model", "extra_info")
    }
    first = rows("verl")[0]
    assert first["reward_model"] == {
        "style": "rule",
        "ground_truth": "The Silent Harbour",
    }
    assert first["extra_info"]["index"] == 0
    assert first["extra_info"]["split"] == "train"
    assert {"prompt", "datasource", "label"} <= set(rows("openrlhf").column_names)
    assert set(rows("openrlhf")["datasource"]) == {"minirec"}


@pytest.mark.parametrize("trainer", ["trl", "openrlhf"])
def test_the_texts_are_those_that_the_policy_reads(rows, trainer, prompts):
    text = prompts.set_index("sample_id")["prompt"]
    assert list(rows(trainer)["prompt"]) == text[ORDER].tolist()


@pytest.mark.parametrize(
    ("trainer", "column"), [("trl", "chat"), ("verl", "prompt"), ("openrlhf", "chat")]
)
def test_templating_the_messages_gives_the_same_text_and_tokens(
    rows, trainer, column, prompts, folder
):
    from trl.data_utils import is_conversational, maybe_apply_chat_template

    tokenizer = load_tokenizer({"pretrained_model_name_or_path": str(folder / "model")})
    own = prompts.set_index("sample_id").loc[ORDER]
    for row, text, n_tokens in zip(
        rows(trainer), own["prompt"], own["n_tokens"], strict=True
    ):
        messages = row[column]
        assert [each["role"] for each in messages] == ["system", "user"]
        # as TRL does it for a `prompt`, and all of them with the tokenizer itself
        assert is_conversational({"prompt": messages})
        assert maybe_apply_chat_template({"prompt": messages}, tokenizer) == {
            "prompt": text
        }
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert ids["input_ids"] == tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids["input_ids"]) == n_tokens


def test_a_sample_without_a_prompt_is_refused(
    curriculum, prompts, items, policy_model, prompt
):
    lacking = prompts[prompts["sample_id"] != 7]
    with pytest.raises(InputError, match="curriculum holds samples that prompts"):
        nodes.export_curriculum(
            curriculum, lacking, items, policy_model, prompt, "text"
        )


def test_prompts_of_another_chat_template_are_refused(
    curriculum, prompts, items, policy_model, prompt
):
    dated = prompts.assign(prompt="Today is Monday.\n" + prompts["prompt"])
    with pytest.raises(InputError, match="are not what the chat template of policy"):
        nodes.export_curriculum(curriculum, dated, items, policy_model, prompt, "text")


def test_trl_trains_on_the_samples_in_their_order(
    folder, prompts, tmp_path, monkeypatch
):
    """The guide's example, with the fixtures' model and on one core."""
    asked = []

    def earned(completions, target_item_id, seen_item_id):
        asked.append((list(target_item_id), list(seen_item_id)))
        return [float(len(text)) for text in completions]

    monkeypatch.setattr(reward, "load_reward", lambda project: earned)
    monkeypatch.chdir(tmp_path)  # where TRL puts its checkpoints
    changes = {
        '"HuggingFaceTB/SmolLM2-135M-Instruct"': f'"{folder / "model"}"',
        "/path/to/minirec/data/07_model_output/export": str(folder),
        'split="train"': f'split="train", cache_dir="{tmp_path}"',
        "max_completion_length=16": (
            "max_completion_length=2, use_cpu=True, bf16=False, report_to='none', "
            "save_strategy='no', disable_tqdm=True"
        ),
    }
    example = EXAMPLES["trl"]
    for old, new in changes.items():
        assert example.count(old) == 1
        example = example.replace(old, new)
    exec(example, {})

    seen = prompts.set_index("sample_id")["seen_item_id"]
    expected = [seen[sample_id].tolist() for sample_id in ORDER for _ in range(4)]
    assert [ids for _, step in asked for ids in step] == expected
    assert {target for step, _ in asked for target in step} == {"a"}


@pytest.mark.parametrize("trainer", ["verl", "openrlhf"])
def test_a_reward_of_the_guide_asks_about_the_completion_and_its_sample(
    rows, trainer, monkeypatch
):
    asked = []

    def earned(*given):
        asked.append(given)
        return [0.25]

    monkeypatch.setattr(reward, "load_reward", lambda project: earned)
    row = rows(trainer)[1]
    names = {}
    exec(EXAMPLES[trainer], names)
    if trainer == "verl":
        found = names["compute_score"](
            row["data_source"],
            "Winter",
            row["reward_model"]["ground_truth"],
            {**row["extra_info"], "num_turns": 2},
        )
    else:
        query = f"{row['prompt']}Winter<|im_end|>"
        answer = names["reward_func"]([query], [row["prompt"]], [row["label"]])
        (found,) = answer["rewards"].tolist()

    assert found == 0.25
    assert asked == [(["Winter"], ["a"], [known(trainer, row)["seen_item_id"]])]


def test_a_reward_is_that_of_the_rank_among_unseen_items(
    items, encoder_model, parameters
):
    texts = items["title"].tolist()
    embeddings = {"matrix": encode(load_encoder(encoder_model), texts)}
    policy = PolicyParams.model_validate(parameters["policy"])
    ranking = RankingParams(
        prior_weight=0.0, reward="minirec.ranking.rewards.ndcg_and_probability"
    )
    earned = make_reward(items, embeddings, encoder_model, policy, ranking)

    found = earned(
        ['Winter", surely', "Winter", ' "Winter', "The Silent Harbour"],
        ["d", "a", "d", "a"],
        [[], ["c"], [], ["d"]],
    )

    first, other, without, same = found
    assert first > 0.95  # the target's rank is 0
    assert other < 0.95
    assert without == 0
    assert same > 0.95
    with pytest.raises(InputError, match="items that items does not have"):
        earned(["Winter"], ["e"], [[]])


@pytest.fixture(scope="module")
def exported(test_run, kedro, tmp_path_factory):
    """A copy of the run in ``test`` with its export, and what the command said."""
    path = tmp_path_factory.mktemp("exported") / "project"
    shutil.copytree(test_run.path, path)
    return path, kedro(path, "run", "--env", "test", "--pipeline", "export")


def test_the_command_writes_every_file_with_what_it_was_made_from(exported, parameters):
    path, done = exported
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        "Wrote chat_template, openrlhf_dataset, trl_dataset, verl_dataset. "
        "Next: docs/export.md"
    )
    assert "10 samples in 4 stages" in done.stderr + done.stdout
    data = path / "data" / "test"
    curriculum = pd.read_parquet(data / "05_model_input" / "curriculum.parquet")
    lies = data / "05_model_input" / "curriculum.parquet.lineage.json"
    made = json.loads(lies.read_text())
    for trainer, file in FILES.items():
        lies = data / "07_model_output" / "export" / f"{file}.lineage.json"
        record = json.loads(lies.read_text())
        assert record["dataset"] == f"{trainer}_dataset"
        assert record["inputs"]["curriculum"] == made["key"]
        assert record["input_contents"]["curriculum"] == made["content"]
        assert record["upstream"]["params"]["params:select.size"] == len(curriculum)
    written = pd.read_parquet(data / "07_model_output" / "export" / "trl.parquet")
    ordered = curriculum.sort_values("position")
    assert written["sample_id"].tolist() == ordered["sample_id"].tolist()


def test_a_project_rewards_as_its_own_training_does(exported, monkeypatch):
    path, _ = exported
    monkeypatch.setattr(sys, "path", [*sys.path])  # which bootstrapping changes
    tables = path / "data" / "test"
    rollouts = pd.read_parquet(tables / "04_feature" / "rollouts.parquet")
    rewards = pd.read_parquet(tables / "04_feature" / "rewards.parquet")
    tasks = pd.read_parquet(tables / "03_primary" / "prompts.parquet")
    own = tasks.set_index("sample_id").loc[rollouts["sample_id"]]

    earned = load_reward(path, "test")(
        rollouts["completion"].tolist(),
        own["target_item_id"].tolist(),
        own["seen_item_id"].tolist(),
    )

    pd.testing.assert_frame_equal(
        rollouts[["sample_id", "rollout"]], rewards[["sample_id", "rollout"]]
    )
    # batches of other sizes round otherwise, in float32
    np.testing.assert_allclose(earned, rewards["reward"], atol=1e-5)


def test_a_stale_curriculum_is_not_exported(exported, kedro):
    path, _ = exported
    run = ("run", "--env", "test", "--pipelines", "export", "--params", "select.size=8")
    done = kedro(path, *run)
    assert done.returncode == 1
    said = " ".join((done.stdout + done.stderr).split())
    assert "`curriculum` is stale: params:select.size was 10, is 8. Run `kedro" in said
    assert "--pipelines select --only-missing-outputs --env test" in said
