"""A log of some days, with threads in every state: at rest, running, waiting for a person, forked, forked again."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4, uuid5

from msgspec.structs import replace

from domain.application.command_handler import IdempotencyKey, command_record_of
from domain.application.fork import Fork, fork
from domain.application.thread_repository import ThreadRepository
from domain.ids import CommandId, ThreadId, Version
from domain.ports.log import EventStore
from domain.thread.codec import Metadata
from domain.thread.events import (
    ApprovalRequested,
    Event,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    StateUpdated,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnEnqueued,
    TurnStarted,
)
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.runtime import Clock

WORDS = ("hello", "Grüße, ", 'a "quoted" \\ thing', "two\nlines", "👩‍👩‍👧 \u2028", "x" * 3_000)


class Log:
    """Writes threads into a store, with a clock that goes on."""

    def __init__(self, store: EventStore) -> None:
        self.clock = Clock()
        self.repository = ThreadRepository(store, MemorySnapshotStore(), self.clock, fingerprint="test")
        self._number = 0

    async def write(self, days: int = 3, a_day: int = 5) -> None:
        """Let some days pass, with some conversations on each, and one of every other state."""
        for _ in range(days):
            for _ in range(a_day):
                await self.conversation()
            self.clock.pass_(timedelta(days=1).total_seconds())
        await self.running()
        await self.waiting()
        await self.cancelled()
        await self.dropped()
        await self.forks()

    async def conversation(self, turns: int = 2) -> ThreadId:
        """Have some turns."""
        thread_id = await self._opened()
        for _ in range(turns):
            await self._append(thread_id, *self._asked(), *self._answered())
        await self._append(thread_id, StateUpdated({"mood": WORDS[self._number % len(WORDS)]}))
        return thread_id

    async def running(self) -> ThreadId:
        """Begin a turn."""
        thread_id = await self._opened()
        await self._append(thread_id, *self._asked())
        return thread_id

    async def waiting(self) -> ThreadId:
        """Begin a turn in which a person has to decide."""
        thread_id = await self.running()
        call = (await self.repository.load(thread_id)).head.version + 1
        await self._append(thread_id, ToolRequested("c1", "pay", {"amount": 1.5}), ApprovalRequested("h" * 16, call))
        return thread_id

    async def cancelled(self) -> ThreadId:
        """Cancel a turn."""
        thread_id = await self.running()
        await self._append(thread_id, TurnCancelled(self._turn, "cancelled"))
        return thread_id

    async def dropped(self) -> ThreadId:
        """Cancel a turn that waits for the end of another one, which goes on."""
        thread_id, queued = await self.running(), uuid4()
        await self._append(thread_id, TurnEnqueued(queued, "and this", 2, "route_intent", "f00"))
        await self._append(thread_id, TurnCancelled(queued, "cancelled"))
        return thread_id

    async def forks(self) -> None:
        """Leave threads at rest, in a turn and while they wait, and leave a fork."""
        at_rest, running, waiting = await self.conversation(), await self.running(), await self.waiting()
        await self.fork(at_rest, 3)
        resumed = await self.fork(running, 3, resume=True)
        await self.fork(waiting, 5, resume=True)
        await self.fork(resumed, 4, resume=True)
        await self.fork(resumed, 2)

    async def fork(self, parent: ThreadId, at_version: int, *, resume: bool = False) -> ThreadId:
        thread_id = ThreadId(uuid4())
        await fork(self.repository, thread_id, Fork(parent, Version(at_version), resume=resume), Metadata())
        return thread_id

    async def _opened(self) -> ThreadId:
        thread_id = ThreadId(uuid4())
        await self._append(thread_id, ThreadOpened("assistant", {"n": self._number, "half": 0.5}))
        return thread_id

    def _asked(self) -> Sequence[Event]:
        self._turn = UUID(int=self._number)
        words = WORDS[self._number % len(WORDS)]
        return TurnStarted(self._turn, "route_intent", "f00"), MessageAppended("user", words, 2)

    def _answered(self) -> Sequence[Event]:
        model = f"model-{self._number % 2}"
        return (
            MessageAppended("assistant", None, 3),
            ToolRequested("c1", "clock", {}),
            ToolStarted(0),
            ToolSucceeded(0, "noon", 1, 10 * self._number),
            ModelCalled(model, 10 + self._number, 5, 100, "stop"),
            MessageAppended("assistant", WORDS[-1 - self._number % len(WORDS)], 4),
            NodeCompleted("generate_response", "END", 1, 12),
            TurnCompleted(self._turn),
        )

    async def _append(self, thread_id: ThreadId, *events: Event) -> None:
        """Append, every other time as a command with an idempotency key."""
        self._number += 1
        self.clock.pass_(0.000_123)
        loaded = await self.repository.load(thread_id)
        call = loaded.head.version + 1 + next((n for n, e in enumerate(events) if isinstance(e, ToolRequested)), 0)
        events = tuple(_about(event, call) for event in events)
        command = CommandId(uuid5(thread_id, str(self._number)))
        why = Metadata(command) if self._number % 2 else Metadata(causation=command)
        metadata = replace(why, correlation=None if self._number % 3 else f"é{self._number}")
        idempotency_key = IdempotencyKey(command, bytes([self._number % 256]) * 32) if self._number % 2 else None
        await self.repository.append(
            self.repository.chain(loaded, events, metadata), command_record_of(idempotency_key, loaded, len(events))
        )


def _about(event: Event, call: int) -> Event:
    match event:
        case ToolStarted():
            return ToolStarted(call)
        case ToolSucceeded():
            return ToolSucceeded(call, event.content, event.tokens, event.duration_ms)
    return event
