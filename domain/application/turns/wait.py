"""Waiting for the end of a turn: its events are collected from the broadcast, and the log is read for missing ones.

Most turns run in the process that waits. It broadcasts what it stores, so that nothing needs to be read back.

A turn may also wait for a person, perhaps for days. No request is kept open for that: see `TurnWaiter.news`.
"""

import asyncio
from collections.abc import Sequence

from domain.application.streaming.broadcast import Signal
from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId, TurnId, Version
from domain.ports.wakeups import NewEvents
from domain.thread.codec import Recorded
from domain.thread.events import (
    ApprovalDenied,
    ApprovalRequested,
    MessageAppended,
    QuestionAsked,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolSucceeded,
    TurnEnd,
    TurnStarted,
)

MAX_EVENT_BYTES = 4_000_000
"""Bytes of a turn's events that are collected. Of a longer turn, the first two and the last ones are."""

FIRST_EVENTS = 2
"""Events that a turn begins with, and that are always collected: its start, and the user's message."""

REMOVABLE = MessageAppended | ToolRequested | ToolSucceeded | ToolFailed | ToolOutcomeUnknown | ApprovalDenied
"""Events that are left out of a longer turn. All others are short, and count what the turn has used."""


class TurnWaiter:
    """A `Listener` that collects a turn's events, and wakes its caller at the turn's end only."""

    def __init__(self, repository: ThreadRepository, thread_id: ThreadId, turn_id: TurnId, after: Version) -> None:
        """Collect events after a version, which must be before the turn's first event."""
        self._repository = repository
        self._thread_id = thread_id
        self._turn_id = turn_id
        self._version = after
        self._has_gap = False
        self._woken = asyncio.Event()
        self.events: list[Recorded] = []
        """The turn's events. If it was queued and never began, only its end."""
        self.ended = False
        self.cut = False
        """Whether some events are left out."""
        self._size = 0
        self.missed = False
        """Whether the log had to be read."""
        self._approval_requested = False
        """Whether the thread has an approval request: from then on, each event may be the last one for days."""

    def tell(self, signal: Signal) -> None:
        """Take the next event; if it is not the next one, note that some are missing."""
        match signal:
            case Recorded(version=version) if version == self._version + 1:
                self._take(signal)
            case Recorded(version=version) | NewEvents(version=version, ended=True) if version > self._version:
                self.miss()
            case NewEvents(version=version) if version > self._version and self._approval_requested:
                self.miss()

    def miss(self) -> None:
        """Read the log: events were stored that were not broadcast here."""
        self._has_gap = True
        self._woken.set()

    def foresee(self, kept: Sequence[Recorded]) -> bool:
        """Take events that are not stored yet, if they end the turn: then no other event can come before them."""
        if any(self._is_end(recorded) for recorded in kept):
            for recorded in kept:
                self.tell(recorded)
        return self.ended

    def seen(self, version: Version) -> bool:
        """Say whether all events up to a version are known."""
        return self._version >= version

    async def end(self) -> None:
        """Wait for the turn's end."""
        while not await self.news():
            pass

    async def news(self) -> bool:
        """Wait for the turn's end (True), or for an event after which its thread may wait for a person (False)."""
        while not self.ended:
            await self._woken.wait()
            self._woken.clear()
            await self.catch_up()
            if self._approval_requested and not self.ended:
                return False
        return True

    async def catch_up(self) -> None:
        """Read the log if events are missing."""
        if not self._has_gap:
            return
        self._has_gap, self.missed = False, True
        async for recorded in self._repository.follow(self._thread_id, self._version):
            if recorded.version > self._version:  # others were broadcast while the page was read
                self._take(recorded)

    def _take(self, recorded: Recorded) -> None:
        self._version = recorded.version
        if self.ended:
            return
        event = recorded.event
        begins = isinstance(event, TurnStarted) and event.turn_id == self._turn_id
        self.ended = self._is_end(recorded)
        if begins or self.ended or self.events:
            self.events.append(recorded)
            self._size += recorded.size
            self._shorten()
        self._approval_requested = self._approval_requested or isinstance(event, ApprovalRequested | QuestionAsked)
        if self.ended or self._approval_requested:
            self._woken.set()

    def _shorten(self) -> None:
        """Remove the oldest removable events, tool calls together with the message that requests them."""
        at = FIRST_EVENTS
        while self._size > MAX_EVENT_BYTES and at < len(self.events) - 1:
            if not isinstance(self.events[at].event, REMOVABLE):
                at += 1
                continue
            self._size -= self.events.pop(at).size
            self.cut = True
            while at < len(self.events) and isinstance(self.events[at].event, ToolRequested):
                self._size -= self.events.pop(at).size

    def _is_end(self, recorded: Recorded) -> bool:
        return isinstance(recorded.event, TurnEnd) and recorded.event.turn_id == self._turn_id
