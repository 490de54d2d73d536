"""What it costs to look into the past of a thread of 100,000 events, at its start, in its middle and at its end.

    .venv/bin/python -m benchmarks.past [--events 100000] [--times 200] [--no-snapshots]

Prints p50 and p99 in milliseconds over HTTP, on the embedded PostgreSQL: cold, by a process that has never seen the
thread, and warm. Without snapshots (a new version of the fold ignores the old ones) the first look at each place is
shown by itself: it folds from the beginning, and leaves snapshots for those that follow.
"""

import argparse
import asyncio
import dataclasses
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec

from api.http.cursors import encode_cursor
from api.services.history import HistoryCursor, pages_of
from api.services.threads import Service
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.ids import ThreadId
from domain.ports.snapshots import SnapshotStore
from domain.thread.codec import Metadata
from domain.thread.events import (
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    StateUpdated,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnStarted,
)
from infrastructure.embedded.server import EmbeddedPostgres
from infrastructure.fingerprint import fold_fingerprint
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from tests.support.http import running_api

TURNS = 6
"""Turns of an append: a snapshot is due after each."""

KEPT = 20
"""Turns after which older messages leave the live window."""

SPAN = 100
"""Events of a diff."""

ANSWER = "The order was shipped on Monday and should arrive within two working days. " * 3


def turn(number: int, before: int) -> Sequence[Event]:
    """A turn with a tool, after a version."""
    turn_id, call = uuid4(), before + 7
    compacted = (
        [HistoryCompacted(before - 17 * 4, f"They spoke about {number} orders.", 9)] if number % KEPT == 5 else []
    )
    return [
        TurnStarted(turn_id, "route_intent", "f8c64785f83a"),
        MessageAppended("user", f"Where is order A-{number}, and when does it come?", 14),
        NodeCompleted("route_intent", "generate_response", 1, 1),
        ContextAssembled(before + 2, before + 2, 800, 6800),
        ModelCalled("small", 800, 20, 640, "tool_calls"),
        MessageAppended("assistant", None, 20),
        ToolRequested(f"call_{number}", "order_status", {"order": f"A-{number}"}),
        NodeCompleted("generate_response", "execute_tool", 1, 700),
        ToolStarted(call),
        ToolSucceeded(call, f"A-{number}: shipped on Monday", 9, 35),
        NodeCompleted("execute_tool", "generate_response", 1, 40),
        ContextAssembled(before + 2, before + 10, 850, 6800),
        ModelCalled("small", 850, 60, 900, "stop"),
        MessageAppended("assistant", ANSWER, 48),
        StateUpdated({"last_order": f"A-{number}", "count": number}),
        NodeCompleted("generate_response", "finalize_turn", 1, 950),
        *compacted,
        NodeCompleted("finalize_turn", "END", 1, 1),
        TurnCompleted(turn_id),
    ]


async def build(repository: ThreadRepository, events: int) -> LoadedThread:
    began = time.perf_counter()
    loaded = await repository.load(ThreadId(uuid4()))
    loaded, _ = await repository.append(
        repository.chain(loaded, [ThreadOpened("assistant", {"plan": "gold"})], Metadata())
    )
    number = 0
    while loaded.head.version < events:
        batch: list[Event] = []
        for _ in range(TURNS):
            number += 1
            batch += turn(number, loaded.head.version + len(batch))
        loaded, _ = await repository.append(repository.chain(loaded, batch, Metadata(causation=None)))
        await repository.save_snapshot(loaded)
    print(f"{loaded.head.version:,} events, {number:,} turns: built in {time.perf_counter() - began:.1f} s\n")
    return loaded


