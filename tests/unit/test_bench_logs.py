"""The logs that benchmarks write are logs: their hashes, versions and states are what the runtime's would be."""

import random
from collections import defaultdict
from datetime import UTC, datetime
from uuid import UUID

from benchmarks.bulk_log import Part
from benchmarks.old_threads import Building, Snapshots, Ticking, thread_named
from domain.application.audit.verify import verify_thread
from domain.application.thread_repository import ThreadRepository
from domain.ids import SLICES, Position, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Record, check_chain
from domain.thread.codec import decode
from domain.thread.evolve import fold
from domain.thread.state import INITIAL, Idle, State
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore


def copied(threads: int) -> tuple[Part, dict[ThreadId, list[Record]]]:
    part = Part("", 0, number=1, of=2, seed=1)
    part.heads, part.chance, part.began = [0] * SLICES, random.Random(1), datetime(2026, 1, 1, tzinfo=UTC)
    part.lines = {"events": [], "threads": [], "snapshots": []}
    for _ in range(threads):
        part.copy("fold")
    records: dict[ThreadId, list[Record]] = defaultdict(list)
    for line in part.lines["events"]:
        record = as_copied(line)
        records[record.thread_id].append(record)
    return part, records


def as_copied(line: str) -> Record:
    """Read a line as COPY does."""
    _, position, tenant, thread, version, kind, schema, payload, rest, causation, at, digest = line[:-1].split("\t")
    assert rest == "{}", "all of the model's events have nothing but a causation"
    metadata = f'{{"causation":"{causation}"}}'
    return Record(
        *(Tenant(tenant), ThreadId(UUID(thread)), Version(int(version)), kind, int(schema)),
        *(payload.replace("\\\\", "\\"), metadata, datetime.fromisoformat(at), bytes.fromhex(digest[3:])),
        Position(int(position)),
    )


def test_every_copied_thread_has_a_chain_of_its_own_and_folds() -> None:
    _, threads = copied(30)
    assert len(threads) == 30
    for records in threads.values():
        check_chain(records, EMPTY_HEAD)
        events = [decode(record).event for record in records]
        state = fold(INITIAL, events, records[-1].recorded_at)
        assert isinstance(state, Idle)
        assert state.thread.turns == 12


def test_copied_positions_have_no_gaps_and_rows_say_where_threads_end() -> None:
    part, threads = copied(30)
    places: dict[int, list[int]] = defaultdict(list)
    for thread, records in threads.items():
        assert slice_of(thread) % 2 == 1
        places[slice_of(thread)] += [record.position for record in records]
    for slice_, positions in places.items():
        assert positions == [*range(1, part.heads[slice_] + 1)]
    ends = {str(records[-1].thread_id): records[-1] for records in threads.values()}
    for line in part.lines["threads"]:
        _, named, _, version, _, digest, *_ = line.split("\t")
        assert (int(version), digest[3:]) == (ends[named].version, ends[named].hash.hex())


async def test_an_old_thread_is_what_the_runtime_would_have_written() -> None:
    store, snapshots = MemoryEventStore(), MemorySnapshotStore()
    repository = ThreadRepository(store, snapshots, Ticking(), fingerprint="fold", snapshot_every=100)
    await Building(repository, 100).build(1_000, 3)
    thread = thread_named(1_000, 3)
    row = await store.thread(thread)
    assert row is not None
    assert 980 < row.head.version < 1_120
    assert not (await verify_thread(store, thread)).problems
    records = await store.read(thread, Version(0))
    folded: State = INITIAL
    for record in records:
        folded = fold(folded, [decode(record).event], record.recorded_at)
    cold = ThreadRepository(store, snapshots, Ticking(), fingerprint="fold")
    assert (await cold.load(thread)).state == folded
    nearest = await snapshots.nearest(thread, None, "fold")
    assert nearest is not None
    assert row.head.version - nearest.head.version in {51, 52}


def test_a_snapshot_is_due_as_many_events_after_the_last_one() -> None:
    due = Snapshots(100)
    assert [version for version in range(17, 400, 17) if due.note(version)] == [102, 204, 306]
