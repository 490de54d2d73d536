"""Following a thread: each event once and in order, and between events the text of running models."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from domain.application.streaming.broadcast import Broadcast
from domain.application.thread_reader import PageSize
from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId, Version
from domain.ports.wakeups import Delta, NewEvents, Withdrawn
from domain.thread.codec import Recorded

IDLE_S = 1.0
"""Seconds without a signal after which a follower gets None, such as to send a heartbeat."""

PAGE_BYTES = 64_000
"""Bytes that a follower reads at a time, or one larger event: its client may take them slowly."""


async def follow(
    repository: ThreadRepository, broadcast: Broadcast, thread_id: ThreadId, after: Version, glance: float = IDLE_S
) -> AsyncGenerator[Recorded | Delta | Withdrawn | None, None]:
    """Yield every event after a version, for ever: each once and in order, whichever process writes it.

    Models' text and its retractions are yielded as they arrive, unless they belong to an older version. None is yielded
    after `glance` seconds without a signal, and when the broadcast rouses its subscribers. No reference to a yielded
    event is kept.
    """
    with broadcast.watch(thread_id) as subscription:
        seen, behind, size = after, True, PageSize()
        while True:
            while behind:
                async with broadcast.reading:
                    missed = deque(await repository.history(thread_id, seen, None, size.limit, PAGE_BYTES))
                behind = not size.is_last([recorded.size for recorded in missed], PAGE_BYTES)
                while missed:
                    seen = missed[0].version
                    yield missed.popleft()
            try:
                async with asyncio.timeout(glance):
                    signal = await subscription.hear()
            except TimeoutError:
                yield None
                continue
            match signal:
                case None:
                    yield None
                case Recorded(version=version) if version == seen + 1:
                    yield signal
                    seen = version
                case Recorded(version=version) | NewEvents(version=version):
                    behind = version > seen
                case Delta(version=version) | Withdrawn(version=version):
                    behind = version > seen
                    if version == seen:
                        yield signal
