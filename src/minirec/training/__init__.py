"""Train the policy through TRL: a supervised warm start, and GRPO."""
