"""Recalling: older messages that left the live window are found again by what the user just said."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from msgspec.structs import replace

from domain.application.recall.cache import MessageCache
from domain.application.thread_repository import ThreadRepository
from domain.ids import START, ThreadId, Version
from domain.ports.recall import Embedder, Finder, Lineage, VectorStore
from domain.prompt.assemble import Count
from domain.recall.bm25 import Hit, fuse, score_of
from domain.recall.excerpts import Excerpt, FoundMessage, excerpts, part_of, query_of
from domain.recall.terms import Term
from domain.thread.events import MessageEdited, Recalled, TurnEnd, TurnRolledBack, TurnStarted
from domain.thread.state import Message, Running

_log = logging.getLogger(__name__)

FOUND = 48
"""Messages that each way of looking gives."""

READ = 24
"""Messages whose texts are read. Few of them fit; but many say the same again."""

NEAR = 0.55
"""The share of the best match's score that another one has at least to be shown, too."""

SHOWN = 1.0
"""The share of the score of the best message among those that the prompt shows anyway, that an older one has at least.

Most turns go on with what was just spoken of: then older messages would only be paid for.
"""

MEANT = 0.2
"""What a rank by meaning counts beside one by words: most of what is asked for is a code, a date or a name."""

EMBEDDED = 4_000
"""Characters of a text that are embedded: models read no more."""

PATIENCE = 2.0
"""Seconds that looking for older messages may take: the user waits for an answer."""

NEWEST = 8
"""Messages of the live window that may not be found yet, since the read model is a moment behind."""

NEARBY, EDITS = 50, 128
"""Events that are read at first to find where a turn begins and ends, and what a fork has edited."""

LONG = 50_000
"""Characters of messages out of which passages are cut at once: it takes some 10 ms."""


@dataclass(frozen=True)
class SemanticSearch:
    """How messages are found by what they mean."""

    embedder: Embedder
    vectors: VectorStore


@dataclass(frozen=True)
class MessageSearch:
    """What older messages are found with."""

    finder: Finder
    meaning: SemanticSearch | None = None
    remembered: MessageCache = field(default_factory=MessageCache)

    async def recall(
        self,
        repository: ThreadRepository,
        state: Running,
        thread_id: ThreadId,
        before: Version,
        room: int,
        count: Count,
    ) -> Sequence[Excerpt]:
        """Look for what matters again; see `recall`."""
        return await recall(repository, self, state, thread_id, before, room, count)

    async def again(
        self, repository: ThreadRepository, thread_id: ThreadId, parts: Sequence[Recalled], count: Count
    ) -> Sequence[Excerpt]:
        """Read what an earlier prompt of the turn recalled; nothing if that cannot be read now."""
        if not parts:
            return ()
        try:
            async with asyncio.timeout(PATIENCE):
                hits = [Hit(thread_id, Version(part.message), 0.0) for part in parts]
                said = await self.remembered.read(repository, thread_id, hits)
        except Exception as error:  # noqa: BLE001  (whatever it is, the turn can go on)
            _log.warning("Nothing older is recalled in %s: %s", thread_id, _why(error))
            return ()
        again = [part_of(said[part.message], part) for part in parts if part.message in said]
        return self.remembered.priced(thread_id, again, count)


async def recall(
    repository: ThreadRepository,
    search: MessageSearch,
    state: Running,
    thread_id: ThreadId,
    before: Version,
    room: int,
    count: Count,
) -> Sequence[Excerpt]:
    """Return what was said before a version and matters now, in at most `room` tokens with their headings.

    Nothing where nothing was. No turn fails for this: then nothing is recalled.
    """
    window = state.thread.window
    if room <= 0 or not window or (state.thread.summary is None and before <= window[0].version):
        return ()
    try:
        async with asyncio.timeout(PATIENCE):
            return await _recalled(repository, search, state, thread_id, before, room, count)
    except Exception as error:  # noqa: BLE001  (whatever it is, the turn can go on)
        _log.warning("Nothing older is recalled in %s: %s", thread_id, _why(error))
        return ()


async def _recalled(
    repository: ThreadRepository,
    search: MessageSearch,
    state: Running,
    thread_id: ThreadId,
    before: Version,
    room: int,
    count: Count,
) -> Sequence[Excerpt]:
    window = state.thread.window
    terms = query_of(window)
    if not terms:
        return ()
    question = next(message for message in reversed(window) if message.role == "user")
    newest = [message.content for message in window if message.version < question.version and message.content]
    upto = max(before, question.version)
    lineage, otherwise = await _lineage(repository, thread_id, state.version, Version(upto - 1))
    hits = await _found(search, lineage, terms, question, before, newest[-NEWEST:])
    hits = [hit for hit in hits if hit.version not in otherwise]
    read = await search.remembered.read(repository, thread_id, hits)
    found = [replace(read[hit.version], signs=hit.signs) for hit in hits if hit.version in read]
    if state.thread.rolled_back:
        found = [said for said in found if await _counts(repository, thread_id, said)]
    make = partial(
        excerpts, found, terms, room, count, {m.content for m in window if m.version >= before and m.content}
    )
    long = sum(len(said.text) for said in found) > LONG
    return search.remembered.priced(thread_id, await asyncio.to_thread(make) if long else make(), count)


