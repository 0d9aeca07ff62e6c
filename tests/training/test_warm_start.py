import pandas as pd
import torch

from minirec.policy.loading import load_model, load_tokenizer, new_adapter
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
