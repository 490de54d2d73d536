"""Recall: finds older messages, which left the live window, by what the user just said."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
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

MAX_HITS = 48
"""Messages that each kind of search returns, by words and by meaning."""

MAX_READ_MESSAGES = 24
"""Messages whose texts are read. Few of them fit into the prompt, but many are near duplicates."""

MIN_SCORE_SHARE = 0.55
"""The share of the best score that a message needs to be recalled."""

MIN_SCORE_OF_SHOWN = 1.0
"""The share of the best score among the messages that the prompt shows anyway that an older message needs.

Most turns continue with what was just discussed. Then older messages would only cost tokens.
"""

SEMANTIC_WEIGHT = 0.2
"""The weight of a rank by meaning; a rank by words weighs 1. Most questions are about a code, a date or a name."""

MAX_EMBEDDED_CHARS = 4_000
"""The part of a text that is embedded: models read no more."""

RECALL_TIMEOUT_S = 2.0
"""How long recall may take: the user waits for an answer."""

RECALL_FAILED = "Recall failed in thread %s: %s"
MEANING_FAILED = "The search by meaning failed; older messages are found by words only: %s"

MAX_UNINDEXED_MESSAGES = 8
"""Messages of the live window that the search may not find yet, because the read model lags a moment behind."""

TURN_PAGE_EVENTS, EDIT_PAGE_EVENTS = 50, 128
"""Events of the first page that is read to find a turn's begin and end, and to find a fork's edits."""

MAX_INLINE_CHARS = 50_000
"""Messages with more text are excerpted in a thread: so much takes about 10 ms in the event loop."""


@dataclass(frozen=True)
class SemanticSearch:
    """Finds messages by meaning."""

    embedder: Embedder
    vectors: VectorStore


@dataclass(frozen=True)
class MessageSearch:
    """Finds older messages: by words, and by meaning if embeddings are configured."""

    finder: Finder
    meaning: SemanticSearch | None = None
    cache: MessageCache = field(default_factory=MessageCache)

    async def recall(
        self,
        repository: ThreadRepository,
        state: Running,
        thread_id: ThreadId,
        before: Version,
        room: int,
        count: Count,
    ) -> Sequence[Excerpt]:
        """Return excerpts of messages before version `before` that matter now, in `room` tokens with headings."""
        window = state.thread.window
        if room <= 0 or not window or (state.thread.summary is None and before <= window[0].version):
            return ()
        recalled: Sequence[Excerpt] = ()
        async with _best_effort(RECALL_TIMEOUT_S, RECALL_FAILED, thread_id):
            if not (terms := query_of(window)):
                return ()
            question = next(message for message in reversed(window) if message.role == "user")
            newest = [message.content for message in window if message.version < question.version and message.content]
            upto = max(before, question.version)
            lineage, superseded = await _lineage(repository, thread_id, state.version, Version(upto - 1))
            hits = await self._hits(lineage, terms, question, before, newest[-MAX_UNINDEXED_MESSAGES:])
            hits = [hit for hit in hits if hit.version not in superseded]
            read = await self.cache.read(repository, thread_id, hits)
            found = [replace(read[hit.version], term_ids=hit.term_ids) for hit in hits if hit.version in read]
            if state.thread.rolled_back:
                found = [message for message in found if await _is_current(repository, thread_id, message)]
            shown = {message.content for message in window if message.version >= before and message.content}
            cut = partial(excerpts, found, terms, room, count, shown)
            is_long = sum(len(message.text) for message in found) > MAX_INLINE_CHARS
            found_excerpts = await asyncio.to_thread(cut) if is_long else cut()
            recalled = self.cache.with_prompt_tokens(thread_id, found_excerpts, count)
        return recalled  # noqa: RET504  (after a failure, too)

    async def again(
        self, repository: ThreadRepository, thread_id: ThreadId, parts: Sequence[Recalled], count: Count
    ) -> Sequence[Excerpt]:
        """Return what an earlier prompt of the turn recalled; nothing if it cannot be read now."""
        recalled: Sequence[Excerpt] = ()
        async with _best_effort(RECALL_TIMEOUT_S, RECALL_FAILED, thread_id):
            hits = [Hit(thread_id, Version(part.message), 0.0) for part in parts]
            read = await self.cache.read(repository, thread_id, hits)
            again = [part_of(read[part.message], part) for part in parts if part.message in read]
            recalled = self.cache.with_prompt_tokens(thread_id, again, count)
        return recalled  # noqa: RET504  (after a failure, too)

    async def _hits(
        self, lineage: Lineage, terms: Sequence[Term], question: Message, before: Version, newest: Sequence[str]
    ) -> Sequence[Hit]:
        by_words = self.finder.find(lineage, terms, max(before, question.version), MAX_HITS)
        if self.meaning is None:
            hits = _relevant(await by_words, before, terms, newest)[:MAX_READ_MESSAGES]
            return [hit for hit in hits if hit.score >= MIN_SCORE_SHARE * hits[0].score]
        by_meaning = _similar(self.meaning, lineage, question.content or "", before)
        worded, similar = await asyncio.gather(by_words, by_meaning)
        rankings = [(1.0, _relevant(worded, before, terms, newest)), (SEMANTIC_WEIGHT, similar)]
        return fuse(rankings, MAX_READ_MESSAGES)


@asynccontextmanager
async def _best_effort(seconds: float, failure: str, *about: object) -> AsyncIterator[None]:
    """Limit a search in time. A failure is logged and suppressed, because no turn may fail for it."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except Exception as error:  # noqa: BLE001  (whatever it is, the turn can go on)
        why = str(error) or ("it timed out" if isinstance(error, TimeoutError) else type(error).__name__)
        _log.warning(failure, *about, why)


