"""Recall over a log in memory: what is read, what is omitted, and that it fails no turn."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest

from domain.application.fork import Fork, fork
from domain.application.recall.embed import MessageEmbedder
from domain.application.recall.search import MAX_EMBEDDED_CHARS, MessageSearch, SemanticSearch
from domain.application.thread_repository import ThreadRepository
from domain.errors import StoreUnavailable
from domain.ids import SLICES, Slice, ThreadId, Version
from domain.models.chat import ModelRejectedRequest, ModelUnreachable
from domain.ports.recall import Lineage
from domain.recall.bm25 import Hit
from domain.recall.excerpts import Excerpt
from domain.recall.terms import Term
from domain.thread.codec import Metadata
from domain.thread.commands import EditMessage
from domain.thread.events import (
    CancellationRequested,
    Event,
    FanOutStarted,
    HistoryCompacted,
    ItemCompleted,
    MessageAppended,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnEnqueued,
    TurnRolledBack,
    TurnStarted,
)
from domain.thread.state import Running
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.recall import MemoryVectorStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.runtime import Clock, Words

EDIT = EditMessage(Version(8), "It is 250", 3)
EVERYTHING = [Slice(number) for number in range(SLICES)]


@dataclass
class Found:
    """A finder that finds what it is told to, or fails."""

    versions: Sequence[int] = ()
    error: BaseException | None = None
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
class Refusing(Letters):
    """An embedder that refuses texts with a word."""

    word: str = ""

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        if any(self.word in text for text in texts):
            raise ModelRejectedRequest("400: input too long")
        return await super().embed(texts)


@dataclass
class Talk:
    """A thread: a first turn with a tool, one that is rolled back, compaction, and a question."""

    repository: ThreadRepository = field(
        default_factory=lambda: ThreadRepository(MemoryEventStore(), MemorySnapshotStore(), Clock(), fingerprint="test")
    )
    thread_id: ThreadId = field(default_factory=lambda: ThreadId(uuid4()))

    async def append(self, *events: Event, thread_id: ThreadId | None = None) -> Running:
        loaded = await self.repository.load(thread_id or self.thread_id)
        loaded, _ = await self.repository.append(self.repository.chain(loaded, events, Metadata()))
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

    async def recalled(
        self, services: MessageSearch, state: Running, thread_id: ThreadId | None = None, before: Version | None = None
    ) -> Sequence[Excerpt]:
        before = before or state.thread.window[0].version
        return await services.recall(self.repository, state, thread_id or self.thread_id, before, 200, Words().count)


@pytest.fixture
async def talk() -> Talk:
    return await Talk().begun()


async def test_messages_are_read_from_the_log_with_who_said_them(talk: Talk) -> None:
    finder, state = Found((7, 3, 8)), await talk.asks()
    shown = await talk.recalled(MessageSearch(finder), state)
    assert [(each.message, each.who, each.text) for each in shown] == [
        (7, "refund_of", "240 dollars"),
        (3, "user", "my refund?"),  # and what message 8 has beyond these are words that say nothing
    ]
    (alone,) = await talk.recalled(MessageSearch(Found((8,))), state)
    assert (alone.message, alone.who, alone.text) == (8, "assistant", "It is 240 dollars")
    ((lineage, terms, before),) = finder.asked
    assert (list(lineage), before) == ([(talk.thread_id, 15)], 16)
    assert [term.text for term in terms] == ["much", "refund"]


async def test_what_was_rolled_back_counts_as_never_said(talk: Talk) -> None:
    assert await talk.recalled(MessageSearch(Found((11,))), await talk.asks()) == []


async def test_it_is_searched_to_the_end_of_the_turn_whatever_ends_in_between(talk: Talk) -> None:
    turn, queued, items = UUID(int=9), UUID(int=10), 600
    await talk.append(
        TurnStarted(turn, "talk", "f00"),
        MessageAppended("user", "a secret refund again", 3),
        FanOutStarted(list(range(items))),
        *[ItemCompleted(item, 1, 1) for item in range(items)],
        TurnEnqueued(queued, "later", 1, "talk", "f00"),
        TurnCancelled(queued, "cancelled"),
        CancellationRequested(turn, "rolled_back"),
        TurnRolledBack(turn),
    )
    assert await talk.recalled(MessageSearch(Found((15,))), await talk.asks()) == []


async def test_nothing_is_looked_for_while_everything_is_in_the_window(talk: Talk) -> None:
    finder = Found((3,))
    state = await talk.append(TurnStarted(UUID(int=3), "talk", "f00"), MessageAppended("user", "refund?", 1))
    assert await talk.recalled(MessageSearch(finder), state) == ()
    assert finder.asked == []


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), TimeoutError(), RuntimeError()])
async def test_no_turn_fails_for_it(talk: Talk, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert await talk.recalled(MessageSearch(Found(error=error)), await talk.asks()) == ()
    assert "Recall failed in thread" in caplog.text


async def test_who_is_cancelled_while_it_is_looked_for_stays_cancelled(talk: Talk) -> None:
    with pytest.raises(asyncio.CancelledError):
        await talk.recalled(MessageSearch(Found(error=asyncio.CancelledError())), await talk.asks())


async def test_a_fork_recalls_what_its_parent_said_but_not_what_reads_otherwise(talk: Talk) -> None:
    child = ThreadId(uuid4())
    await fork(
        talk.repository, child, Fork(talk.thread_id, Version(9), (EditMessage(Version(8), "It is 250", 3),)), Metadata()
    )
    finder = Found((3, 8, 11))
    shown = await talk.recalled(MessageSearch(finder), await talk.asks(thread_id=child), child)
    assert [(each.message, each.text) for each in shown] == [(3, "my refund?"), (11, "It is 250")]
    assert list(finder.asked[0][0]) == [(child, 13), (talk.thread_id, 9)]


class TestForks:
    """A fork's messages read otherwise in it, and in those that leave it later."""

    async def left(self, talk: Talk, parent: ThreadId, at: int, *edits: EditMessage) -> ThreadId:
        child = ThreadId(uuid4())
        await fork(talk.repository, child, Fork(parent, Version(at), edits), Metadata())
        return child

    async def texts(self, talk: Talk, thread_id: ThreadId, *found: int) -> list[str]:
        state = await talk.asks(thread_id=thread_id)
        last = state.thread.window[-1].version
        return [each.text for each in await talk.recalled(MessageSearch(Found(found)), state, thread_id, last)]

    async def test_all_of_many_edits_count(self) -> None:
        talk, turns = Talk(), 60
        await talk.append(ThreadOpened("assistant"))
        for number in range(turns):
            turn_id = UUID(int=100 + number)
            said = MessageAppended("user", f"refund number {number}", 3)
            await talk.append(TurnStarted(turn_id, "talk", "f00"), said, TurnCompleted(turn_id))
        edits = [EditMessage(Version(3 + 3 * number), "REDACTED", 1) for number in range(turns)]
        child = await self.left(talk, talk.thread_id, 1 + 3 * turns, *edits)
        assert await self.texts(talk, child, edits[-1].message, edits[0].message) == []

    async def test_an_edit_is_recalled_though_the_next_turn_was_rolled_back(self, talk: Talk) -> None:
        child = await self.left(talk, talk.thread_id, 9, EDIT)
        turn = UUID(int=9)
        rolled_back = (CancellationRequested(turn, "rolled_back"), TurnRolledBack(turn))
        await talk.append(
            TurnStarted(turn, "talk", "f00"), MessageAppended("user", "bad", 1), *rolled_back, thread_id=child
        )
        assert await self.texts(talk, child, 11) == [EDIT.content]

    async def test_who_left_before_the_edit_recalls_the_original(self, talk: Talk) -> None:
        child = await self.left(talk, talk.thread_id, 9, EDIT)
        other = await self.left(talk, child, 10)
        assert await self.texts(talk, other, 8) == ["It is 240 dollars"]

    async def test_of_two_edits_the_last_one_counts(self, talk: Talk) -> None:
        child = await self.left(talk, talk.thread_id, 9, EDIT)
        other = await self.left(talk, child, 11, EditMessage(Version(8), "It is 260", 3))
        assert await self.texts(talk, other, 8, 11, 13) == ["It is 260"]

    async def test_a_turn_that_only_the_fork_rolled_back_was_never_said_there(self, talk: Talk) -> None:
        turn = UUID(int=9)
        await talk.append(TurnStarted(turn, "talk", "f00"), MessageAppended("user", "a refund again", 3))
        child = ThreadId(uuid4())
        await fork(talk.repository, child, Fork(talk.thread_id, Version(15), resume=True), Metadata())
        await talk.append(TurnCompleted(turn))
        await talk.append(CancellationRequested(turn, "rolled_back"), TurnRolledBack(turn), thread_id=child)
        assert await self.texts(talk, child, 15) == []
        assert await self.texts(talk, talk.thread_id, 15) == ["a refund again"]


