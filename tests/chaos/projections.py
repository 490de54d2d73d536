"""Writers that commit late and roll back, and runners of projections that are killed all the time.

32 writers append turns in transactions of their own, which wait up to two seconds before they commit, and of which a
fifth is rolled back. Two processes run the projections; one after the other gets SIGKILL and another one begins: most
some time after they were ready, however long a start takes on this machine, and some while they start.
In the end each read model is held against a plain fold of the log. `--idle` leaves a transaction open the whole time,
in another database of the server or in this one.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import asyncpg
import msgspec
from uuid_utils.compat import uuid7

from api.runtime.composition import ALL_SLICES
from api.runtime.stores import SystemClock
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.budget.prices import Prices
from domain.ids import DEFAULT_TENANT, CommandId, ThreadId
from domain.log.hash_chain import chain_records
from domain.ports.log import Append
from domain.ports.snapshots import Snapshot, SnapshotStore
from domain.thread.codec import Metadata, encode, to_json
from domain.thread.events import (
    BudgetSet,
    Event,
    Limit,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    ThreadOpened,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnStarted,
)
from domain.thread.evolve import fold
from domain.thread.snapshot import without_texts
from domain.windows import WINDOWS
from infrastructure.postgres.log.append import Storing
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import connect, open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from infrastructure.settings import Settings
from projections.engine.runner import ProjectionRunner
from projections.registry import PROJECTIONS
from tests.support.plain import Plain, whole_log
from tests.support.projected import differences

BEHIND = """
SELECT slices.slice, slices.head, positions.position
  FROM read_models.positions
  JOIN slices USING (slice)
"""

READY = b"ready\n"
"""What a process that runs projections says once it has begun."""

READY_WITHIN = 120.0
"""Seconds that a start may take, on a machine that has much else to do."""

LIVES = (0.2, 1.5)
"""Seconds between a process's being ready and its end."""

EARLY = 0.25
"""The share of processes that are killed while they start."""

SNAPSHOT_EVERY = 100
FINGERPRINT = "chaos"
WRITERS = 32
THREADS = 200


GRAPHS = ("assistant", "support")
MODELS = ("gpt-4o", "gpt-4o-mini", "qwen2.5:7b")
TOOLS = ("calculate", "clock", "look_up", "refund")


def turn(chance: random.Random, version: int, texts: Sequence[str] = ("So it is.",)) -> Sequence[Event]:
    """Make a turn's events, with a tool in some of them, and a new budget before some."""
    turn_id, first = uuid7(), list[Event]([] if version else [ThreadOpened(chance.choice(GRAPHS))])
    if chance.random() < 0.2:
        kinds = chance.sample(WINDOWS, chance.randrange(3))
        first.append(BudgetSet(tuple(Limit(kind, chance.randint(500, 5_000)) for kind in kinds)))
    begun: list[Event] = [
        *first,
        TurnStarted(turn_id, "route_intent", "f00"),
        MessageAppended("user", f"{chance.choice(texts)} {chance.randint(1, 1000)}?", 7),
        NodeCompleted("route_intent", "generate_response", 1, 1),
    ]
    if chance.random() < 0.5:
        begun.append(MessageAppended("assistant", None, 9))
        call = version + len(begun) + 1
        begun += [
            ToolRequested("call_1", chance.choice(TOOLS), {"n": 1}),
            ToolStarted(call),
            ToolSucceeded(call, "42", 1, chance.randint(1, 90)),
        ]
    used = ModelCalled(chance.choice(MODELS), chance.randint(50, 900), 20, chance.randint(5, 800), "stop")
    said = MessageAppended("assistant", chance.choice(texts), 4)
    done = NodeCompleted("generate_response", "finalize_turn", 1, 12)
    return [*begun, used, said, done, TurnCompleted(turn_id)]


