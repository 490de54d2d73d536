"""Stores that are slow, away or cut off, and turns of any durability in threads that others write to as well."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from domain.application.command_handler import CommandRequest, CommandResult, execute
from domain.application.thread_repository import ThreadRepository
from domain.errors import StoreUnavailable
from domain.ids import Position, TurnId
from domain.ports.log import Append
from domain.thread.codec import Metadata
from domain.thread.commands import Command, OpenThread, StartTurn
from domain.thread.events import Durability
from infrastructure.memory.event_store import MemoryEventStore
from tests.support.runtime import Stage


class Counting(MemoryEventStore):
    """A store that counts appends, and can be slow or away."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = 0

    async def append(self, append: Append) -> Position:
        await self.gate.wait()
        if self.away:
            self.away -= 1
            raise StoreUnavailable
        self.appends.append([record.type for record in append.records])
        return await super().append(append)


async def begin(played: Stage, durability: Durability, content: str = "double four") -> CommandResult:
    graph = played.agent.graph
    start = StartTurn(TurnId(uuid4()), content, 2, graph.first, graph.fingerprint, durability=durability)

    def plan(state: object) -> Sequence[Command]:
        return (start,) if hasattr(state, "thread") else (OpenThread(played.agent.name), start)

    return await execute(played.repository, CommandRequest(played.thread_id, plan))


async def outside(played: Stage, command: Command) -> None:
    """Write to the thread as another process would."""
    repository = ThreadRepository(played.store, played.snapshots, played.clock, fingerprint="test")
    await execute(repository, CommandRequest(played.thread_id, lambda _: (command,)))


async def run(played: Stage, durability: Durability) -> None:
    started = await begin(played, durability)
    await played.turns.run(started.loaded, Metadata())


def has(append: Append, kind: str) -> bool:
    """Say whether an append brings an event of a kind."""
    return any(record.type == kind for record in append.records)


class Refusing(Counting):
    """A store that is away once, when an event of some kind is to be stored."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    async def append(self, append: Append) -> Position:
        if has(append, self.kind):
            self.kind = ""
            raise StoreUnavailable
        return await super().append(append)


class Mute(Counting):
    """A store that takes an event of some kind, and does not say so, once."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    async def append(self, append: Append) -> Position:
        stored = await super().append(append)
        if has(append, self.kind):
            self.kind = ""
            raise StoreUnavailable
        return stored


class Late(Counting):
    """A store in which the first append of some kind gets no answer, and is done right before the next one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._late: Append | None = None

    async def append(self, append: Append) -> Position:
        if self.kind and has(append, self.kind):
            self.kind, self._late = "", append
            raise StoreUnavailable
        if self._late is not None:
            late, self._late = self._late, None
            await super().append(late)
        return await super().append(append)
