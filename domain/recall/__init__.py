"""Recall: which older messages match a question. Tokenizer, inverted index, BM25 ranking, excerpts."""
