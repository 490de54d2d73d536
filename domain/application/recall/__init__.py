"""Recall while turns run: search, the texts of found messages, their cache, and embedding."""
