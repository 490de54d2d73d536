"""Recalling over a log in memory: what is read, what is left out, and that it fails no turn."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest

from domain.application.fork import Fork, fork
from domain.application.indexing import Indexer
from domain.application.journal import Journal
from domain.application.recalling import Meaning, Recall, recall
from domain.chat import ModelUnreachable
from domain.codec import Metadata
from domain.commands import EditMessage
from domain.errors import StoreUnavailable
from domain.events import (
    CancellationRequested,
    Event,
    HistoryCompacted,
    MessageAppended,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnRolledBack,
    TurnStarted,
)
from domain.ids import SLICES, Slice, ThreadId, Version
from domain.ports.recall import Lineage
from domain.recall import Excerpt
from domain.relevance import Hit, Term
from domain.state import Running
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.recall import MemoryVectorStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.runtime import Clock, Words

EVERYTHING = [Slice(number) for number in range(SLICES)]


@dataclass
class Found:
    """A finder that finds what it is told to, or fails."""

    versions: Sequence[int] = ()
    error: Exception | None = None
    asked: list[tuple[Lineage, Sequence[Term], Version]] = field(default_factory=list)

    async def find(self, lineage: Lineage, terms: Sequence[Term], before: Version, limit: int) -> Sequence[Hit]:
        self.asked.append((lineage, terms, before))
        if self.error:
            raise self.error
        return [Hit(lineage[-1][0], Version(version), 1.0) for version in self.versions][:limit]


@dataclass
class Letters:
    """Vectors that count some words."""

    error: Exception | None = None
    asked: list[Sequence[str]] = field(default_factory=list)
    model = "letters"

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        self.asked.append(texts)
        if self.error:
            raise self.error
        return [[1.0, text.count("money") + text.count("refund"), text.count("seat")] for text in texts]

    async def close(self) -> None:
        return


@dataclass
class Talk:
    """A thread: a first turn with a tool, one that is rolled back, compaction, and a question."""

    journal: Journal = field(
        default_factory=lambda: Journal(MemoryEventStore(), MemorySnapshotStore(), Clock(), fingerprint="test")
    )
    thread_id: ThreadId = field(default_factory=lambda: ThreadId(uuid4()))

    async def append(self, *events: Event, thread_id: ThreadId | None = None) -> Running:
        loaded = await self.journal.load(thread_id or self.thread_id)
        loaded, _ = await self.journal.append(loaded, events, Metadata())
        return loaded.state  # type: ignore[return-value]

    async def begun(self) -> "Talk":
        first, second = UUID(int=1), UUID(int=2)
        await self.append(
            ThreadOpened("assistant"),
            TurnStarted(first, "talk", "f00"),
            MessageAppended("user", "my refund?", 2),
            MessageAppended("assistant", None, 2),
            ToolRequested("call", "refund_of", {"code": "PEP4E0"}),
            ToolStarted(5),
            ToolSucceeded(5, "240 dollars", 2, 1),
            MessageAppended("assistant", "It is 240 dollars", 4),
            TurnCompleted(first),
            TurnStarted(second, "talk", "f00"),
            MessageAppended("user", "a secret refund", 3),
            CancellationRequested(second, "rolled_back"),
            TurnRolledBack(second),
        )
        return self

    async def asks(self, question: str = "How much refund?", thread_id: ThreadId | None = None) -> Running:
        turn_id, through = UUID(int=3), 8
        started = TurnStarted(turn_id, "talk", "f00")
        compacted = HistoryCompacted(through, "they spoke", 2)
        return await self.append(started, compacted, MessageAppended("user", question, 3), thread_id=thread_id)

    async def recalled(self, means: Recall, state: Running, thread_id: ThreadId | None = None) -> Sequence[Excerpt]:
        before = state.thread.window[0].version
        return await recall(self.journal, means, state, thread_id or self.thread_id, before, 200, Words().count)


@pytest.fixture
async def talk() -> Talk:
    return await Talk().begun()


async def test_messages_are_read_from_the_log_with_who_said_them(talk: Talk) -> None:
    finder = Found((7, 3, 8))
    shown = await talk.recalled(Recall(finder), await talk.asks())
    assert [(each.message, each.who, each.text) for each in shown] == [
        (3, "user", "my refund?"),
        (7, "refund_of", "240 dollars"),
        (8, "assistant", "It is 240 dollars"),
    ]
    ((lineage, terms, before),) = finder.asked
    assert (list(lineage), before) == ([(talk.thread_id, 15)], 16)
    assert [term.text for term in terms] == ["much", "refund"]


async def test_what_was_rolled_back_counts_as_never_said(talk: Talk) -> None:
    assert await talk.recalled(Recall(Found((11,))), await talk.asks()) == []


async def test_nothing_is_looked_for_while_everything_is_in_the_window(talk: Talk) -> None:
    finder = Found((3,))
    state = await talk.append(TurnStarted(UUID(int=3), "talk", "f00"), MessageAppended("user", "refund?", 1))
    assert await talk.recalled(Recall(finder), state) == ()
    assert finder.asked == []


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), TimeoutError()])
async def test_no_turn_fails_for_it(talk: Talk, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert await talk.recalled(Recall(Found(error=error)), await talk.asks()) == ()
    assert "Nothing older is recalled" in caplog.text


async def test_a_fork_recalls_what_its_parent_said_but_not_what_reads_otherwise(talk: Talk) -> None:
    child = ThreadId(uuid4())
    await fork(
        talk.journal, child, Fork(talk.thread_id, Version(9), (EditMessage(Version(8), "It is 250", 3),)), Metadata()
    )
    finder = Found((3, 8, 11))
    shown = await talk.recalled(Recall(finder), await talk.asks(thread_id=child), child)
    assert [(each.message, each.text) for each in shown] == [(3, "my refund?"), (11, "It is 250")]
    assert list(finder.asked[0][0]) == [(child, 13), (talk.thread_id, 9)]


class TestMeaning:
    async def test_messages_are_embedded_after_they_were_said_and_found_by_it(self, talk: Talk) -> None:
        meaning = Meaning(Letters(), MemoryVectorStore())
        indexer = Indexer(talk.journal, meaning, lambda: EVERYTHING)
        assert await indexer.step() == 13
        assert await indexer.step() == 0
        shown = await talk.recalled(Recall(Found(), meaning), await talk.asks("My money, money?"))
        assert shown[0].text == "my refund?"
        assert shown[-1].because == "means something alike"

    async def test_without_the_endpoint_words_are_enough(self, talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
        meaning = Meaning(Letters(ModelUnreachable("away")), MemoryVectorStore())
        shown = await talk.recalled(Recall(Found((3,)), meaning), await talk.asks())
        assert [each.message for each in shown] == [3]
        assert "by words alone: away" in caplog.text

    async def test_what_could_not_be_embedded_is_embedded_later(self, talk: Talk) -> None:
        embedder = Letters(ModelUnreachable("away"))
        vectors = MemoryVectorStore()
        indexer = Indexer(talk.journal, Meaning(embedder, vectors), lambda: EVERYTHING)
        with pytest.raises(ModelUnreachable):
            await indexer.step()
        assert await vectors.positions("letters") == {}
        embedder.error = None
        assert await indexer.step() == 13
        running = asyncio.create_task(indexer.run())
        await talk.asks()
        indexer.wake()
        while sum((await vectors.positions("letters")).values()) < 16:
            await asyncio.sleep(0.01)
        running.cancel()

    async def test_only_slices_that_are_held_are_read(self, talk: Talk) -> None:
        indexer = Indexer(talk.journal, Meaning(Letters(), MemoryVectorStore()), list)
        assert await indexer.step() == 0
