"""Embedding what was said, after it was said, so that it is found by its meaning later.

Each slice is read after the position that is kept with its vectors; so a message is missed by nobody's death, and a
new model begins at the beginning. No turn waits for this.
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

EVENTS = 500
"""Events that are read at a time."""

TEXTS = 32
"""Texts that the endpoint is asked for at a time."""

HARMLESS = "hello"
"""A text that any endpoint embeds which embeds at all."""

IDLE, AWAY = 2.0, 30.0
"""Seconds until the next look, where there is nothing to do, and while something is away."""

REFRESH = 30
"""Looks after which the positions are read again: another worker may have had a slice meanwhile."""

KINDS = {"MessageAppended", "MessageEdited", "ToolSucceeded", "ToolFailed"}


@dataclass
class MessageEmbedder:
    """Embeds the messages of the slices that `held` names."""

    repository: ThreadRepository
    meaning: SemanticSearch
    held: Callable[[], Collection[Slice]]
    _woken: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _read: dict[Slice, Position] = field(init=False, default_factory=dict)
    _looks: int = field(init=False, default=0)

    def wake(self) -> None:
        """Say that there is something to read."""
        self._woken.set()

    async def run(self) -> None:
        """Run for ever. What is neither the model's nor the store's failure ends it: then it is to be run again."""
        while True:
            rest = IDLE
            try:
                rest = 0 if await self.step() else IDLE
            except (ModelError, StoreUnavailable) as error:
                rest = AWAY
                _log.warning("Messages are embedded later: %s", error)
            if rest:
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest if rest == AWAY else IDLE):
                        await (asyncio.sleep(rest) if rest == AWAY else self._woken.wait())
                self._woken.clear()

    async def step(self) -> int:
        """Embed what is next, and count the events."""
        after = await self._behind()
        records = await self.repository.store.read_after(after, EVENTS) if after else ()
        if not records:
            return 0
        told = [(record, text) for record in records if record.type in KINDS and (text := _text(record))]
        model, vectors = self.meaning.embedder.model, list[Embedded]()
        for begin in range(0, len(told), TEXTS):
            part = told[begin : begin + TEXTS]
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
        """Embed texts. None for one that the endpoint refuses: it is passed over, or nothing after it would be found.

        Raises the endpoint's error if it refuses every text.
        """
        embed = self.meaning.embedder.embed
        try:
            return await embed(texts)
        except ModelRejectedRequest as error:
            if len(texts) > 1:
                half = len(texts) // 2
                return [*await self._embedded(texts[:half]), *await self._embedded(texts[half:])]
            await embed([HARMLESS])
            _log.warning("A message is not embedded, and so not found by its meaning: %s", error)
            return [None]

    async def _behind(self) -> Mapping[Slice, Position]:
        """Choose slices that have more than was read, a batch's worth."""
        if self._looks % REFRESH == 0:
            self._read = dict(await self.meaning.vectors.positions(self.meaning.embedder.model))
        self._looks += 1
        heads: Sequence[Position] = await self.repository.store.slice_heads()
        after: dict[Slice, Position] = {}
        size = 0
        for slice_ in sorted(self.held()):
            position = self._read.get(slice_, Position(0))
            if heads[slice_] > position and size < EVENTS:
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