@dataclass
class Writing:
    """Threads, of which each is one writer's at a time."""

    url: str
    chance: random.Random
    snapshots: SnapshotStore
    clock: SystemClock = field(default_factory=SystemClock)
    threads: list[LoadedThread] = field(
        default_factory=lambda: [LoadedThread(ThreadId(uuid7())) for _ in range(THREADS)]
    )
    committed: int = 0
    undone: int = 0

    async def write(self, until: asyncio.Event) -> None:
        """Append turns, late, and not all of them."""
        connection = await connect(self.url)
        while not until.is_set():
            if not self.threads:
                await asyncio.sleep(0.05)
                continue
            loaded = self.threads.pop(self.chance.randrange(len(self.threads)))
            self.threads.append(await self._append(connection, loaded))
        await connection.close()

    async def _append(self, connection: asyncpg.Connection, loaded: LoadedThread) -> LoadedThread:
        events = turn(self.chance, loaded.head.version)
        drafts = [encode(event, Metadata(command=CommandId(uuid7()), actor="ada")) for event in events]
        records, head = chain_records(DEFAULT_TENANT, loaded.thread_id, loaded.head, drafts, self.clock.now())
        append = Append(DEFAULT_TENANT, loaded.thread_id, loaded.head, head, records, in_turn=False)
        transaction = connection.transaction()
        await transaction.start()
        (position,) = await Storing(connection).store([append])
        assert position is not None, "a thread has one writer at a time"
        await asyncio.sleep(self.chance.choice([0, 0, 0, 0.05, 0.3, self.chance.uniform(0, 2)]))
        if self.chance.random() < 0.2:
            await transaction.rollback()
            self.undone += len(events)
            return loaded
        await transaction.commit()
        self.committed += len(events)
        state = fold(loaded.state, events, head.at)
        if head.version // SNAPSHOT_EVERY > loaded.head.version // SNAPSHOT_EVERY:  # as workers do
            await self.snapshots.save(
                Snapshot(loaded.tenant, loaded.thread_id, head, FINGERPRINT, to_json(without_texts(state)))
            )
        return LoadedThread(loaded.thread_id, loaded.tenant, head, state)


async def project(url: str) -> None:
    """Run projections over all slices, for ever: what the killed processes do."""
    async with runner_of(url) as runner:
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        await runner.run()


@contextlib.asynccontextmanager
async def runner_of(url: str) -> AsyncIterator[ProjectionRunner]:
    """Make a runner that holds every slice."""
    pool, clock = await open_pool(url, max_size=4), SystemClock()
    repository = ThreadRepository(PostgresEventStore(pool), PostgresSnapshotStore(pool), clock, fingerprint=FINGERPRINT)
    models = PostgresReadModels(pool)
    await models.register([projection.shape for projection in PROJECTIONS])
    prices = msgspec.json.decode(Settings().prices.read_bytes(), type=Prices)
    yield ProjectionRunner(repository, models, PROJECTIONS, prices, clock, lambda: ALL_SLICES)
    await pool.close()


@dataclass
class Report:
    """What happened. Lags are in seconds."""

    events: int
    undone: int
    kills: int
    lags: list[float]
    faults: list[str]
    start: float
    """What a start of a process took, mostly."""


async def run(url: str, seconds: float, seed: int, idle: str | None, least_kills: int = 1) -> Report:
    """Run it all on a migrated database, for so many seconds, and until so many processes were killed."""
    until, lags = asyncio.Event(), list[float]()
    async with _idle_transaction(url, idle), await open_pool(url, max_size=2) as pool:
        writing = Writing(url, random.Random(seed), PostgresSnapshotStore(pool))
        watching = asyncio.create_task(_watch(url, lags))
        writers = [asyncio.create_task(writing.write(until)) for _ in range(WRITERS)]
        killing = Killing(url, random.Random(seed))
        try:
            await killing.run(time.monotonic() + seconds, least_kills)
        finally:
            until.set()
        await asyncio.gather(*writers)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        async with runner_of(url) as runner:
            for line in await runner.models.lines():
                while await runner.advance(line.id, ALL_SLICES):
                    pass
            log = await whole_log(runner.repository.store)
            faults = await differences(runner.models, Plain(log), DEFAULT_TENANT)
    if writing.committed != len(log):
        faults.append(f"{len(log)} events are stored, {writing.committed} were committed")
    if not lags:
        faults.append(f"nothing was measured: no projection advanced before its process died ({killing.told})")
    return Report(len(log), writing.undone, killing.killed, sorted(lags), faults, killing.start)


