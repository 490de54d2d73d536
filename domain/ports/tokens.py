"""Counting tokens."""

from typing import Protocol


class TokenCounter(Protocol):
    """Counts the tokens that a model will see."""

    def count(self, text: str) -> int:
        """Return the number of tokens in a text."""
