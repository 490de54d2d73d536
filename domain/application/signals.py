"""What watchers of a thread are told while a turn runs: events once they are durable, and text before it is."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from msgspec import Struct

from domain.codec import Recorded
from domain.ids import ThreadId

BACKLOG = 1_000
"""Signals that a slow watcher may leave unread before further ones pass it by; the log has every event."""


class Delta(Struct, frozen=True):
    """A piece of the answer that a model is writing. Provisional until its `MessageAppended`."""

    text: str


class Withdrawn(Struct, frozen=True):
    """The deltas since the last event came to nothing: the attempt failed."""


Signal: TypeAlias = Recorded | Delta | Withdrawn


class Signals:
    """Hands signals to whoever watches, within this process. Nobody's correctness may depend on one."""

    def __init__(self) -> None:
        """Begin without watchers."""
        self._watchers: defaultdict[ThreadId, set[asyncio.Queue[Signal]]] = defaultdict(set)

    @contextmanager
    def watch(self, thread_id: ThreadId) -> Iterator[asyncio.Queue[Signal]]:
        """Receive a thread's signals from now on."""
        queue: asyncio.Queue[Signal] = asyncio.Queue(BACKLOG)
        self._watchers[thread_id].add(queue)
        try:
            yield queue
        finally:
            self._watchers[thread_id].discard(queue)
            if not self._watchers[thread_id]:
                del self._watchers[thread_id]

    def send(self, thread_id: ThreadId, signals: Sequence[Signal]) -> None:
        """Tell every watcher of a thread."""
        for queue in self._watchers.get(thread_id, ()):
            for signal in signals:
                if not queue.full():
                    queue.put_nowait(signal)
