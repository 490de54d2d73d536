"""Recalling: older messages that left the live window are found again by what the user just said."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from domain.application.journal import Journal
from domain.context import Count
from domain.events import (
    MessageAppended,
    MessageEdited,
    ToolFailed,
    ToolRequested,
    ToolSucceeded,
    TurnEnd,
    TurnRolledBack,
    TurnStarted,
)
from domain.ids import START, ThreadId, Version
from domain.ports.recall import Embedder, Finder, Lineage, VectorStore
from domain.recall import Excerpt, Said, asked, excerpts
from domain.relevance import Hit, Term, fuse
from domain.state import Running

_log = logging.getLogger(__name__)

FOUND = 48
"""Messages that each way of looking gives."""

READ = 24
"""Messages whose texts are read. Few of them fit; but many say the same again."""

NEAR = 0.5
"""The share of the best match's score that another one has at least to be shown, too."""

MEANT = 0.2
"""What a rank by meaning counts beside one by words: most of what is asked for is a code, a date or a name."""

EMBEDDED = 4_000
"""Characters of a text that are embedded: models read no more."""

PATIENCE = 2.0
"""Seconds that looking for older messages may take: the user waits for an answer."""

NEARBY, EDITS = 50, 128
"""Events that are read at first to find where a turn begins and ends, and what a fork has edited."""

LONG = 50_000
"""Characters of messages out of which passages are cut at once: it takes some 10 ms."""


@dataclass(frozen=True)
class Meaning:
    """How messages are found by what they mean."""

    embedder: Embedder
    vectors: VectorStore


@dataclass(frozen=True)
class Recall:
    """What older messages are found with."""

    finder: Finder
    meaning: Meaning | None = None

    async def recall(
        self, journal: Journal, state: Running, thread_id: ThreadId, before: Version, room: int, count: Count
    ) -> Sequence[Excerpt]:
        """Look for what matters again; see `recall`."""
        return await recall(journal, self, state, thread_id, before, room, count)


async def recall(
    journal: Journal, means: Recall, state: Running, thread_id: ThreadId, before: Version, room: int, count: Count
) -> Sequence[Excerpt]:
    """Return what was said before a version and matters now, in at most `room` tokens with their headings.

    Nothing where nothing was. No turn fails for this: then nothing is recalled.
    """
    window = state.thread.window
    if room <= 0 or not window or (state.thread.summary is None and before <= window[0].version):
        return ()
    try:
        async with asyncio.timeout(PATIENCE):
            return await _recalled(journal, means, state, thread_id, before, room, count)
    except Exception as error:  # noqa: BLE001  (whatever it is, the turn can go on)
        _log.warning("Nothing older is recalled in %s: %s", thread_id, _why(error))
        return ()


async def _recalled(
    journal: Journal, means: Recall, state: Running, thread_id: ThreadId, before: Version, room: int, count: Count
) -> Sequence[Excerpt]:
    window = state.thread.window
    terms = asked(window)
    if not terms:
        return ()
    question = next((message.content or "" for message in reversed(window) if message.role == "user"), "")
    lineage, otherwise = await _lineage(journal, thread_id, state.version, Version(before - 1))
    hits = await _found(means, lineage, terms, question, before)
    hits = [hit for hit in hits if hit.version not in otherwise]
    read = await asyncio.gather(*(said_at(journal, thread_id, hit.version) for hit in hits))
    found = [said for said in read if said]
    make = partial(excerpts, found, terms, room, count)
    if sum(len(said.text) for said in found) > LONG:
        return await asyncio.to_thread(make)
    return make()


def _why(error: Exception) -> str:
    return str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)


async def _found(
    means: Recall, lineage: Lineage, terms: Sequence[Term], question: str, before: Version
) -> Sequence[Hit]:
    by_words = means.finder.find(lineage, terms, before, FOUND)
    if means.meaning is None:
        hits = (await by_words)[:READ]
        return [hit for hit in hits if hit.score >= NEAR * hits[0].score]
    said, meant = await asyncio.gather(by_words, _alike(means.meaning, lineage, question, before))
    return fuse([(1.0, said), (MEANT, meant)], READ)


