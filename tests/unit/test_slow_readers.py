"""What slow readers leave unread is bounded in bytes: signals, and what streams have to send."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from uuid import uuid4

from api.http.send_buffer import PIECE_BYTES, SendBuffer
from domain.application.streaming.broadcast import MAX_BACKLOG_BYTES, MAX_BACKLOG_SIGNALS, Broadcast
from domain.application.streaming.follow import PAGE_BYTES, follow
from domain.application.thread_repository import ThreadRepository
from domain.ids import MAX_VERSION, ThreadId, Version
from domain.log.hash_chain import Record
from domain.ports import log
from domain.ports.wakeups import Delta, NewEvents
from domain.thread.codec import Recorded, decode
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.large import a_thread
from tests.support.runtime import Clock

MB = 1_000_000


async def test_a_large_event_is_not_kept_for_a_watcher_but_read_from_the_log() -> None:
    broadcast, store = Broadcast(), MemoryEventStore()
    thread_id = await a_thread(store, ["x" * MB])
    large = decode((await store.read(thread_id, Version(2), limit=1))[0])
    with broadcast.watch(thread_id) as watcher:
        broadcast.send(thread_id, [large])
        assert await watcher.hear() == NewEvents(thread_id, MAX_VERSION)


async def test_a_watcher_keeps_as_many_signals_as_fit() -> None:
    broadcast, thread_id = Broadcast(), ThreadId(uuid4())
    text = "x" * (MAX_BACKLOG_BYTES // 10)
    with broadcast.watch(thread_id) as watcher:
        for _ in range(MAX_BACKLOG_SIGNALS):
            broadcast.speak(Delta(thread_id, Version(1), 0, text))
        heard = [await watcher.hear() for _ in range(11)]
        assert heard == [Delta(thread_id, Version(1), 0, text)] * 10 + [NewEvents(thread_id, MAX_VERSION)]
        broadcast.speak(Delta(thread_id, Version(1), 0, text))
        assert await watcher.hear() == Delta(thread_id, Version(1), 0, text), "there is room again"


class Noting(MemoryEventStore):
    """Keeps how much was read at a time."""

    largest = 0

    async def read(
        self,
        thread_id: ThreadId,
        after: Version,
        upto: Version | None = None,
        limit: int | None = None,
        room: int = log.PAGE_BYTES,
    ) -> Sequence[Record]:
        page = await super().read(thread_id, after, upto, limit, room)
        self.largest = max(self.largest, sum(len(record.payload) for record in page[:-1]))
        return page


async def test_a_follower_reads_little_at_a_time_and_misses_nothing() -> None:
    store = Noting()
    thread_id = await a_thread(store, ["x" * size for size in (10, 30_000, 200_000, 5, 20_000, 50_000, 60_000, 7)])
    repository, broadcast = ThreadRepository(store, MemorySnapshotStore(), Clock(), fingerprint="f"), Broadcast()
    store.largest, versions = 0, []
    async with asyncio.timeout(30), aclosing(follow(repository, broadcast, thread_id, Version(0), 0.01)) as following:
        async for signal in following:
            if not isinstance(signal, Recorded):
                break
            versions.append(signal.version)

    assert versions == [*range(1, 12)]
    assert store.largest <= PAGE_BYTES


async def test_what_many_streams_have_to_send_is_kept_within_bytes_and_made_again() -> None:
    send_buffer = SendBuffer(max_bytes=3 * MB)
    made: list[int] = []

    def text(number: int) -> bytes:
        return bytes([number]) * MB

    def stream(number: int) -> AsyncGenerator[bytes, None]:
        async def again() -> bytes:
            made.append(number)
            return text(number)

        return send_buffer.pieces(text(number), again)

    streams = [stream(number) for number in range(10)]
    begun = [await anext(one) for one in streams]  # and their clients do not go on reading
    assert send_buffer._rests.size <= 3 * MB
    for number, one in enumerate(streams):
        pieces = [begun[number], *[piece async for piece in one]]
        assert max(map(len, pieces)) <= PIECE_BYTES
        assert b"".join(pieces) == text(number)
    assert set(made) >= set(range(7)), "there was no room for these"
    assert send_buffer._rests.size == 0


async def test_a_stream_that_is_given_up_leaves_nothing() -> None:
    send_buffer = SendBuffer()

    async def again() -> bytes:
        raise AssertionError

    async with aclosing(send_buffer.pieces(b"x" * MB, again)) as pieces:
        await anext(pieces)
        assert send_buffer._rests.size == MB
    assert send_buffer._rests.size == 0
