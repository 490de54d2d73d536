"""What all that append have in common: the same events, the same streams, the same clock.

A *cell* is a batch (events of an append) and a number of streams. Each stream appends a batch, waits until that is
durable, and appends the next one, for some tenths of a second. What is timed begins with events that are encoded.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import asyncpg

from benchmarks.assistant_turns import drafts
from benchmarks.side_by_side.cpu import own_cpu, tree_cpu
from benchmarks.side_by_side.figures import Figures
from domain.log.hash_chain import Draft

WARM_UP = 0.15
"""Seconds before each cell that are not counted."""

WRITTEN = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
"""Grows by one with each transaction that writes."""


Append: TypeAlias = Callable[[Sequence[Draft]], Awaitable[None]]
"""Appends to one stream, durably. One at a time."""


class Appending(Protocol):
    """A contestant."""

    def stream(self) -> Append:
        """Begin a stream."""


class Cell(NamedTuple):
    """What was stored, in how many seconds."""

    events: int
    seconds: float


def batches(size: int, events: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
    """Cut batches off the same events for ever."""
    ring = itertools.cycle(events)
    while True:
        yield tuple(itertools.islice(ring, size))


async def cell(appending: Appending, batch: int, streams: int, seconds: float, events: Sequence[Draft]) -> Cell:
    """Append with so many streams at a time; whoever has begun by then is waited for."""
    source, until = batches(batch, events), time.perf_counter() + seconds
    began = time.perf_counter()
    appends = await asyncio.gather(*[_appended(appending.stream(), source, until) for _ in range(streams)])
    return Cell(sum(appends) * batch, time.perf_counter() - began)


async def _appended(append: Append, source: Iterator[Sequence[Draft]], until: float) -> int:
    appends = 0
    while time.perf_counter() < until:
        await append(next(source))
        appends += 1
    return appends


@dataclass(frozen=True)
class Cells:
    """Which cells to measure, and for how many seconds each."""

    batches: Sequence[int]
    streams: Sequence[int]
    seconds: float

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Go through them."""
        return itertools.product(self.batches, self.streams)


def numbers(text: str) -> Sequence[int]:
    """Read `1,16,64`."""
    return tuple(map(int, text.split(",")))


OPTIONS: Mapping[str, Callable[[str], Any]] = {"batches": numbers, "streams": numbers, "seconds": float}
"""What every contestant is told."""


def cells(arguments: argparse.Namespace) -> Cells:
    """Say what was asked for."""
    return Cells(arguments.batches, arguments.streams, arguments.seconds)


@dataclass
class Meter:
    """What a cell takes from `start` on: commits, and seconds of CPU of the contestant and of PostgreSQL."""

    arguments: argparse.Namespace

    def start(self, written: int) -> None:
        """Begin to count."""
        self.before = (written, *self._cpu())

    def result(self, batch: int, streams: int, cell: Cell, written: int) -> Figures:
        """Say what a cell came to: events a second, events that a commit had, and microseconds of CPU an event."""
        name, (commits, own, server) = name_of(batch, streams), self.before
        now = self._cpu()
        return {
            f"rate {name}": cell.events / cell.seconds,
            f"per_commit {name}": cell.events / max(written - commits, 1),
            f"cpu_us {name}": (now[0] - own) / cell.events * 1e6,
            f"postgres_us {name}": (now[1] - server) / cell.events * 1e6,
        }

    def _cpu(self) -> tuple[float, float]:
        return own_cpu(), tree_cpu(self.arguments.postmaster)


def name_of(batch: int, streams: int) -> str:
    """Name a cell."""
    return f"{batch} x {streams}"


async def measure(appending: Appending, arguments: argparse.Namespace) -> Figures:
    """Measure each cell."""
    events, what, meter, figures = drafts(), cells(arguments), Meter(arguments), Figures()
    connection = await asyncpg.connect(arguments.database)
    for batch, streams in what:
        await cell(appending, batch, streams, WARM_UP, events)
        meter.start(await connection.fetchval(WRITTEN))
        found = await cell(appending, batch, streams, what.seconds, events)
        figures |= meter.result(batch, streams, found, await connection.fetchval(WRITTEN))
    await connection.close()
    return figures


async def connected(pool: asyncpg.Pool, connections: int) -> None:
    """Open a pool's connections, so that no cell pays for that."""
    held = await asyncio.gather(*[pool.acquire() for _ in range(connections)])
    await asyncio.gather(*[pool.release(connection) for connection in held])
