"""What a reader sees of a run: figures and a short summary."""
