"""Threads of any age, built from recorded turns as the runtime would have built them, with its snapshots."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from benchmarks.assistant_turns import EVENTS, OPENED, overflow, turn
from domain.application.thread_repository import ChainedEvents, LoadedThread, ThreadRepository
from domain.ids import CommandId, ThreadId
from domain.thread.codec import Metadata

NAMES = UUID("2c1f43f2-8d0c-4f0e-b0f6-6c2a1c2b9a11")

AT_ONCE = 10
"""Turns of an append: building is no part of what is measured."""

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass
class Ticking:
    """A clock that goes on by a minute whenever somebody looks."""

    at: datetime = FIRST

    def now(self) -> datetime:
        """Return the time."""
        self.at += MINUTE
        return self.at


@dataclass
class Snapshots:
    """How many turns ago the last snapshot was due."""

    every: int
    last: int = 0
    turns: int = 0

    def note(self, version: int) -> bool:
        """Say whether the runtime writes one after this turn."""
        self.turns += 1
        if version - self.last < self.every:
            return False
        self.last, self.turns = version, 0
        return True


@dataclass
class Building:
    """Builds threads through a repository."""

    repository: ThreadRepository
    every: int

    @property
    def tail(self) -> int:
        """Turns since the last snapshot, at the end: half of those that come between two of them."""
        return math.ceil(self.every / EVENTS) // 2

    async def build(self, size: int, number: int) -> None:
        """Append turns until there are so many events, and a snapshot is `tail` turns ago, if there is one."""
        loaded = await self.repository.load(thread_named(size, number))
        loaded, _ = await self.repository.append(self.repository.chain(loaded, [OPENED], Metadata()))
        due, turns, done = Snapshots(self.every), 0, False
        while not done:
            sealed: list[ChainedEvents] = []
            after, kept = loaded, list[LoadedThread]()
            while len(sealed) < AT_ONCE and not done:
                sealed.append(self._turn(after, turns, number))
                after, turns = sealed[-1].after, turns + 1
                if due.note(after.head.version):
                    kept.append(after)
                far = due.turns == self.tail or not due.last
                done = after.head.version + EVENTS > size and far
            records = tuple(record for one in sealed for record in one.records)
            recorded = [one for part in sealed for one in part.recorded]
            loaded, _ = await self.repository.append(ChainedEvents(loaded, after, records, recorded))
            for one in kept:
                await self.repository.save_snapshot(one)
            await asyncio.sleep(0)

    def _turn(self, loaded: LoadedThread, turn_number: int, thread: int) -> ChainedEvents:
        version = loaded.head.version
        name = uuid5(loaded.thread_id, str(turn_number))
        events = turn(turn_number, version, name, overflow(loaded.state), thread)
        return self.repository.chain(loaded, events, Metadata(causation=CommandId(name)))


def thread_named(size: int, number: int) -> ThreadId:
    """Name the thread of so many events."""
    return ThreadId(uuid5(NAMES, f"{size}.{number}"))


def planned(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """List the threads of each size: of the small ones some, so that not always the same pages are read."""
    for size in sizes:
        for number in range(how_many(size)):
            yield size, number


def how_many(size: int) -> int:
    return max(1, min(20, 10_000 // size))