async def _watch(url: str, lags: list[float]) -> None:
    """Measure how long after its commit each slice's head is in the read models, to the tenth of a second.

    An event's own time is that of its writing: a late commit is not a late projection.
    """
    connection = await connect(url)
    since: dict[tuple[int, int], float] = {}
    try:
        while True:
            now = time.monotonic()
            for slice_, head, position in await connection.fetch(BEHIND):
                if head > position:
                    since.setdefault((slice_, head), now)
                seen = [key for key in since if key[0] == slice_ and key[1] <= position]
                lags += [now - since.pop(key) for key in seen]
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


@dataclass
class Killing:
    """Keeps two processes going that run projections, and kills the older one again and again."""

    url: str
    chance: random.Random
    killed: int = 0
    start: float = 1.0
    """Seconds that a start takes here, as was measured: a process that is killed earlier has done nothing yet."""

    @property
    def told(self) -> str:
        """Say what was done."""
        return f"{self.killed} processes were killed, a start took {self.start:.1f} s"

    async def run(self, until: float, least: int) -> None:
        """Go on until an instant, and until so many were killed."""
        processes = [await self._spawn(), await self._spawn()]
        try:
            while time.monotonic() < until or self.killed < least:
                began, victim = processes[0]
                if self.chance.random() < EARLY:
                    await asyncio.sleep(self.chance.uniform(0, self.start))
                else:
                    await _ready(victim)
                    self.start = (self.start + time.monotonic() - began) / 2
                    await asyncio.sleep(self.chance.uniform(*LIVES))
                await _end(victim)
                self.killed += 1
                processes = [*processes[1:], await self._spawn()]
        finally:
            for _, process in processes:
                await _end(process)

    async def _spawn(self) -> tuple[float, asyncio.subprocess.Process]:
        return time.monotonic(), await _spawn(self.url)


async def _ready(process: asyncio.subprocess.Process) -> None:
    """Wait until a process has begun to run projections."""
    assert process.stdout is not None
    async with asyncio.timeout(READY_WITHIN):
        line = await process.stdout.readline()
    if line != READY:
        raise RuntimeError(f"a process that runs projections ended by itself, with status {await process.wait()}")


async def briefly(url: str, seconds: float) -> None:
    """Let a process run projections, and kill it so long after it was ready."""
    process = await _spawn(url)
    await _ready(process)
    await asyncio.sleep(seconds)
    await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.communicate()


async def _spawn(url: str) -> asyncio.subprocess.Process:
    script = f"import asyncio; from tests.chaos.projections import project; asyncio.run(project({url!r}))"
    environment = {**os.environ, "PYTHONPATH": "."}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environment, stdout=asyncio.subprocess.PIPE
    )


@contextlib.asynccontextmanager
async def _idle_transaction(url: str, where: str | None) -> AsyncIterator[None]:
    """Leave a transaction with a snapshot and an id of its own open meanwhile."""
    if where is None:
        yield
        return
    connection = await asyncpg.connect(url if where == "same" else urlsplit(url)._replace(path="/postgres").geturl())
    async with connection.transaction(isolation="repeatable_read"):
        await connection.fetchval("SELECT pg_current_xact_id()::text")
        await connection.fetchval("SELECT count(*) FROM pg_class")
        yield
    await connection.close()