class TestMeaning:
    async def test_messages_are_embedded_after_they_were_said_and_found_by_it(self, talk: Talk) -> None:
        meaning = SemanticSearch(Letters(), MemoryVectorStore())
        indexer = MessageEmbedder(talk.repository, meaning, lambda: EVERYTHING)
        assert await indexer.step() == 13
        assert await indexer.step() == 0
        shown = await talk.recalled(MessageSearch(Found(), meaning), await talk.asks("My money, money?"))
        assert shown[0].text == "my refund?"
        assert shown[-1].because == "means something alike"

    async def test_without_the_endpoint_words_are_enough(self, talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
        meaning = SemanticSearch(Letters(ModelUnreachable("away")), MemoryVectorStore())
        shown = await talk.recalled(MessageSearch(Found((3,)), meaning), await talk.asks())
        assert [each.message for each in shown] == [3]
        assert "by words only: away" in caplog.text

    async def test_a_vector_that_the_store_refuses_fails_nothing(self, talk: Talk) -> None:
        class Full(MemoryVectorStore):
            async def nearest(self, *_: object) -> Sequence[Hit]:
                raise ValueError("1e+39 is out of range for type vector")

        shown = await talk.recalled(MessageSearch(Found((3,)), SemanticSearch(Letters(), Full())), await talk.asks())
        assert [each.message for each in shown] == [3]

    async def test_what_could_not_be_embedded_is_embedded_later(self, talk: Talk) -> None:
        embedder = Letters(ModelUnreachable("away"))
        vectors = MemoryVectorStore()
        indexer = MessageEmbedder(talk.repository, SemanticSearch(embedder, vectors), lambda: EVERYTHING)
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

    async def test_a_text_that_the_endpoint_refuses_is_passed_over(self, talk: Talk) -> None:
        vectors, refusing = MemoryVectorStore(), Refusing(word="secret")
        assert (
            await MessageEmbedder(talk.repository, SemanticSearch(refusing, vectors), lambda: EVERYTHING).step() == 13
        )
        found = await vectors.nearest("letters", [(talk.thread_id, Version(13))], [1, 1, 0], Version(99), 9)
        assert sorted(hit.version for hit in found) == [3, 7, 8]

    async def test_an_endpoint_that_refuses_everything_is_asked_again_later(self, talk: Talk) -> None:
        vectors, refusing = MemoryVectorStore(), Refusing()
        with pytest.raises(ModelRejectedRequest):
            await MessageEmbedder(talk.repository, SemanticSearch(refusing, vectors), lambda: EVERYTHING).step()
        assert await vectors.positions("letters") == {}

    async def test_a_long_question_is_cut_as_messages_are(self, talk: Talk) -> None:
        letters = Letters()
        await talk.recalled(
            MessageSearch(Found((3,)), SemanticSearch(letters, MemoryVectorStore())), await talk.asks("refund? " * 900)
        )
        assert [len(text) for (text,) in letters.asked] == [MAX_EMBEDDED_CHARS]

    async def test_only_slices_that_are_held_are_read(self, talk: Talk) -> None:
        indexer = MessageEmbedder(talk.repository, SemanticSearch(Letters(), MemoryVectorStore()), list)
        assert await indexer.step() == 0
