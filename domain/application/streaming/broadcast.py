"""What watchers of a thread are told while a turn runs: events once they are durable, and text before it is.

Watchers in other processes are told over the wake-ups: that there are new events, which they read from the log, and,
if they said so, the text.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeAlias

from msgspec import Struct

from domain.errors import StoreUnavailable
from domain.ids import MAX_VERSION, ThreadId, Version
from domain.ports.log import EventStore
from domain.ports.wakeups import Moved, Retracted, Spoken, Wakeup, Wakeups, Watched
from domain.thread.codec import Recorded
from domain.thread.events import ApprovalRequested, TurnEnd

BACKLOG = 200
"""Signals that a slow watcher may leave unread before further ones pass it by; the log has every event."""

BACKLOG_BYTES = 64_000
"""What these may hold, about: a larger event is always read from the log."""

READERS = 4
"""Watchers that read the log at the same time: what each of them reads is in memory until its client takes it."""

LOOK = 2.0
"""Seconds between two looks at the log, for events whose signals were lost."""

ATTENTION = 30.0
"""Seconds that another process counts as watching after it said so; it says so every third of that."""


class Delta(Struct, frozen=True):
    """A piece of the answer that a model is writing after a version, from its `offset`th character on.

    Provisional until the next event.
    """

    version: Version
    offset: int
    text: str


class Withdrawn(Struct, frozen=True):
    """The deltas after a version came to nothing: the attempt failed."""

    version: Version


class Behind(Struct, frozen=True):
    """There are events up to a version, which some other process has written.

    `ended`: perhaps a turn has ended with one, or a person was asked for something.
    """

    version: Version
    ended: bool = True


Signal: TypeAlias = Recorded | Delta | Withdrawn | Behind


class Listener(Protocol):
    """Somebody who is told of a thread what happens in this process, and that something happens in another one."""

    def tell(self, signal: Signal) -> None:
        """Hear a signal. Never waits."""


class Subscription:
    """Somebody who wants to hear of a thread. Takes what it can hold, and knows when it has missed something."""

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self._signals: deque[tuple[Signal, int]] = deque()
        self._size = 0
        self._something = asyncio.Event()
        self._missed = False

    def tell(self, signal: Signal) -> None:
        """Keep a signal, unless too many are kept already, or too much."""
        size = _size_of(signal)
        if len(self._signals) < BACKLOG and self._size + size <= BACKLOG_BYTES:
            self._signals.append((signal, size))
            self._size += size
        else:
            self._missed = True
        self._something.set()

    async def hear(self) -> Signal:
        """Return the next signal; `Behind` the newest version where some were missed."""
        while not (self._signals or self._missed):
            self._something.clear()
            await self._something.wait()
        if self._signals:
            signal, size = self._signals.popleft()
            self._size -= size
            return signal
        self._missed = False
        return Behind(MAX_VERSION)


def _size_of(signal: Signal) -> int:
    match signal:
        case Recorded(size=size):
            return size
        case Delta(text=text):
            return len(text)
        case _:
            return 0


class Broadcast:
    """Hands signals to whoever watches. Nobody's correctness may depend on one."""

    def __init__(self, wakeups: Wakeups | None = None) -> None:
        """Begin without watchers. `wakeups` lead to other processes."""
        self._listeners: defaultdict[ThreadId, set[Listener]] = defaultdict(set)
        self._wakeups = wakeups
        self._watched_elsewhere: dict[ThreadId, float] = {}
        self._readers: list[Callable[[], None]] = []
        self._anything = asyncio.Event()
        self.reading = asyncio.Semaphore(READERS)
        """Held by a watcher that reads the log."""
        if wakeups:
            wakeups.listen(self._hear)

    @contextmanager
    def watch(self, thread_id: ThreadId) -> Iterator[Subscription]:
        """Receive a thread's signals from now on."""
        watcher = Subscription()
        with self.telling(thread_id, watcher):
            self._attend(thread_id)
            yield watcher

    @contextmanager
    def telling(self, thread_id: ThreadId, listener: Listener) -> Iterator[None]:
        """Tell a listener of a thread meanwhile. No other process is asked for what its models are writing."""
        self._listeners[thread_id].add(listener)
        try:
            yield
        finally:
            self._listeners[thread_id].discard(listener)
            if not self._listeners[thread_id]:
                del self._listeners[thread_id]

    async def anything(self) -> None:
        """Wait until some thread, whichever, has new events."""
        await self._anything.wait()

    async def keep_up(self, store: EventStore) -> None:
        """Ask the log, for ever, about the threads that somebody here watches: all of them in one query."""
        attended = 0.0
        known: Mapping[ThreadId, Version] = {}
        while True:
            await asyncio.sleep(LOOK)
            watched = list(self._listeners)
            if time.monotonic() - attended > ATTENTION / 3:
                attended = time.monotonic()
                for thread_id, listeners in self._listeners.items():
                    if any(isinstance(listener, Subscription) for listener in listeners):
                        self._attend(thread_id)
            with suppress(StoreUnavailable):
                now = await store.versions(watched) if watched else {}
                for thread_id, version in now.items():
                    if known.get(thread_id) != version:
                        self._tell(thread_id, (Behind(version),))
                known = now

    def _attend(self, thread_id: ThreadId) -> None:
        if self._wakeups:
            self._wakeups.send(Watched(thread_id))

    def wake(self, reader: Callable[[], None]) -> None:
        """Call a reader of the log whenever somebody has said, here or elsewhere, that there are events."""
        self._readers.append(reader)

    def send(self, thread_id: ThreadId, events: Sequence[Recorded]) -> None:
        """Tell every watcher of a thread what has happened."""
        self._tell(thread_id, events)
        if events:
            self._stir()
        if self._wakeups and events:
            ended = any(isinstance(recorded.event, TurnEnd | ApprovalRequested) for recorded in events)
            self._wakeups.send(Moved(thread_id, events[-1].version, ended))

    def speak(self, thread_id: ThreadId, delta: Delta) -> None:
        """Tell every watcher what a model is writing."""
        self._tell(thread_id, (delta,))
        if self._wakeups and self._is_watched_elsewhere(thread_id):
            self._wakeups.send(Spoken(thread_id, delta.version, delta.offset, delta.text))

    def retract(self, thread_id: ThreadId, version: Version) -> None:
        """Tell every watcher that what was spoken after a version came to nothing."""
        self._tell(thread_id, (Withdrawn(version),))
        if self._wakeups and self._is_watched_elsewhere(thread_id):
            self._wakeups.send(Retracted(thread_id, version))

    def _stir(self) -> None:
        """Wake all who wait for anything; who waits from now on waits for the next."""
        self._anything.set()
        self._anything = asyncio.Event()
        for reader in self._readers:
            reader()

    def _tell(self, thread_id: ThreadId, broadcast: Sequence[Signal]) -> None:
        for listener in self._listeners.get(thread_id, ()):
            for signal in broadcast:
                listener.tell(signal)

    def _hear(self, wakeup: Wakeup) -> None:
        match wakeup:
            case Moved(thread_id, version, ended):
                self._tell(thread_id, (Behind(version, ended),))
                self._stir()
            case Spoken(thread_id, version, offset, text):
                self._tell(thread_id, (Delta(version, offset, text),))
            case Retracted(thread_id, version):
                self._tell(thread_id, (Withdrawn(version),))
            case Watched(thread_id):
                self._watched_elsewhere.pop(thread_id, None)  # to the end: entries stand in the order of their end
                self._watched_elsewhere[thread_id] = time.monotonic() + ATTENTION
                self._forget_who_has_left()

    def _is_watched_elsewhere(self, thread_id: ThreadId) -> bool:
        return self._watched_elsewhere.get(thread_id, 0.0) > time.monotonic()

    def _forget_who_has_left(self) -> None:
        """Drop entries that are over."""
        now = time.monotonic()
        while self._watched_elsewhere:
            first = next(iter(self._watched_elsewhere))
            if self._watched_elsewhere[first] > now:
                return
            del self._watched_elsewhere[first]
