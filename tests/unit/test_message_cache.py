"""The cache of messages: recall returns the same with it and without it."""

import random
from collections.abc import Collection, Sequence
from uuid import UUID, uuid4

from domain.application.fork import Fork, fork
from domain.application.recall.cache import MAX_CACHED_CHARS, MessageCache
from domain.application.recall.search import MessageSearch
from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId, Version
from domain.log.hash_chain import Record
from domain.prompt.assemble import excerpt_tokens
from domain.recall.bm25 import Hit
from domain.recall.excerpts import Excerpt
from domain.thread.codec import Metadata
from domain.thread.commands import EditMessage
from domain.thread.events import (
    CancellationRequested,
    MessageAppended,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnRolledBack,
    TurnStarted,
)
from domain.thread.evolve import fold
from domain.thread.state import Idle, Running
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.recalling import All
from tests.support.runtime import Clock, Words

WORDS = ["refund", "flight", "PEP4E0", "seats", "card", "York", "total", "price"]
count = Words().count


def hit(version: int, who: str = "") -> Hit:
    return Hit(ThreadId(UUID(int=1)), Version(version), 1.0, who=who)


class Reading(MemoryEventStore):
    """Counts the events that are read by their versions."""

    told = 0

    async def read_at(self, thread_id: ThreadId, versions: Collection[int]) -> Sequence[Record]:
        found = await super().read_at(thread_id, versions)
        self.told += len(found)
        return found


def repository() -> ThreadRepository:
    return ThreadRepository(Reading(), MemorySnapshotStore(), Clock(), fingerprint="test")


async def say(log: ThreadRepository, thread_id: ThreadId, chance: random.Random, *, rolled_back: bool = False) -> None:
    """Take a turn with a tool."""
    loaded, turn = await log.load(thread_id), uuid4()
    opened = [] if loaded.head.version else [ThreadOpened("assistant")]
    asked = Version(loaded.head.version + len(opened) + 3)
    said = [" ".join(chance.choices(WORDS, k=chance.randrange(1, 60))) for _ in range(3)]
    last = [CancellationRequested(turn, "rolled_back"), TurnRolledBack(turn)] if rolled_back else [TurnCompleted(turn)]
    events = [
        *opened,
        TurnStarted(turn, "talk", "f00"),
        MessageAppended("user", said[0], count(said[0])),
        ToolRequested("call", chance.choice(("find", "book")), {}),
        ToolStarted(asked),
        ToolSucceeded(asked, said[1], count(said[1]), 1),
        MessageAppended("assistant", said[2], count(said[2])),
        *last,
    ]
    await log.append(log.chain(loaded, events, Metadata()))


async def ask(log: ThreadRepository, thread_id: ThreadId, question: str, services: MessageSearch) -> Sequence[Excerpt]:
    """Recall what a question looks for, without storing it."""
    loaded = await log.load(thread_id)
    state = fold(loaded.state, [TurnStarted(uuid4(), "talk", "f00"), MessageAppended("user", question, 3)])
    assert isinstance(state, Running)
    return await services.recall(log, state, thread_id, Version(state.version), 150, count)


async def test_whatever_is_remembered_the_same_is_recalled() -> None:
    chance, log, threads = random.Random(5), repository(), [ThreadId(uuid4())]
    warm = [
        MessageSearch(All()),
        MessageSearch(All(), cache=MessageCache(4_000)),
        MessageSearch(All(), cache=MessageCache(0)),
    ]
    recalled = 0
    for step in range(60):
        thread_id = chance.choice(threads)
        await say(log, thread_id, chance, rolled_back=chance.random() < 0.2)
        if step % 10 == 9:
            loaded = await log.load(thread_id)
            assert isinstance(loaded.state, Idle)
            said = [message.version for message in loaded.state.thread.window if message.role != "tool"]
            edit = EditMessage(chance.choice(said), f"edited {step} refund", 3)
            await fork(log, child := ThreadId(uuid4()), Fork(thread_id, loaded.head.version, (edit,)), Metadata())
            threads.append(child)
        question = " ".join(chance.choices(WORDS, k=3))
        fresh = await ask(log, thread_id, question, MessageSearch(All()))
        assert [await ask(log, thread_id, question, services) for services in warm] == [fresh] * len(warm)
        assert [each.prompt_tokens for each in fresh] == [excerpt_tokens(each, count) for each in fresh]
        recalled += len(fresh)
    assert recalled > 60


