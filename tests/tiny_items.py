"""A tiny policy of item tokens, in float64, and prompts for it."""

import numpy as np
import pandas as pd

from minirec.policy import item_tokens
from minirec.policy.params import ItemTokenParams, PolicyParams

PRETRAINING = {
    "epochs": 3,
    "patience": 2,
    "validation_windows": 50,
    "batch_size": 4,
    "learning_rate": 0.01,
    "weight_decay": 0.0,
}
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
ITEMS = pd.DataFrame({"item_id": ["10", "20", "3 0", "4/0", "50", "60", "70", "80"]})

# histories of different length; some of what was seen lies before them
POOL = pd.DataFrame(
    {
        "sample_id": [4, 7, 9],
        "history_item_id": [["10", "3 0"], ["20"], ["50", "4/0", "60", "20"]],
        "seen_item_id": [["10", "3 0", "70"], ["20"], ["20", "4/0", "50", "60"]],
        "target_item_id": ["20", "80", "10"],
    }
)


def params(policy_params, slate_size=1, temperature=1.0, dtype="float64"):
    group = {**SIZES, "slate_size": slate_size, "pretraining": PRETRAINING}
    given = policy_params.model_dump()
    given |= {"kind": "item_tokens", "dtype": dtype, "item_tokens": group}
    given["sampling"] |= {"temperature": temperature}
    return PolicyParams.model_validate(given)


def make(given: PolicyParams, seed=0):
    """Return a policy whose weights are large enough to tell items apart."""
    group = given.item_tokens
    assert isinstance(group, ItemTokenParams)
    new = item_tokens.new_policy(ITEMS, group, given.dtype, window=4, seed=seed)
    for name, weight in new.lm.named_parameters():
        if weight.dim() == 2:
            weight.data.mul_(10 if "embed" in name else 8)
    saved = item_tokens.get_weights(new.lm, new.tokenizer)
    return item_tokens.load_policy(saved, given, ITEMS)


def prompts():
    return item_tokens.render_prompts(POOL)


def masked_by_hand(policy, row, temperature=1.0):
    """Log-probabilities of the next item for a row of the pool, from the logits alone."""
    import torch

    rows = {item: i for i, item in enumerate(ITEMS["item_id"])}
    own = POOL.iloc[row]
    ids = [len(rows), *(rows[item] for item in own["history_item_id"])]
    logits = policy.lm(torch.tensor([ids])).logits[0, -1, : len(rows)] / temperature
    free = [i for i in rows.values() if ITEMS["item_id"][i] not in own["seen_item_id"]]
    out = torch.full((len(rows),), -np.inf, dtype=logits.dtype)
    out[free] = logits[free] - logits[free].logsumexp(0)
    return out
