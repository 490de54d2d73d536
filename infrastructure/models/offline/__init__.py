"""Models that need no network: the built-in one, and the extractive summary."""
