"""Verifies the log: every hash, version, position and payload, and the head of each thread."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from domain.application.thread_reader import PageSize
from domain.errors import CorruptLog
from domain.ids import MAX_VERSION, START, Position, Slice, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Head, Record, check_chain
from domain.ports.log import EventStore, ThreadRow
from domain.thread.codec import decode
from domain.thread.events import ThreadForked

PAGE_SIZE = 1_000
"""Events or threads of a page."""


class Verified(Struct, frozen=True):
    """The numbers of checked threads and events, and the problems: one sentence per thread or slice."""

    threads: int = 0
    events: int = 0
    problems: tuple[str, ...] = ()

    def __add__(self, other: Self) -> "Verified":
        """Add up two parts of the log."""
        return Verified(self.threads + other.threads, self.events + other.events, (*self.problems, *other.problems))


class _ThreadFacts(Struct, frozen=True):
    """What a thread's events up to `head` say. The thread's row must agree."""

    tenant: Tenant
    base: Version
    opened_at: datetime
    head: Head


async def verify_thread(store: EventStore, thread_id: ThreadId) -> Verified:
    """Check one thread from its first event to its head."""
    facts, after, events, size = None, START, 0, PageSize()
    problems: list[str] = []
    try:
        while not problems and (page := await store.read(thread_id, after, limit=size.limit)):
            size.adapt(page)
            facts, wrong = _check_page(page, facts or await _facts_before(store, page[0]))
            problems += wrong
            after = facts.head.version
            events += len(page)
    except CorruptLog as error:
        problems.append(f"{thread_id}: events after version {after} cannot be read: {error}")
    if not problems:
        problems += await _check_end(store, thread_id, facts)
    return Verified(1, events, tuple(problems))


async def verify_slices(store: EventStore, slices: Iterable[Slice]) -> Verified:
    """Check every thread of some slices, and that the slices' positions have no gaps."""
    verified = Verified()
    for slice_ in slices:
        try:
            verified += await _verify_slice(store, slice_)
        except CorruptLog as error:
            verified += await _verify_by_threads(store, slice_, str(error))
    return verified


async def verify_heads(store: EventStore, slices: Iterable[Slice]) -> Verified:
    """Check that every thread of some slices, of any tenant, has events. `verify_slices` cannot find one without.

    Nothing is counted, because `verify_slices` has counted all threads with events.
    """
    problems = [
        f"{row.thread_id}: versions {row.base + 1} to {row.head.version} are missing"
        for slice_ in slices
        async for row in _threads_of(store, slice_)
        if not await _has_events(store, row.thread_id)
    ]
    return Verified(problems=tuple(problems))


async def _has_events(store: EventStore, thread_id: ThreadId) -> bool:
    try:
        return bool(await store.read(thread_id, START, limit=1))
    except CorruptLog:  # it has events, and `verify_slices` reports them
        return True


async def _verify_slice(store: EventStore, slice_: Slice) -> Verified:
    met: dict[ThreadId, _ThreadFacts] = {}
    broken: set[ThreadId] = set()
    problems: list[str] = []
    last, events, end, size = Position(0), 0, await store.slice_head(slice_), PageSize()
    while page := await store.read_slice(slice_, last, size.limit):
        size.adapt(page)
        for record in page:
            if record.position != last + 1:
                problems.append(f"Slice {slice_}: position {last + 1} is missing, {record.position} came instead")
            last = record.position
            if record.thread_id in broken:
                continue
            before = met.get(record.thread_id) or await _facts_before(store, record)
            met[record.thread_id], wrong = _check_page((record,), before)
            if slice_of(record.thread_id) != slice_:
                wrong = [f"{record.thread_id}: an event of this thread is in slice {slice_}, which is not its own"]
            if wrong:
                broken.add(record.thread_id)
                problems += wrong
        events += len(page)
    if last < end:
        problems.append(f"Slice {slice_}: positions {last + 1} to {end} are missing")
    elif last > end and last > (end := await store.slice_head(slice_)):
        problems.append(f"Slice {slice_}: its head is {end}, but its events end at position {last}")
    for thread_id, facts in met.items():
        if thread_id not in broken:
            problems += await _check_end(store, thread_id, facts)
    return Verified(len(met), events, tuple(problems))


async def _verify_by_threads(store: EventStore, slice_: Slice, unreadable: str) -> Verified:
    """Check a slice that cannot be read in its order thread by thread, to name the threads with problems."""
    verified = Verified(problems=(f"Slice {slice_} cannot be read: {unreadable}",))
    async for row in _threads_of(store, slice_):
        verified += await verify_thread(store, row.thread_id)
    return verified


async def _threads_of(store: EventStore, slice_: Slice) -> AsyncIterator[ThreadRow]:
    after: ThreadId | None = None
    while rows := await store.threads_of(slice_, after, PAGE_SIZE):
        for row in rows:
            yield row
        after = rows[-1].thread_id


async def _facts_before(store: EventStore, first: Record) -> _ThreadFacts:
    """Return what a thread's first record must follow: nothing or, for a fork, an event of the parent."""
    head = await _fork_head(store, first) if first.version > START + 1 else EMPTY_HEAD
    return _ThreadFacts(first.tenant, head.version, first.recorded_at, head)


async def _fork_head(store: EventStore, first: Record) -> Head:
    try:
        event = decode(first).event
    except CorruptLog:  # its page is reported
        return EMPTY_HEAD
    if not isinstance(event, ThreadForked) or not START < event.at_version <= MAX_VERSION:
        return EMPTY_HEAD
    version = Version(event.at_version)
    parent = await store.read(ThreadId(event.parent), Version(version - 1), version)
    return Head(version, parent[0].hash, parent[0].recorded_at) if parent else EMPTY_HEAD


def _check_page(records: Sequence[Record], facts: _ThreadFacts) -> tuple[_ThreadFacts, list[str]]:
    try:
        facts = replace(facts, head=check_chain(records, facts.head))
        for record in records:
            decode(record)
    except CorruptLog as error:
        return facts, [str(error)]
    return facts, []


async def _check_end(store: EventStore, thread_id: ThreadId, facts: _ThreadFacts | None) -> list[str]:
    """Check that the thread's row ends where its events do, which reveals events that were removed at the end.

    Events that were appended during the check are checked, too.
    """
    row = await store.thread(thread_id)
    row_head = row.head if row else EMPTY_HEAD
    head = facts.head if facts else EMPTY_HEAD
    while facts and head.version < row_head.version:
        page = await store.read(thread_id, head.version, row_head.version, PAGE_SIZE)
        if not page:
            break
        facts, wrong = _check_page(page, facts)
        if wrong:
            return wrong
        head = facts.head
    if row_head.version > head.version:
        return [f"{thread_id}: versions {head.version + 1} to {row_head.version} are missing"]
    if (row_head.version, row_head.hash) != (head.version, head.hash):
        return [
            f"{thread_id}: the thread's head is at version {row_head.version}, but its events end at {head.version}"
        ]
    return _row_problems(row, facts) if row and facts else []


def _row_problems(row: ThreadRow, facts: _ThreadFacts) -> list[str]:
    """Check that the columns of the thread's row agree with its events."""
    columns = {
        "tenant": (row.tenant, facts.tenant),
        "base": (row.base, facts.base),
        "opened_at": (row.opened_at, facts.opened_at),
        "at": (row.head.at, facts.head.at),
    }
    return [
        f"{row.thread_id}: the thread's {name} is {stored}, but its events say {expected}"
        for name, (stored, expected) in columns.items()
        if stored != expected
    ]
