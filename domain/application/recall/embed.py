"""Embeds messages in the background, so that later turns find them by their meaning.

The embedder reads each slice from the position that is stored with its vectors. So a crash loses no message, and a new
model starts at the beginning. No turn waits for this.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from domain.application.recall.search import SemanticSearch, embedded_text
from domain.application.thread_repository import ThreadRepository
from domain.errors import StoreUnavailable
from domain.ids import Position, Slice, ThreadId, Version, slice_of
from domain.log.hash_chain import Record
from domain.models.chat import ModelError, ModelRejectedRequest
from domain.ports.recall import Embedded
from domain.thread.codec import decode
from domain.thread.events import MessageAppended, MessageEdited, ToolFailed, ToolSucceeded

_log = logging.getLogger(__name__)

BATCH_EVENTS = 500
"""Events of one batch."""

BATCH_TEXTS = 32
"""Texts of one request to the endpoint."""

PROBE_TEXT = "hello"
"""A text that every working endpoint embeds."""

IDLE_S, RETRY_S = 2.0, 30.0
"""Seconds until the next batch: if there is nothing to do, and after a failure."""

REFRESH_EVERY = 30
"""Batches after which the positions are read again: another worker may have advanced a slice meanwhile."""

EMBEDDED_EVENTS = {"MessageAppended", "MessageEdited", "ToolSucceeded", "ToolFailed"}


@dataclass
class MessageEmbedder:
    """Embeds the messages of the slices that `held` returns, those that this worker holds."""

    repository: ThreadRepository
    meaning: SemanticSearch
    held: Callable[[], Collection[Slice]]
    _woken: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _read: dict[Slice, Position] = field(init=False, default_factory=dict)
    _batches: int = field(init=False, default=0)

    def wake(self) -> None:
        """Signal that there may be new events."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled. Failures of the model and the store are retried; any other error is raised."""
        while True:
            try:
                if await self.step():
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await self._woken.wait()
            except (ModelError, StoreUnavailable) as error:
                _log.warning("Embedding failed and will be retried: %s", error)
                await asyncio.sleep(RETRY_S)
            self._woken.clear()

    async def step(self) -> int:
        """Embed one batch, and return the number of its events."""
        after = await self._next_batch()
        records = await self.repository.store.read_after(after, BATCH_EVENTS) if after else ()
        if not records:
            return 0
        texts = [(record, text) for record in records if record.type in EMBEDDED_EVENTS and (text := _text(record))]
        model, vectors = self.meaning.embedder.model, list[Embedded]()
        for begin in range(0, len(texts), BATCH_TEXTS):
            part = texts[begin : begin + BATCH_TEXTS]
            found = await self._embedded([text for _, text in part])
            vectors += [
                Embedded(ThreadId(record.thread_id), Version(record.version), vector)
                for (record, _), vector in zip(part, found, strict=True)
                if vector is not None
            ]
        ends = {slice_of(record.thread_id): record.position for record in records}
        await self.meaning.vectors.keep(model, vectors, ends)
        self._read |= ends
        return len(records)

    async def _embedded(self, texts: Sequence[str]) -> Sequence[Sequence[float] | None]:
        """Embed texts. None for a text that the endpoint refuses: otherwise it would block all later ones.

        Raises the endpoint's error if it refuses every text.
        """
        embed = self.meaning.embedder.embed
        try:
            return await embed(texts)
        except ModelRejectedRequest as error:
            if len(texts) > 1:
                half = len(texts) // 2
                return [*await self._embedded(texts[:half]), *await self._embedded(texts[half:])]
            await embed([PROBE_TEXT])
            _log.warning("A message is not embedded and will not be found by its meaning: %s", error)
            return [None]

    async def _next_batch(self) -> Mapping[Slice, Position]:
        """Return the positions of slices that have unread events, enough for one batch."""
        if self._batches % REFRESH_EVERY == 0:
            self._read = dict(await self.meaning.vectors.positions(self.meaning.embedder.model))
        self._batches += 1
        heads: Sequence[Position] = await self.repository.store.slice_heads()
        after: dict[Slice, Position] = {}
        size = 0
        for slice_ in sorted(self.held()):
            position = self._read.get(slice_, Position(0))
            if heads[slice_] > position and size < BATCH_EVENTS:
                after[slice_] = position
                size += heads[slice_] - position
        return after


def _text(record: Record) -> str:
    match decode(record).event:
        case MessageAppended(content=str(content)) | ToolSucceeded(content=content) | MessageEdited(content=content):
            return embedded_text(content)
        case ToolFailed(error=error):
            return embedded_text(error)
        case _:
            return ""
