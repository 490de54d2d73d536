"""Recalling: older messages that left the live window are found again by what the user just said."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from domain.application.journal import Journal
from domain.chat import ModelError
from domain.codec import Recorded
from domain.context import Count
from domain.errors import CorruptLog, StoreUnavailable
from domain.events import (
    MessageAppended,
    MessageEdited,
    ToolFailed,
    ToolRequested,
    ToolSucceeded,
    TurnEnd,
    TurnRolledBack,
)
from domain.ids import ThreadId, Version
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

PATIENCE = 2.0
"""Seconds that looking for older messages may take: the user waits for an answer."""

TURN = 500
"""Events after a message in which the end of its turn is looked for."""

EDITS = 32
"""Events at a fork's beginning that may say that messages read otherwise in it."""


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
    journal: Journal, means: Recall, state: Running, thread_id: ThreadId, before: Version, room: int, count: Count
) -> Sequence[Excerpt]:
    """Return what was said before a version and matters now, in at most `room` tokens with their headings.

    Nothing where nothing was. No turn fails for this: then nothing is recalled.
    """
    window = state.thread.window
    terms = asked(window)
    if (state.thread.summary is None and before <= window[0].version) or not terms or room <= 0:
        return ()
    question = next((message.content or "" for message in reversed(window) if message.role == "user"), "")
    try:
        async with asyncio.timeout(PATIENCE):
            lineage, edited = await _lineage(journal, thread_id, Version(before - 1))
            hits = await _found(means, lineage, terms, question, before)
            read = await asyncio.gather(
                *(said_at(journal, thread_id, hit.version) for hit in hits if hit.version not in edited)
            )
    except (StoreUnavailable, CorruptLog, TimeoutError) as error:
        _log.warning("Nothing older is recalled in %s: %s", thread_id, error or "it took too long")
        return ()
    return excerpts([said for said in read if said], terms, room, count)


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
            (vector,) = await meaning.embedder.embed([question])
            return await meaning.vectors.nearest(meaning.embedder.model, lineage, vector, before, FOUND)
    except (ModelError, StoreUnavailable, TimeoutError) as error:
        _log.warning("Older messages are found by words alone: %s", error or "the embeddings took too long")
        return ()


async def _lineage(journal: Journal, thread_id: ThreadId, upto: Version) -> tuple[Lineage, frozenset[int]]:
    """List a thread and those that it is a fork of, and which of their messages read otherwise by now."""
    lineage = [(thread_id, upto)]
    edited: set[int] = set()
    while origin := await journal.origin(thread_id):
        begun = await journal.history(thread_id, origin.version, limit=EDITS)
        edited |= {each.event.message for each in begun if isinstance(each.event, MessageEdited)}
        upto = min(upto, origin.version)
        lineage.append((origin.parent, upto))
        thread_id = origin.parent
    return lineage, frozenset(edited)


async def said_at(journal: Journal, thread_id: ThreadId, version: Version) -> Said | None:
    """Read a message; None if its turn was rolled back, so that it counts as never said."""
    message: Recorded | None = None
    async for recorded in journal.follow(thread_id, Version(version - 1), Version(version + TURN), first=TURN // 10):
        message = message or recorded
        if isinstance(recorded.event, TurnRolledBack):
            return None
        if isinstance(recorded.event, TurnEnd):
            break
    match message.event if message else None:
        case MessageAppended(role=role, content=str(content)):
            return Said(version, role, content)
        case ToolSucceeded(call=call, content=content) | ToolFailed(call=call, error=content):
            return Said(version, await _who(journal, thread_id, call), content)
        case MessageEdited(message=edited, content=content):
            return Said(version, await _who(journal, thread_id, edited), content)
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