class Client:
    """Asks over one connection that stays open, and reads the whole answer."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def get(self, path: str) -> tuple[float, bytes]:
        """Return the seconds that it took, and the body."""
        began = time.perf_counter()
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await self.reader.readexactly(length)
        took = time.perf_counter() - began
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{path}: {body.decode()}")
        return took, body


class Measure:
    """Asks each question at each place, cold and warm."""

    def __init__(
        self, service: Service, snapshots: SnapshotStore, client: Client, thread: LoadedThread, times: int
    ) -> None:
        self.service, self.snapshots, self.client, self.times = service, snapshots, client, times
        self.thread = thread
        self.path, self.last = f"/v1/threads/{thread.thread_id}", thread.head.version
        self.chance = random.Random(1)

    def after(self, what: str, version: int) -> str:
        """Make the cursor of a list that goes on so many events before a version."""
        return encode_cursor(
            HistoryCursor("asc", version - SPAN), pages_of(what, self.thread.tenant, self.thread.thread_id)
        )

    def forget(self) -> None:
        """Let the server be a process that has never seen the thread."""
        runtime, old = self.service.runtime, self.service.runtime.repository
        repository = ThreadRepository(old.store, self.snapshots, runtime.clock, fingerprint=fold_fingerprint())
        self.service.runtime = dataclasses.replace(runtime, repository=repository)

    async def instants(self, versions: Sequence[int]) -> dict[int, str]:
        """Just after an event of each version."""
        found = {}
        for version in versions:
            _, body = await self.client.get(f"{self.path}/state?at_version={version}")
            at = datetime.fromisoformat(msgspec.json.decode(body)["recorded_at"]) + timedelta(microseconds=1)
            found[version] = at.isoformat().replace("+00:00", "Z")
        return found

    async def ask(self, paths: Sequence[str], *, cold: bool) -> str:
        taken = []
        for path in paths:
            if cold:
                self.forget()
            taken.append((await self.client.get(path))[0] * 1000)
        hundredths = statistics.quantiles(taken, n=100)
        return f"{hundredths[49]:7.1f} {hundredths[98]:7.1f}"

    async def all(self) -> None:
        middle = self.last // 2
        places = {"start": (200, 1_200), "middle": (middle, middle + 1_000), "end": (self.last - 1_000, self.last)}
        print(
            f"{'p50 and p99 in ms':28}"
            + "".join(f"{place + how:>16}" for place in places for how in (" cold", " warm"))
        )
        rows: dict[str, list[str]] = {}
        for low, high in places.values():
            versions = [self.chance.randrange(low, high) for _ in range(self.times)]
            at = await self.instants(versions)
            questions = {
                "state at a version": [f"state?at_version={v}" for v in versions],
                "state at an instant": [f"state?at_time={at[v]}" for v in versions],
                "messages, latest first": [f"messages?at_version={v}&order=desc&limit=50" for v in versions],
                "messages at an instant": [f"messages?at_time={at[v]}&order=desc&limit=50" for v in versions],
                "events, latest first": [f"events?at_version={v}&order=desc" for v in versions],
                "events after a version": [f"events?cursor={self.after('events', v)}" for v in versions],
                "messages after a version": [f"messages?cursor={self.after('messages', v)}&limit=50" for v in versions],
                f"diff of {SPAN} events": [f"diff?from={v - SPAN}&to={v}" for v in versions],
            }
            for question, asked in questions.items():
                paths = [f"{self.path}/{path}" for path in asked]
                for cold in (True, False):
                    rows.setdefault(question, []).append(await self.ask(paths, cold=cold))
        for question, row in rows.items():
            print(f"{question:28}" + "".join(f"{cell:>16}" for cell in row))

    async def first_looks(self) -> None:
        for name, version in (("end", self.last - 7), ("middle", self.last // 2), ("end again", self.last - 8)):
            self.forget()
            took, _ = await self.client.get(f"{self.path}/state?at_version={version}")
            print(f"The first state at the {name}, without snapshots: {took * 1000:.0f} ms")
        print()


async def main(events: int, times: int, directory: Path, *, snapshots: bool) -> None:
    postgres = await asyncio.to_thread(EmbeddedPostgres.start, directory / "postgres")
    try:
        async with running_api(database_url=postgres.url()) as api, await open_pool(postgres.url(), max_size=5) as pool:
            runtime, kept = api.service.runtime, PostgresSnapshotStore(pool)
            written = kept if snapshots else MemorySnapshotStore()
            writing = ThreadRepository(runtime.repository.store, written, runtime.clock, fingerprint=fold_fingerprint())
            thread = await build(writing, events)
            client = Client(api.base_url.port or 0)
            await client.connect()
            measure = Measure(api.service, kept, client, thread, times)
            if not snapshots:
                await measure.first_looks()
            await measure.all()
            client.writer.close()
    finally:
        await asyncio.to_thread(postgres.stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--no-snapshots", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-") as name:
        Path(name).chmod(0o755)
        asyncio.run(main(arguments.events, arguments.times, Path(name), snapshots=not arguments.no_snapshots))
