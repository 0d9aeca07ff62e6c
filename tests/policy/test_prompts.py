import doctest
import shutil

import pandas as pd
import pytest

from minirec.errors import InputError
from minirec.policy import prompts
from minirec.policy.prompts import answer, render_prompts, titles


@pytest.fixture
def items():
    return pd.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "title": ["The Silent Harbour", "Braces {in} {history}", "Paper Garden"],
        }
    )


@pytest.fixture
def pool():
    return pd.DataFrame(
        {
            "sample_id": [9, 4],
            "split": ["test", "train"],
            "user_id": ["u1", "u2"],
            "target_item_id": ["c", "a"],
            "history_item_id": [["a", "b"], ["c"]],
            "seen_item_id": [["a", "b"], ["c"]],
        }
    )


def test_a_prompt_holds_the_titles_in_order(pool, items, policy_model, policy_params):
    table = render_prompts(pool, items, policy_model, policy_params.prompt, 6)
    assert table["sample_id"].tolist() == [4, 9]
    assert table["prompt"][1] == (
        "<|start|>system\nYou recommend movies. Answer with one title.<|end|>\n"
        "<|start|>user\nI watched:\nThe Silent Harbour\nBraces {in} {history}\n"
        "Which movie should I watch next?<|end|>\n"
        '<|start|>assistant\nYou should watch "'
    )
    assert table["n_tokens"][1] > table["n_tokens"][0]


def test_a_prompt_longer_than_the_context(pool, items, policy_model, policy_params):
    items["title"] = items["title"] + " and the Crooked Winter" * 60
    with pytest.raises(
        InputError, match=r"sample 9 has \d+ tokens.*preprocess\.window"
    ):
        render_prompts(pool, items, policy_model, policy_params.prompt, 6)


def test_titles_hold_no_end_of_an_answer_and_no_line():
    items = pd.DataFrame({"item_id": ["a"], "title": ['The "Real"\n Thing']})
    assert titles(items, '"') == {"a": "The Real Thing"}


def test_a_template_without_a_system_message(
    pool, items, policy_params, tmp_path, policy_model
):
    folder = shutil.copytree(
        policy_model["pretrained_model_name_or_path"], tmp_path / "m"
    )
    template = folder / "chat_template.jinja"
    refuse = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    )
    template.write_text(refuse + template.read_text())
    model = {"pretrained_model_name_or_path": str(folder)}
    with pytest.raises(InputError, match=r'set policy\.prompt\.system to ""'):
        render_prompts(pool, items, model, policy_params.prompt, 6)

    without = policy_params.prompt.model_copy(update={"system": ""})
    table = render_prompts(pool, items, model, without, 6)
    assert table["prompt"][0].startswith("<|start|>user\nI watched:\nPaper Garden")


@pytest.mark.parametrize(
    ("completion", "title"),
    [
        ('Paper Garden", which is', "Paper Garden"),
        ("Paper Garden\nand more", "Paper Garden"),
        ("\n Paper Garden", "Paper Garden"),
        ("Paper Gar", "Paper Gar"),
        ('"', ""),
    ],
)
def test_an_answer_is_what_stands_before_its_end(completion, title):
    assert answer(completion, '"') == title


def test_examples():
    assert doctest.testmod(prompts).failed == 0
