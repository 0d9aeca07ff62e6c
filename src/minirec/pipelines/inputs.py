"""Datasets that several nodes take together, in the order of their arguments."""

MODELS = ["policy_model", "encoder_model"]
CATALOGUE = ["items", "item_embeddings"]
