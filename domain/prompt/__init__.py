"""Prompts: assembled from a state, made canonical, compacted into a summary, reconstructed from the log."""
