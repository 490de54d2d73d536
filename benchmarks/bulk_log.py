"""A log of any size, written by some processes with COPY: copies of a few threads, with ids and chains of their own.

Some threads are folded once, with the snapshots that the runtime would write. A copy has the same texts, but its own
thread and turns, times, and so hashes: whatever verifies a log verifies this one. Only the hours in which usage was
counted are the same in all snapshots.
"""

import asyncio
import io
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing import get_context
from uuid import UUID

import asyncpg

from benchmarks.assistant_turns import OPENED, overflow, turn
from benchmarks.old_threads import Snapshots, Ticking
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.ids import DEFAULT_TENANT, SLICES, CommandId, ThreadId, slice_of
from domain.log.hash_chain import GENESIS, Draft, event_hash
from domain.thread.codec import Metadata, to_json
from domain.thread.snapshot import without_texts
from infrastructure.fingerprint import fold_fingerprint
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.postgres.archive import EVENT_COLUMNS, THREAD_COLUMNS
from infrastructure.postgres.log.metadata_columns import split_metadata
from infrastructure.settings import Settings

MARK = "00000000-0000-4000-8000"
"""Stands in ids of a model thread for what is its copy's own."""

TURNS = 12
MODELS = 20

EVERY = Settings.model_fields["snapshot_every"].default

SNAPSHOT_COLUMNS = ("slice", "thread_id", "version", "tenant", "hash", "at", "fingerprint", "state")

BATCH = 200
"""Threads of a COPY."""

DAYS = 30

SET_HEADS = """
UPDATE slices
   SET head = given.head
  FROM unnest($1::smallint[], $2::bigint[]) AS given (slice, head)
 WHERE slices.slice = given.slice
"""


@dataclass(frozen=True)
class Model:
    """A thread to copy: its events in turns, and its states by the version that they are of."""

    turns: Sequence[Sequence[Draft]]
    states: dict[int, str]

    @property
    def events(self) -> int:
        """Count them."""
        return sum(map(len, self.turns))


@cache
def models() -> Sequence[Model]:
    """Fold the threads that are copied."""
    return [_model(number) for number in range(MODELS)]


def _model(number: int) -> Model:
    clock = Ticking()
    repository = ThreadRepository(MemoryEventStore(), MemorySnapshotStore(), clock, fingerprint="model")
    loaded, due = LoadedThread(ThreadId(UUID(int=number + 1))), Snapshots(EVERY)
    parts: list[Sequence[Draft]] = []
    states: dict[int, str] = {}
    for place in range(TURNS):
        name = UUID(f"{MARK}-{place:012x}")
        events = turn(place, loaded.head.version + (not place), name, overflow(loaded.state), number)
        sealed = repository.chain(loaded, events if place else [OPENED, *events], Metadata(causation=CommandId(name)))
        parts.append([Draft(r.type, r.schema, r.payload, r.metadata) for r in sealed.records])
        loaded = sealed.after
        if due.note(loaded.head.version):
            states[int(loaded.head.version)] = to_json(without_texts(loaded.state))
    return Model(parts, states)


@dataclass
class Part:
    """What one process writes: the threads of every `of`th slice."""

    url: str
    events: int
    number: int
    of: int
    seed: int

    async def write(self) -> int:
        """Write, and return how many events that were."""
        connection = await asyncpg.connect(self.url)
        self.heads = [row["head"] for row in await connection.fetch("SELECT head FROM slices ORDER BY slice")]
        self.chance, written, fingerprint = random.Random(self.seed * self.of + self.number), 0, fold_fingerprint()
        self.began = datetime.now(UTC) - timedelta(days=DAYS)
        while written < self.events:
            self.lines: dict[str, list[str]] = {"events": [], "threads": [], "snapshots": []}
            for _ in range(BATCH):
                if written < self.events:
                    written += self.copy(fingerprint)
            for table, columns in COLUMNS.items():
                source = io.BytesIO("".join(self.lines[table]).encode())
                await connection.copy_to_table(table, source=source, columns=columns)
        mine = [slice_ for slice_ in range(SLICES) if slice_ % self.of == self.number]
        await connection.execute(SET_HEADS, mine, [self.heads[slice_] for slice_ in mine])
        await connection.close()
        return written

    def copy(self, fingerprint: str) -> int:
        """Add the lines of a copy of one of the models."""
        model, thread = self.chance.choice(models()), self._thread()
        own, slice_, tenant = str(thread)[: len(MARK)], slice_of(thread), DEFAULT_TENANT
        at = opened = self.began + timedelta(days=self.chance.random() * DAYS)
        last, version, position = GENESIS, 0, self.heads[slice_]
        events, snapshots = self.lines["events"], self.lines["snapshots"]
        for drafts in model.turns:
            at += timedelta(minutes=1)
            for draft in drafts:
                version, position = version + 1, position + 1
                payload, metadata = draft.payload.replace(MARK, own), draft.metadata.replace(MARK, own)
                last = event_hash(last, tenant, thread, version, draft.type, draft.schema, at, metadata, payload)
                shown = payload.replace("\\", "\\\\")
                rest, causation = split_metadata(metadata)
                events.append(
                    f"{slice_}\t{position}\t{tenant}\t{thread}\t{version}\t{draft.type}\t{draft.schema}\t"
                    f"{shown}\t{rest}\t{causation}\t{at}\t\\\\x{last.hex()}\n"
                )
            if state := model.states.get(version):
                shown = state.replace(MARK, own).replace("\\", "\\\\")
                place = f"{slice_}\t{thread}\t{version}\t{tenant}\t\\\\x{last.hex()}\t{at}"
                snapshots.append(f"{place}\t{fingerprint}\t{shown}\n")
        opened += timedelta(minutes=1)
        head = f"{slice_}\t{thread}\t{tenant}\t{version}\t0\t\\\\x{last.hex()}"
        self.lines["threads"].append(f"{head}\t{opened}\t{at}\tf\tf\n")
        self.heads[slice_] = position
        return version

    def _thread(self) -> ThreadId:
        while True:
            thread = ThreadId(UUID(int=self.chance.getrandbits(128), version=4))
            if slice_of(thread) % self.of == self.number:
                return thread


COLUMNS = {"events": EVENT_COLUMNS, "threads": THREAD_COLUMNS, "snapshots": SNAPSHOT_COLUMNS}


def _write(url: str, events: int, number: int, of: int, seed: int) -> int:
    return asyncio.run(Part(url, events, number, of, seed).write())


def fill(url: str, events: int, processes: int = 2) -> int:
    """Add about so many events to a migrated database, whose slices nobody else appends to. Count them."""
    began, seed = time.perf_counter(), random.randrange(2**32)
    share = events // processes
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        asked = [pool.submit(_write, url, share, number, processes, seed) for number in range(processes)]
        written = sum(one.result() for one in asked)
    seconds = time.perf_counter() - began
    print(f"{written:,} events written in {seconds:.0f} s ({written / seconds:,.0f} a second)", flush=True)
    return written