def _relevant(hits: Sequence[Hit], before: Version, terms: Sequence[Term], newest: Sequence[str]) -> Sequence[Hit]:
    """Keep the hits that the prompt does not show anyway, that have a rare term, and that score high enough.

    The read model mostly does not have the `newest` messages yet, so they are scored here.
    """
    shown = max((hit.score for hit in hits if hit.version >= before), default=0.0)
    if hits and hits[0].weights:
        shown = max(shown, score_of(newest, terms, hits[0].weights))
    return [hit for hit in hits if hit.version < before and hit.rare and hit.score >= MIN_SCORE_OF_SHOWN * shown]


async def _similar(meaning: SemanticSearch, lineage: Lineage, question: str, before: Version) -> Sequence[Hit]:
    """Find messages with a similar meaning; nothing while the endpoint is unavailable."""
    similar: Sequence[Hit] = ()
    async with _best_effort(RECALL_TIMEOUT_S / 2, MEANING_FAILED):
        (vector,) = await meaning.embedder.embed([embedded_text(question)])
        similar = await meaning.vectors.nearest(meaning.embedder.model, lineage, vector, before, MAX_HITS)
    return similar  # noqa: RET504  (after a failure, too)


def embedded_text(text: str) -> str:
    """Return the part of a text that is embedded."""
    return text.strip()[:MAX_EMBEDDED_CHARS]


async def _lineage(
    repository: ThreadRepository, thread_id: ThreadId, now: Version, upto: Version
) -> tuple[Lineage, Collection[int]]:
    """Return a thread and the threads that it was forked from, and the versions of their messages that edits supersede.

    A fork has its edits from before its first turn, however new they are: so edits are read up to `now`, not `upto`.
    """
    lineage = [(thread_id, upto)]
    edited: set[int] = set()
    superseded: set[int] = set()
    while origin := await repository.origin(thread_id):
        for version, edit in await _edits(repository, thread_id, origin.version, now):
            superseded.add(version if edit.message in edited else edit.message)
            edited.add(edit.message)
        now, upto = min(now, origin.version), min(upto, origin.version)
        lineage.append((origin.parent, upto))
        thread_id = origin.parent
    return lineage, superseded


async def _edits(
    repository: ThreadRepository, thread_id: ThreadId, after: Version, upto: Version
) -> Sequence[tuple[Version, MessageEdited]]:
    """Return a fork's edits, the last one first. All of them precede the fork's first turn."""
    edits: list[tuple[Version, MessageEdited]] = []
    async for recorded in repository.follow(thread_id, after, upto, first=EDIT_PAGE_EVENTS):
        if isinstance(recorded.event, TurnStarted):
            break
        if isinstance(recorded.event, MessageEdited):
            edits.append((recorded.version, recorded.event))
    return edits[::-1]


async def _is_current(repository: ThreadRepository, thread_id: ThreadId, said: FoundMessage) -> bool:
    """Say whether a message still counts: messages of turns that were rolled back do not."""
    first = said.edits or said.message
    turn_id = await _turn_of(repository, thread_id, first)
    if turn_id is None:
        return True
    # queued turns may end before it; those are skipped
    async for recorded in repository.follow(thread_id, first, first=TURN_PAGE_EVENTS):
        event = recorded.event
        if isinstance(event, TurnEnd) and event.turn_id == turn_id:
            return not isinstance(event, TurnRolledBack)
        if isinstance(event, TurnStarted):
            break
    return True


async def _turn_of(repository: ThreadRepository, thread_id: ThreadId, version: Version) -> UUID | None:
    """Return the turn of a message."""
    async for page in repository.pages_back(thread_id, START, version, TURN_PAGE_EVENTS):
        for recorded in reversed(page):
            if isinstance(recorded.event, TurnStarted):
                return recorded.event.turn_id
    return None
