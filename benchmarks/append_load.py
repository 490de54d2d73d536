"""What all that append have in common: the same events, the same streams, the same clock.

A *cell* is a batch (events of an append) and a number of streams. Each stream appends a batch, waits until that is
durable, and appends the next one, for some tenths of a second. What is timed begins with events that are encoded.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import asyncpg

from benchmarks.assistant_turns import drafts
from domain.chain import Draft
from infrastructure.postgres.pool import dsn_of

BATCHES = (1, 5, 20, 100)
STREAMS = (1, 16, 64)

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


@dataclass
class Groups:
    """Stores several streams' batches in one statement, as our appender does: what has come while others were stored.

    `most` and `at_once` are the appender's own limits.
    """

    store: Callable[[Sequence[Sequence[Any]]], Awaitable[None]]
    most: int = 128
    at_once: int = 2
    _queue: deque[tuple[Sequence[Any], asyncio.Future[None]]] = field(default_factory=deque)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def append(self, rows: Sequence[Any]) -> None:
        """Have a batch's rows stored with others."""
        done = asyncio.get_running_loop().create_future()
        self._queue.append((rows, done))
        self._go_on()
        await done

    def _go_on(self) -> None:
        while self._queue and len(self._running) < self.at_once:
            group = [self._queue.popleft() for _ in range(min(self.most, len(self._queue)))]
            task = asyncio.create_task(self._store(group))
            self._running.add(task)
            task.add_done_callback(self._stored)

    async def _store(self, group: Sequence[tuple[Sequence[Any], asyncio.Future[None]]]) -> None:
        try:
            await self.store([rows for rows, _ in group])
        except Exception as error:  # noqa: BLE001  (whoever waits is told)
            for _, done in group:
                done.set_exception(error)
        else:
            for _, done in group:
                done.set_result(None)

    def _stored(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._go_on()


@dataclass(frozen=True)
class Asked:
    """What a contestant is asked for on its command line."""

    database: str
    batches: Sequence[int]
    streams: Sequence[int]
    seconds: float


def parser(description: str | None) -> argparse.ArgumentParser:
    """Take what every contestant takes."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--database", required=True, help="its URL")
    found.add_argument("--batches", type=_numbers, default=BATCHES)
    found.add_argument("--streams", type=_numbers, default=STREAMS)
    found.add_argument("--seconds", type=float, default=0.4, help="of each cell")
    return found


def asked(given: argparse.Namespace) -> Asked:
    return Asked(given.database, given.batches, given.streams, given.seconds)


def _numbers(text: str) -> Sequence[int]:
    return tuple(map(int, text.split(",")))


def tell(results: dict[str, dict[str, float]]) -> None:
    """Print all cells as the last line."""
    print(json.dumps({"cells": results}))


def name_of(batch: int, streams: int) -> str:
    """Name a cell."""
    return f"{batch} x {streams}"


def result(found: Cell, commits: int) -> dict[str, float]:
    """Say what a cell came to."""
    return {"rate": found.events / found.seconds, "per_commit": found.events / max(commits, 1)}


async def measure(appending: Appending, what: Asked) -> dict[str, dict[str, float]]:
    """Measure each cell: events a second, and events that a commit had on average."""
    events, results = drafts(), {}
    connection = await asyncpg.connect(dsn_of(what.database))
    for batch in what.batches:
        for streams in what.streams:
            await cell(appending, batch, streams, WARM_UP, events)
            before = await connection.fetchval(WRITTEN)
            found = await cell(appending, batch, streams, what.seconds, events)
            commits = await connection.fetchval(WRITTEN) - before
            results[name_of(batch, streams)] = result(found, commits)
    await connection.close()
    return results


async def connected(pool: asyncpg.Pool, connections: int) -> None:
    """Open a pool's connections, so that no cell pays for that."""
    held = await asyncio.gather(*[pool.acquire() for _ in range(connections)])
    await asyncio.gather(*[pool.release(connection) for connection in held])