async def _alike(meaning: Meaning, lineage: Lineage, question: str, before: Version) -> Sequence[Hit]:
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
    journal: Journal, thread_id: ThreadId, now: Version, upto: Version
) -> tuple[Lineage, Collection[int]]:
    """List a thread and those that it is a fork of, and what of them reads otherwise by now: messages, and edits.

    A fork has what was edited before it left, however new that is: so edits are read up to `now`, not `upto`.
    """
    lineage = [(thread_id, upto)]
    edited: set[int] = set()
    otherwise: set[int] = set()
    while origin := await journal.origin(thread_id):
        for version, edit in await _edits(journal, thread_id, origin.version, now):
            otherwise.add(version if edit.message in edited else edit.message)
            edited.add(edit.message)
        now, upto = min(now, origin.version), min(upto, origin.version)
        lineage.append((origin.parent, upto))
        thread_id = origin.parent
    return lineage, otherwise


async def _edits(
    journal: Journal, thread_id: ThreadId, after: Version, upto: Version
) -> Sequence[tuple[Version, MessageEdited]]:
    """List a fork's edits, the last one first. They are all made before the fork's first turn."""
    edits: list[tuple[Version, MessageEdited]] = []
    async for recorded in journal.follow(thread_id, after, upto, first=EDITS):
        if isinstance(recorded.event, TurnStarted):
            break
        if isinstance(recorded.event, MessageEdited):
            edits.append((recorded.version, recorded.event))
    return edits[::-1]


async def said_at(journal: Journal, thread_id: ThreadId, version: Version) -> Said | None:
    """Read a message of a thread; None if its turn was rolled back there, so that it counts as never said."""
    said = await read_said(journal, thread_id, version)
    if said is None:
        return None
    first = said.edits or version
    turn_id = await _turn_of(journal, thread_id, first)
    return None if turn_id and await _rolled_back(journal, thread_id, first, turn_id) else said


async def _turn_of(journal: Journal, thread_id: ThreadId, version: Version) -> UUID | None:
    """Name the turn in which a message was said."""
    async for page in journal.pages_back(thread_id, START, version, NEARBY):
        for recorded in reversed(page):
            if isinstance(recorded.event, TurnStarted):
                return recorded.event.turn_id
    return None


async def _rolled_back(journal: Journal, thread_id: ThreadId, version: Version, turn_id: UUID) -> bool:
    """Look for the end of a turn. The ends of others, which wait in the queue meanwhile, say nothing about it."""
    async for recorded in journal.follow(thread_id, version, first=NEARBY):
        event = recorded.event
        if isinstance(event, TurnEnd) and event.turn_id == turn_id:
            return isinstance(event, TurnRolledBack)
        if isinstance(event, TurnStarted):
            break
    return False


async def read_said(journal: Journal, thread_id: ThreadId, version: Version) -> Said | None:
    """Read a message, whatever became of its turn."""
    found = await journal.history(thread_id, Version(version - 1), version)
    match found[0].event if found else None:
        case MessageAppended(role=role, content=str(content)):
            return Said(version, role, content)
        case ToolSucceeded(call=call, content=content) | ToolFailed(call=call, error=content):
            return Said(version, await _who(journal, thread_id, call), content)
        case MessageEdited(message=edited, content=content):
            return Said(version, await _who(journal, thread_id, edited), content, Version(edited))
        case _:
            return None


async def _who(journal: Journal, thread_id: ThreadId, version: int) -> str:
    """Name who said the message of a version, or the tool of a call."""
    found = await journal.history(thread_id, Version(version - 1), Version(version))
    match found[0].event if found else None:
        case ToolRequested(tool=tool):
            return tool
        case ToolSucceeded(call=call) | ToolFailed(call=call):
            return await _who(journal, thread_id, call)
        case MessageAppended(role=role):
            return role
        case _:
            return "tool"
