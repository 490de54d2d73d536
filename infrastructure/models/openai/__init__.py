"""Endpoints that speak OpenAI's chat completions, and what is different about each."""
