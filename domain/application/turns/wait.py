"""Waiting for the end of a turn: its events are collected as they are told, and the log is read only for what was not.

A turn may also come to wait for a person, and then for days. No request is kept open for that: see `news`.

Most turns are run by the process that waits. What it stores it tells, so that nothing needs to be read back.
"""

import asyncio
from collections.abc import Sequence

from domain.application.streaming.broadcast import Behind, Signal
from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId, TurnId, Version
from domain.thread.codec import Recorded
from domain.thread.events import (
    ApprovalDenied,
    ApprovalRequested,
    MessageAppended,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolSucceeded,
    TurnEnd,
    TurnStarted,
)

KEPT = 4_000_000
"""Bytes of a turn's events that are kept: of a longer turn, the last ones, with its beginning."""

BEGINNING = 2
"""Events that a turn begins with, and that are always kept: its start, and the user's message."""

SAID = MessageAppended | ToolRequested | ToolSucceeded | ToolFailed | ToolOutcomeUnknown | ApprovalDenied
"""What is left out then. All else is short, and says what the turn has used."""


class TurnWaiter:
    """Somebody who waits for the end of a turn. A `Listener`, who is woken by nothing else than that."""

    def __init__(self, repository: ThreadRepository, thread_id: ThreadId, turn_id: TurnId, after: Version) -> None:
        """Begin with what happens after a version, which the turn begins after."""
        self._repository = repository
        self._thread_id = thread_id
        self._turn_id = turn_id
        self._seen = after
        self._behind = False
        self._woken = asyncio.Event()
        self.events: list[Recorded] = []
        """The turn's, from its beginning on. If it was queued and never began: its end alone."""
        self.ended = False
        self.cut = False
        """Whether some of what was said is left out."""
        self._size = 0
        self.missed = False
        """Whether the log had to be read."""
        self._asked = False
        """Whether a person was asked for something in the thread: from then on, each event may be the last for long."""

    def tell(self, signal: Signal) -> None:
        """Take an event that follows on those before; remember that some are missing where it does not."""
        match signal:
            case Recorded(version=version) if version == self._seen + 1:
                self._take(signal)
            case Recorded(version=version) | Behind(version, ended=True) if version > self._seen:
                self.miss()
            case Behind(version) if version > self._seen and self._asked:
                self.miss()

    def miss(self) -> None:
        """Have the log read: something has happened that was not told."""
        self._behind = True
        self._woken.set()

    def foresee(self, kept: Sequence[Recorded]) -> bool:
        """Take events that are not stored yet, if the turn ends with them: then nothing can come before them."""
        if any(self._is_end(recorded) for recorded in kept):
            for recorded in kept:
                self.tell(recorded)
        return self.ended

    def seen(self, version: Version) -> bool:
        """Say whether all events up to a version are known."""
        return self._seen >= version

    async def end(self) -> None:
        """Wait for the turn's end."""
        while not await self.news():
            pass

    async def news(self) -> bool:
        """Wait for the turn's end (True), or for an event after which its thread may wait for a person (False)."""
        while not self.ended:
            await self._woken.wait()
            self._woken.clear()
            if self._behind:
                self._behind, self.missed = False, True
                await self._catch_up()
            if self._asked and not self.ended:
                return False
        return True

    async def _catch_up(self) -> None:
        async for recorded in self._repository.follow(self._thread_id, self._seen):
            if recorded.version > self._seen:  # what was told while the page was read is known already
                self._take(recorded)

    def _take(self, recorded: Recorded) -> None:
        self._seen = recorded.version
        if self.ended:
            return
        event = recorded.event
        begins = isinstance(event, TurnStarted) and event.turn_id == self._turn_id
        self.ended = self._is_end(recorded)
        if begins or self.ended or self.events:
            self.events.append(recorded)
            self._size += recorded.size
            self._leave_out()
        self._asked = self._asked or isinstance(event, ApprovalRequested)
        if self.ended or self._asked:
            self._woken.set()

    def _leave_out(self) -> None:
        """Let the oldest go of what was said since the user's message, calls with the message that asks for them."""
        at = BEGINNING
        while self._size > KEPT and at < len(self.events) - 1:
            if not isinstance(self.events[at].event, SAID):
                at += 1
                continue
            self._size -= self.events.pop(at).size
            self.cut = True
            while at < len(self.events) and isinstance(self.events[at].event, ToolRequested):
                self._size -= self.events.pop(at).size

    def _is_end(self, recorded: Recorded) -> bool:
        return isinstance(recorded.event, TurnEnd) and recorded.event.turn_id == self._turn_id
