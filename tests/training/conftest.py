import numpy as np
import pandas as pd
import pytest

from minirec.policy.loading import load_model, load_tokenizer, new_adapter
from minirec.policy.text import Catalogue, TextPolicy
from minirec.ranking.encoder import encode, load_encoder


@pytest.fixture(scope="module")
def items():
    return pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["The Amber Garden", "Paper", "The Velvet Orchard", "Winter"],
        }
    )


@pytest.fixture(scope="module")
def prompts():
    return pd.DataFrame(
        {
            "sample_id": [4, 7, 9, 12, 15],
            "prompt": [
                f"{word} Machine" for word in ["The", "A", "Paper", "Golden", "My"]
            ],
            "target_item_id": ["a", "b", "c", "d", "a"],
            "seen_item_id": [["b"], ["a"], ["a", "b"], [], ["d"]],
        }
    )


@pytest.fixture
def learner(policy_model, encoder_model, policy_params, items):
    """Return a function that makes the same untrained policy again."""

    def make():
        tokenizer = load_tokenizer(policy_model)
        lm = load_model(policy_model, "float32", tokenizer, policy_params.prompt)
        embeddings = encode(load_encoder(encoder_model), items["title"].tolist())
        no_prior = np.zeros(len(items))
        catalogue = Catalogue(items, encoder_model, embeddings, no_prior, 0.0)
        policy = new_adapter(lm, policy_params.lora, seed=0)
        return TextPolicy(catalogue, policy_params, policy, tokenizer)

    return make
