"""Following a thread: each event once and in order, with the text of running models in between."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from domain.application.streaming.broadcast import Behind, Broadcast, Delta, Withdrawn
from domain.application.thread_reader import PageSize
from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId, Version
from domain.thread.codec import Recorded

GLANCE = 1.0
"""Seconds without a signal after which a follower gets a chance to look around."""

PAGE_BYTES = 64_000
"""What a follower reads at a time, or a single event that is larger: it may take long until its client takes it."""


async def follow(
    repository: ThreadRepository, broadcast: Broadcast, thread_id: ThreadId, after: Version, glance: float = GLANCE
) -> AsyncGenerator[Recorded | Delta | Withdrawn | None, None]:
    """Yield what happens after a version, for ever: every event once, in order, from wherever it is written.

    Deltas and withdrawals come as they are heard; those of a version that is past are left out. None is yielded
    when nothing has happened for `glance` seconds. Nothing that was yielded is kept here.
    """
    with broadcast.watch(thread_id) as watcher:
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
                    signal = await watcher.hear()
            except TimeoutError:
                yield None
                continue
            match signal:
                case Recorded(version=version) if version == seen + 1:
                    yield signal
                    seen = version
                case Recorded(version=version) | Behind(version):
                    behind = version > seen
                case Delta(version) | Withdrawn(version):
                    behind = version > seen
                    if version == seen:
                        yield signal
