"""Queries that read the log itself: prompts as they were, transcripts, and changes between versions."""
