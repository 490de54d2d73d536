"""A cache of recalled messages, so that they are neither read nor counted again.

Messages are immutable, so a cached one is never stale. Each is cached under the thread that owns it: a fork has its
parent's messages itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sys import getsizeof

from msgspec.structs import replace

from domain.application.recall.messages import read_messages
from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId
from domain.lru import Lru
from domain.prompt.assemble import Count, excerpt_tokens
from domain.recall.bm25 import Hit
from domain.recall.excerpts import Excerpt, FoundMessage

MAX_CACHE_BYTES = 32_000_000
"""What the messages of the threads that were used last may take."""

MAX_CACHED_CHARS = 50_000
"""A longer message is not cached."""

ENTRY_BYTES = 400
"""What a message or an excerpt takes in addition to its text, roughly."""

UNNAMED = frozenset({"", "user", "assistant", "tool"})
"""Values of `Hit.who` that name no tool. Then the tool of a result is looked up in the log."""


@dataclass(slots=True)
class _ThreadMessages:
    """A thread's messages, and the tokens that excerpts of them take in a prompt."""

    messages: dict[int, FoundMessage] = field(default_factory=dict)
    prompt_tokens: dict[tuple[int, int, int, Count], int] = field(default_factory=dict)
    size: int = ENTRY_BYTES


class MessageCache:
    """An LRU cache of messages, by thread."""

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        """Keep at most `max_bytes` of messages."""
        self._threads = Lru[ThreadId, _ThreadMessages](max_bytes)

    async def read(
        self, repository: ThreadRepository, thread_id: ThreadId, hits: Sequence[Hit]
    ) -> Mapping[int, FoundMessage]:
        """Read messages that were found, as `read_messages` does."""
        cached = self._threads.get(thread_id) or _ThreadMessages()
        versions = cached.messages.keys() & {hit.version for hit in hits}
        found = {version: cached.messages[version] for version in versions}
        if missing := [hit for hit in hits if hit.version not in found]:
            tools: dict[int, str] = {hit.version: hit.who for hit in missing if hit.who not in UNNAMED}
            read = await read_messages(repository, thread_id, [hit.version for hit in missing], tools)
            # got again: another read may have added to it meanwhile
            cached = self._threads.get(thread_id) or _ThreadMessages()
            for version, message in read.items():
                if version not in cached.messages and len(message.text) <= MAX_CACHED_CHARS:
                    cached.messages[version] = message
                    cached.size += ENTRY_BYTES + getsizeof(message.text)
            self._threads.put(thread_id, cached, cached.size)
            found |= read
        return found

    def with_prompt_tokens(self, thread_id: ThreadId, excerpts: Sequence[Excerpt], count: Count) -> Sequence[Excerpt]:
        """Return the excerpts with the tokens that they take in a prompt; see `excerpt_tokens`."""
        cached = self._threads.get(thread_id) or _ThreadMessages()
        counted = []
        for excerpt in excerpts:
            key = excerpt.message, excerpt.start, len(excerpt.text), count
            if key not in cached.prompt_tokens:
                cached.prompt_tokens[key] = excerpt_tokens(excerpt, count)
                cached.size += ENTRY_BYTES
            counted.append(replace(excerpt, prompt_tokens=cached.prompt_tokens[key]))
        self._threads.put(thread_id, cached, cached.size)
        return counted
