"""The LLM that recommends: prompts, rollouts, log-probabilities and gradients."""
