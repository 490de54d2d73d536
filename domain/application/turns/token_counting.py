"""Counting tokens beside the event loop, where a text is so long that others would wait for it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from domain.ports.tokens import TokenCounter

T = TypeVar("T")

MAX_INLINE_CHARS = 10_000
"""Characters that are counted at once: a few milliseconds. Starting a thread for less would take longer."""


async def in_thread_if_long(work: Callable[[], T], length: int) -> T:
    """Do work on texts of so many characters: in a thread, where it is long."""
    return work() if length <= MAX_INLINE_CHARS else await asyncio.to_thread(work)


def estimate_tokens(tokens: TokenCounter, text: str) -> int:
    """Return about the number of tokens in a text at once, however long it is: by its beginning."""
    if len(text) <= MAX_INLINE_CHARS:
        return tokens.count(text)
    return tokens.count(text[:MAX_INLINE_CHARS]) * len(text) // MAX_INLINE_CHARS + 1


async def count_tokens(tokens: TokenCounter, text: str) -> int:
    """Return the number of tokens in a text."""
    if len(text) <= MAX_INLINE_CHARS:
        return tokens.count(text)
    return await asyncio.to_thread(tokens.count, text)
