"""Messages that were recalled last, in the memory of this process: they are neither read nor counted again.

What was said does not change, so what is kept is never wrong. A message is kept as it is in a thread: a fork has its
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
from domain.prompt.assemble import Count, price
from domain.recall.bm25 import Hit
from domain.recall.excerpts import Excerpt, FoundMessage

KEPT = 32_000_000
"""Bytes of messages that are kept, those of the threads that were used last."""

LONGEST = 50_000
"""Characters of a message that is kept."""

ENTRY = 400
"""Bytes that a message, or a part of one, takes beside its text, about."""

NO_TOOL = frozenset({"", "user", "assistant", "tool"})
"""Who says messages that are no results, or those of a tool that is not named. What says so is looked up."""


@dataclass(slots=True)
class _Messages:
    """A thread's messages, and what parts of them take in a prompt."""

    said: dict[int, FoundMessage] = field(default_factory=dict)
    prices: dict[tuple[int, int, int, Count], int] = field(default_factory=dict)
    size: int = ENTRY


class MessageCache:
    """Messages of the threads that were used last."""

    def __init__(self, kept: int = KEPT) -> None:
        """Keep at most so many bytes."""
        self._threads = Lru[ThreadId, _Messages](kept)

    async def read(
        self, repository: ThreadRepository, thread_id: ThreadId, hits: Sequence[Hit]
    ) -> Mapping[int, FoundMessage]:
        """Read messages that were found, as `read_messages` does."""
        there = (self._threads.get(thread_id) or _Messages()).said
        found: dict[int, FoundMessage] = {hit.version: there[hit.version] for hit in hits if hit.version in there}
        if missing := [hit for hit in hits if hit.version not in found]:
            tools: dict[int, str] = {hit.version: hit.who for hit in missing if hit.who not in NO_TOOL}
            read = await read_messages(repository, thread_id, [hit.version for hit in missing], tools)
            self._keep(thread_id, read)
            found |= read
        return found

    def priced(self, thread_id: ThreadId, excerpts: Sequence[Excerpt], count: Count) -> Sequence[Excerpt]:
        """Say of parts of messages what they take in a prompt; see `price`."""
        messages = self._threads.get(thread_id) or _Messages()
        priced = []
        for excerpt in excerpts:
            key = excerpt.message, excerpt.start, len(excerpt.text), count
            if key not in messages.prices:
                messages.prices[key] = price(excerpt, count)
                messages.size += ENTRY
            priced.append(replace(excerpt, price=messages.prices[key]))
        self._threads.put(thread_id, messages, messages.size)
        return priced

    def _keep(self, thread_id: ThreadId, read: Mapping[int, FoundMessage]) -> None:
        messages = self._threads.get(thread_id) or _Messages()
        for version, said in read.items():
            if version not in messages.said and len(said.text) <= LONGEST:
                messages.said[version] = said
                messages.size += ENTRY + getsizeof(said.text)
        self._threads.put(thread_id, messages, messages.size)
