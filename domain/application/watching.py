"""Following a thread: each event once and in order, with the text of running models in between."""

import asyncio
from collections.abc import AsyncGenerator

from domain.application.journal import Journal
from domain.application.signals import Behind, Delta, Signals, Withdrawn
from domain.codec import Recorded
from domain.ids import ThreadId, Version

GLANCE = 1.0
"""Seconds without a signal after which whoever follows gets a chance to look around."""


async def happenings(
    journal: Journal, signals: Signals, thread_id: ThreadId, after: Version, glance: float = GLANCE
) -> AsyncGenerator[Recorded | Delta | Withdrawn | None, None]:
    """Yield what happens after a version, for ever: every event once, in order, from wherever it is written.

    Deltas and withdrawals come as they are heard; those of a version that is past are left out. None is yielded
    when nothing has happened for `glance` seconds.
    """
    with signals.watch(thread_id) as watcher:
        seen, behind = after, True
        while True:
            while behind:
                missed = await journal.history(thread_id, seen)
                for recorded in missed:
                    yield recorded
                    seen = recorded.version
                behind = bool(missed)
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
