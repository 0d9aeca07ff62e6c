from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from minirec.pipelines.score import nodes
from minirec.pipelines.score.params import WarmStartParams
from minirec.policy.loading import load_model, load_tokenizer, new_adapter
from minirec.training import warm_start
from minirec.training.warm_start import teach_answers


def test_the_title_of_the_target_becomes_likelier(policy_model, policy_params):
    tokenizer = load_tokenizer(policy_model)
    base = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    policy = new_adapter(base, policy_params.lora, seed=0)
    items = pd.DataFrame({"item_id": ["a", "b"], "title": ["Paper", "Winter"]})
    prompts = pd.DataFrame(
        {"prompt": ["The Amber", "A Garden"] * 2, "target_item_id": ["a"] * 4}
    )

    def loss():
        ids = tokenizer('The AmberPaper"', return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            return float(policy(ids, labels=ids).loss)

    before = loss()
    teach_answers(
        policy,
        tokenizer,
        prompts,
        items,
        policy_params.prompt,
        steps=20,
        learning_rate=0.05,
        prompts_per_step=4,
        seed=0,
    )
    assert loss() < before
    assert not policy.training


def test_a_rendered_prompt_gets_no_special_tokens_again(
    policy_model, policy_params, monkeypatch
):
    tokenizer = load_tokenizer(policy_model)
    begin = tokenizer.convert_ids_to_tokens(5)
    tokenizer.bos_token = begin
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, 5)]
    )
    assert tokenizer("Paper")["input_ids"][0] == 5
    base = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
    policy = new_adapter(base, policy_params.lora, seed=0)
    read = []

    def noted(_, args, given):
        labels = given["labels"]
        read.append((given["input_ids"].tolist(), (labels >= 0).tolist()))

    policy.register_forward_pre_hook(noted, with_kwargs=True)
    teach_answers(
        policy,
        tokenizer,
        pd.DataFrame({"prompt": ["The Amber"], "target_item_id": ["a"]}),
        pd.DataFrame({"item_id": ["a"], "title": ["Paper"]}),
        policy_params.prompt,
        steps=1,
        learning_rate=0.05,
        prompts_per_step=1,
        seed=0,
    )
    prompt, answer = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("The Amber", f'Paper"{tokenizer.eos_token}')
    )
    ((ids, asked),) = read
    assert ids == [prompt + answer]
    assert asked == [[False] * len(prompt) + [True] * len(answer)]


@pytest.mark.parametrize(("named", "learned"), [(None, [3]), (2, [3, 1])])
def test_it_learns_the_prompts_of_the_proxy_or_its_own(
    policy_model, policy_params, monkeypatch, named, learned
):
    taught = []
    monkeypatch.setattr(
        warm_start, "teach_answers", lambda *given: taught.append(given[2])
    )
    nodes.warm_start_policy(
        interactions=None,
        prompts=pd.DataFrame(
            {"sample_id": [1, 2, 3], "split": "train", "draw": [1, 2, 0]}
        ),
        items=pd.DataFrame(),
        policy_model=policy_model,
        kind="text",
        dtype="float32",
        prompt=policy_params.prompt,
        lora=policy_params.lora,
        item_tokens=None,
        window=3,
        n_prompts=1,
        warm_start=WarmStartParams(
            steps=1, prompts=named, learning_rate=0.1, prompts_per_step=1
        ),
        checkpoints=Path(),
        seed=0,
    )
    (prompts,) = taught
    assert prompts["sample_id"].tolist() == learned