async def test_what_is_remembered_is_not_read_again() -> None:
    log, remembered, thread_id = repository(), MessageCache(), ThreadId(uuid4())
    await say(log, thread_id, random.Random(1))
    assert isinstance(log.store, Reading)
    first = await remembered.read(log, thread_id, [hit(3), hit(6)])
    assert log.store.told == 3, "two messages, and the call of one"
    assert await remembered.read(log, thread_id, [hit(3), hit(6)]) == first
    assert log.store.told == 3
    assert list(await remembered.read(log, thread_id, [hit(7), hit(3)])) == [3, 7]
    assert log.store.told == 4


async def test_a_tool_that_the_finder_names_is_not_looked_up() -> None:
    log, thread_id = repository(), ThreadId(uuid4())
    await say(log, thread_id, random.Random(1))
    asked = await MessageCache().read(log, thread_id, [hit(3), hit(6), hit(7)])
    assert isinstance(log.store, Reading)
    assert log.store.told == 4
    named = [hit(3, "user"), hit(6, asked[6].who), hit(7, "assistant")]
    assert await MessageCache().read(log, thread_id, named) == asked
    assert log.store.told == 7
    unnamed = [hit(3, "user"), hit(6, "tool"), hit(7, "assistant")]
    assert await MessageCache().read(log, thread_id, unnamed) == asked


async def test_very_long_messages_are_read_again() -> None:
    log, services, thread_id = repository(), MessageSearch(All()), ThreadId(uuid4())
    loaded, turn, text = await log.load(thread_id), uuid4(), "refund " * (MAX_CACHED_CHARS // 7 + 1)
    said = MessageAppended("user", text, count(text))
    await log.append(
        log.chain(
            loaded, [ThreadOpened("assistant"), TurnStarted(turn, "talk", "f00"), said, TurnCompleted(turn)], Metadata()
        )
    )
    (one,) = await services.cache.read(log, thread_id, [hit(3)])
    assert isinstance(log.store, Reading)
    assert log.store.told == 1
    await services.cache.read(log, thread_id, [hit(3)])
    assert (one, log.store.told) == (3, 2)


async def test_parts_that_begin_at_the_same_place_have_prices_of_their_own() -> None:
    remembered, thread_id = MessageCache(), ThreadId(uuid4())
    parts = [Excerpt(Version(3), "user", 0, " ".join(WORDS[:length]), length, "") for length in (8, 2, 5)]
    assert [each.prompt_tokens for each in remembered.with_prompt_tokens(thread_id, parts, count)] == [
        excerpt_tokens(each, count) for each in parts
    ]
    assert len({excerpt_tokens(each, count) for each in parts}) == len(parts)


async def test_who_counts_otherwise_is_told_other_prices() -> None:
    log, remembered, thread_id = repository(), MessageCache(), ThreadId(uuid4())
    await say(log, thread_id, random.Random(1))
    found = await ask(log, thread_id, "refund", MessageSearch(All()))
    by_words, by_letters = (
        remembered.with_prompt_tokens(thread_id, found, count),
        remembered.with_prompt_tokens(thread_id, found, len),
    )
    assert [each.prompt_tokens for each in by_words] == [excerpt_tokens(each, count) for each in found]
    assert [each.prompt_tokens for each in by_letters] == [excerpt_tokens(each, len) for each in found]
