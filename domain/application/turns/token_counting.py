"""Counting tokens: long texts in a thread, so that they do not block the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from domain.ports.tokens import TokenCounter

T = TypeVar("T")

MAX_INLINE_CHARS = 10_000
"""Characters that are counted in the event loop, in a few milliseconds. For fewer, a thread would take longer."""


async def in_thread_if_long(work: Callable[[], T], length: int) -> T:
    """Run `work` on texts of `length` characters: in a thread if they are long."""
    return work() if length <= MAX_INLINE_CHARS else await asyncio.to_thread(work)


def estimate_tokens(tokens: TokenCounter, text: str) -> int:
    """Estimate the tokens of a text without waiting: a long one by its beginning."""
    if len(text) <= MAX_INLINE_CHARS:
        return tokens.count(text)
    return tokens.count(text[:MAX_INLINE_CHARS]) * len(text) // MAX_INLINE_CHARS + 1


async def count_tokens(tokens: TokenCounter, text: str) -> int:
    """Return the number of tokens in a text."""
    if len(text) <= MAX_INLINE_CHARS:
        return tokens.count(text)
    return await asyncio.to_thread(tokens.count, text)
