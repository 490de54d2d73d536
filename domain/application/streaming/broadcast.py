"""The broadcast to subscribers of a thread: events once they are stored, and the text of running models before.

Other processes get wake-ups: that there are new events, which they read from the log; and the text, if they have said
that they have subscribers.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeAlias

from domain.errors import StoreUnavailable
from domain.ids import MAX_VERSION, ThreadId, Version
from domain.ports.log import EventStore
from domain.ports.wakeups import Delta, NewEvents, Wakeup, Wakeups, Watched, Withdrawn
from domain.thread.codec import Recorded
from domain.thread.events import ApprovalRequested, QuestionAsked, TurnEnd

MAX_BACKLOG_SIGNALS = 200
"""Unread signals of a slow subscriber. Further ones are dropped; the log has every event."""

MAX_BACKLOG_BYTES = 64_000
"""Bytes of these, about: a larger event is always read from the log."""

MAX_READERS = 4
"""Subscribers that read the log at the same time: each holds a page in memory until its client has taken it."""

POLL_INTERVAL_S = 2.0
"""Seconds between two polls of the log, for events whose signals were lost."""

WATCHED_TTL_S = 30.0
"""Seconds for which a `Watched` wake-up of another process counts; it is repeated after a third of that."""


Signal: TypeAlias = Recorded | NewEvents | Delta | Withdrawn
"""A stored event, or a wake-up about the thread: of another process, or about text of this one."""


class Listener(Protocol):
    """Receives a thread's events of this process, and the news that another process has written some."""

    def tell(self, signal: Signal) -> None:
        """Take a signal. Must not wait."""


class Subscription:
    """A queue of a thread's signals. Bounded: it drops signals when it is full, and notes that."""

    def __init__(self, thread_id: ThreadId) -> None:
        """Create an empty queue."""
        self._thread_id = thread_id
        self._signals: deque[tuple[Signal, int]] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._dropped = self._roused = False

    def rouse(self) -> None:
        """Let the waiting subscriber go on without a signal."""
        self._roused = True
        self._filled.set()

    def tell(self, signal: Signal) -> None:
        """Queue a signal, unless the queue is full."""
        size = _size_of(signal)
        if len(self._signals) < MAX_BACKLOG_SIGNALS and self._size + size <= MAX_BACKLOG_BYTES:
            self._signals.append((signal, size))
            self._size += size
        else:
            self._dropped = True
        self._filled.set()

    async def hear(self) -> Signal | None:
        """Wait for the next signal: `NewEvents` to the highest version if some were dropped, and None if roused."""
        while not (self._signals or self._dropped or self._roused):
            self._filled.clear()
            await self._filled.wait()
        if self._signals:
            signal, size = self._signals.popleft()
            self._size -= size
            return signal
        if self._dropped:
            self._dropped = False
            return NewEvents(self._thread_id, MAX_VERSION)
        self._roused = False
        return None


def _size_of(signal: Signal) -> int:
    if isinstance(signal, Recorded):
        return signal.size
    return len(signal.text) if isinstance(signal, Delta) else 0


class Broadcast:
    """Delivers signals to listeners. A signal may be lost, so no correctness may depend on one."""

    def __init__(self, wakeups: Wakeups | None = None) -> None:
        """Create a broadcast without listeners. `wakeups` connects it to other processes."""
        self._listeners: defaultdict[ThreadId, set[Listener]] = defaultdict(set)
        self._wakeups = wakeups
        self._watched_elsewhere: dict[ThreadId, float] = {}
        self._readers: list[Callable[[], None]] = []
        self.reading = asyncio.Semaphore(MAX_READERS)
        """Held by a subscriber that reads the log."""
        if wakeups:
            wakeups.listen(self._on_wakeup)

    @contextmanager
    def watch(self, thread_id: ThreadId) -> Iterator[Subscription]:
        """Subscribe to a thread's signals, with the text of models in other processes, while the block runs."""
        subscription = Subscription(thread_id)
        with self.telling(thread_id, subscription):
            self._tell_others(Watched(thread_id))
            yield subscription

    @contextmanager
    def telling(self, thread_id: ThreadId, listener: Listener) -> Iterator[None]:
        """Deliver a thread's signals to a listener while the block runs, without text from other processes."""
        self._listeners[thread_id].add(listener)
        try:
            yield
        finally:
            self._listeners[thread_id].discard(listener)
            if not self._listeners[thread_id]:
                del self._listeners[thread_id]

    def rouse(self) -> None:
        """Let all subscribers go on, such as to notice that the process is stopping."""
        for listeners in self._listeners.values():
            for listener in listeners:
                if isinstance(listener, Subscription):
                    listener.rouse()

    async def keep_up(self, store: EventStore) -> None:
        """Poll the log for ever, for the threads that have listeners here: all of them in one query."""
        announced = 0.0
        known: Mapping[ThreadId, Version] = {}
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            watched = list(self._listeners)
            if time.monotonic() - announced > WATCHED_TTL_S / 3:
                announced = time.monotonic()
                for thread_id, listeners in self._listeners.items():
                    if any(isinstance(listener, Subscription) for listener in listeners):
                        self._tell_others(Watched(thread_id))
            with suppress(StoreUnavailable):
                now = await store.versions(watched) if watched else {}
                for thread_id, version in now.items():
                    if known.get(thread_id) != version:
                        self._deliver(thread_id, (NewEvents(thread_id, version),))
                known = now

    def _tell_others(self, wakeup: Wakeup) -> None:
        if self._wakeups:
            self._wakeups.send(wakeup)

    def wake(self, reader: Callable[[], None]) -> None:
        """Call a reader of the log whenever a process has stored events."""
        self._readers.append(reader)

    def send(self, thread_id: ThreadId, events: Sequence[Recorded]) -> None:
        """Deliver stored events to every listener of a thread."""
        if not events:
            return
        self._deliver(thread_id, events)
        self._wake_readers()
        ended = any(isinstance(recorded.event, TurnEnd | ApprovalRequested | QuestionAsked) for recorded in events)
        self._tell_others(NewEvents(thread_id, events[-1].version, ended))

    def speak(self, signal: Delta | Withdrawn) -> None:
        """Deliver a piece of the text that a model is writing, or that the pieces after a version are void."""
        self._deliver(signal.thread_id, (signal,))
        if self._watched_elsewhere.get(signal.thread_id, 0.0) > time.monotonic():
            self._tell_others(signal)

    def _wake_readers(self) -> None:
        for reader in self._readers:
            reader()

    def _deliver(self, thread_id: ThreadId, signals: Sequence[Signal]) -> None:
        for listener in self._listeners.get(thread_id, ()):
            for signal in signals:
                listener.tell(signal)

    def _on_wakeup(self, wakeup: Wakeup) -> None:
        match wakeup:
            case NewEvents() | Delta() | Withdrawn():
                self._deliver(wakeup.thread_id, (wakeup,))
                if isinstance(wakeup, NewEvents):
                    self._wake_readers()
            case Watched(thread_id):
                now, expiries = time.monotonic(), self._watched_elsewhere
                expiries.pop(thread_id, None)  # to the end: entries are in the order of their expiry
                expiries[thread_id] = now + WATCHED_TTL_S
                while expiries[first := next(iter(expiries))] <= now:
                    del expiries[first]
