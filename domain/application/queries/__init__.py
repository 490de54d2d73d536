"""Queries that read the log: prompts as they were, transcripts, and changes between versions."""