def _why(error: Exception) -> str:
    return str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)


async def _found(
    search: MessageSearch,
    lineage: Lineage,
    terms: Sequence[Term],
    question: Message,
    before: Version,
    newest: Sequence[str],
) -> Sequence[Hit]:
    upto = max(before, question.version)
    if search.meaning is None:
        hits = _worth_it(await search.finder.find(lineage, terms, upto, FOUND), before, terms, newest)[:READ]
        return [hit for hit in hits if hit.score >= NEAR * hits[0].score]
    by_words = search.finder.find(lineage, terms, upto, FOUND)
    said, meant = await asyncio.gather(by_words, _alike(search.meaning, lineage, question.content or "", before))
    return fuse([(1.0, _worth_it(said, before, terms, newest)), (MEANT, meant)], READ)


def _worth_it(hits: Sequence[Hit], before: Version, terms: Sequence[Term], newest: Sequence[str]) -> Sequence[Hit]:
    """Leave out what the prompt shows anyway, and what has less to do with the question, or only by common words.

    The `newest` messages are not in the read model yet, mostly.
    """
    shown = max((hit.score for hit in hits if hit.version >= before), default=0.0)
    if hits and hits[0].worth:
        shown = max(shown, score_of(newest, terms, hits[0].worth))
    return [hit for hit in hits if hit.version < before and hit.rare and hit.score >= SHOWN * shown]


async def _alike(meaning: SemanticSearch, lineage: Lineage, question: str, before: Version) -> Sequence[Hit]:
    """Find what means something alike; nothing while the endpoint is away."""
    try:
        async with asyncio.timeout(PATIENCE / 2):
            (vector,) = await meaning.embedder.embed([embedded_text(question)])
            return await meaning.vectors.nearest(meaning.embedder.model, lineage, vector, before, FOUND)
    except Exception as error:  # noqa: BLE001  (there are still words to find messages by)
        _log.warning("Older messages are found by words alone: %s", _why(error))
        return ()


def embedded_text(text: str) -> str:
    """Return what of a text is embedded."""
    return text.strip()[:EMBEDDED]


async def _lineage(
    repository: ThreadRepository, thread_id: ThreadId, now: Version, upto: Version
) -> tuple[Lineage, Collection[int]]:
    """List a thread and those that it is a fork of, and what of them reads otherwise by now: messages, and edits.

    A fork has what was edited before it left, however new that is: so edits are read up to `now`, not `upto`.
    """
    lineage = [(thread_id, upto)]
    edited: set[int] = set()
    otherwise: set[int] = set()
    while origin := await repository.origin(thread_id):
        for version, edit in await _edits(repository, thread_id, origin.version, now):
            otherwise.add(version if edit.message in edited else edit.message)
            edited.add(edit.message)
        now, upto = min(now, origin.version), min(upto, origin.version)
        lineage.append((origin.parent, upto))
        thread_id = origin.parent
    return lineage, otherwise


async def _edits(
    repository: ThreadRepository, thread_id: ThreadId, after: Version, upto: Version
) -> Sequence[tuple[Version, MessageEdited]]:
    """List a fork's edits, the last one first. They are all made before the fork's first turn."""
    edits: list[tuple[Version, MessageEdited]] = []
    async for recorded in repository.follow(thread_id, after, upto, first=EDITS):
        if isinstance(recorded.event, TurnStarted):
            break
        if isinstance(recorded.event, MessageEdited):
            edits.append((recorded.version, recorded.event))
    return edits[::-1]


async def _counts(repository: ThreadRepository, thread_id: ThreadId, said: FoundMessage) -> bool:
    """Say whether a message counts: what was rolled back in the thread was never said."""
    first = said.edits or said.message
    turn_id = await _turn_of(repository, thread_id, first)
    return turn_id is None or not await _rolled_back(repository, thread_id, first, turn_id)


async def _turn_of(repository: ThreadRepository, thread_id: ThreadId, version: Version) -> UUID | None:
    """Name the turn in which a message was said."""
    async for page in repository.pages_back(thread_id, START, version, NEARBY):
        for recorded in reversed(page):
            if isinstance(recorded.event, TurnStarted):
                return recorded.event.turn_id
    return None


async def _rolled_back(repository: ThreadRepository, thread_id: ThreadId, version: Version, turn_id: UUID) -> bool:
    """Look for the end of a turn. The ends of others, which wait in the queue meanwhile, say nothing about it."""
    async for recorded in repository.follow(thread_id, version, first=NEARBY):
        event = recorded.event
        if isinstance(event, TurnEnd) and event.turn_id == turn_id:
            return isinstance(event, TurnRolledBack)
        if isinstance(event, TurnStarted):
            break
    return False
