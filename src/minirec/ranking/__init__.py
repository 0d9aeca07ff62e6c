"""From what was written to scores over all items, ranks, rewards and metrics."""
