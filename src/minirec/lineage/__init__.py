"""A record beside every saved dataset, and the hook that trusts only fresh ones."""
