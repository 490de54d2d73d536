"""Recall on PostgreSQL: search by words, word indexes in memory, and vectors with pgvector."""
