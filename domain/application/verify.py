"""Checking the log: every hash, every version, every position, every payload, and where each thread ends."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from domain.chain import NOTHING, Head, Record, check_chain
from domain.codec import decode
from domain.errors import CorruptLog
from domain.events import ThreadForked
from domain.ids import MAX_VERSION, START, Position, Slice, ThreadId, Version
from domain.ports.log import EventStore

PAGE = 1_000


class Verified(Struct, frozen=True):
    """What was checked, and what is wrong: one sentence for each thread or slice that does not verify."""

    threads: int = 0
    events: int = 0
    problems: tuple[str, ...] = ()


async def verify_thread(store: EventStore, thread_id: ThreadId) -> Verified:
    """Check one thread from its first event to its head."""
    head, events = NOTHING, 0
    problems: list[str] = []
    try:
        while not problems and (page := await store.read(thread_id, head.version, limit=PAGE)):
            head = head if events else await _beginning(store, page[0])
            head, wrong = _check_page(page, head)
            problems += wrong
            events += len(page)
    except CorruptLog as error:
        problems.append(f"{thread_id}: after version {head.version} it cannot be read: {error}")
    if not problems:
        problems += await _check_end(store, thread_id, head)
    return Verified(1, events, tuple(problems))


async def verify_slices(store: EventStore, slices: Iterable[Slice]) -> Verified:
    """Check every thread of some slices, and that the positions in them have no gap."""
    threads = events = 0
    problems: list[str] = []
    for slice_ in slices:
        try:
            checked = await _verify_slice(store, slice_)
        except CorruptLog as error:
            checked = await _verify_by_threads(store, slice_, str(error))
        threads += checked.threads
        events += checked.events
        problems += checked.problems
    return Verified(threads, events, tuple(problems))


async def verify_heads(store: EventStore, slices: Iterable[Slice]) -> Verified:
    """Check that every thread of some slices, whoever's it is, has events: one without is in no slice any more.

    Nothing is counted: `verify_slices` has met all these threads but those that this finds.
    """
    problems: list[str] = []
    for slice_ in slices:
        after: ThreadId | None = None
        while rows := await store.threads_of(slice_, after, PAGE):
            problems += [
                f"{row.thread_id}: versions {row.base + 1} to {row.head.version} are missing"
                for row in rows
                if not await _has_events(store, row.thread_id)
            ]
            after = rows[-1].thread_id
    return Verified(problems=tuple(problems))


async def _has_events(store: EventStore, thread_id: ThreadId) -> bool:
    try:
        return bool(await store.read(thread_id, START, limit=1))
    except CorruptLog:  # there is something, which `verify_slices` has complained of
        return True


async def _verify_slice(store: EventStore, slice_: Slice) -> Verified:
    heads: dict[ThreadId, Head] = {}
    broken: set[ThreadId] = set()
    problems: list[str] = []
    last, events, end = Position(0), 0, await store.slice_head(slice_)
    while page := await store.read_slice(slice_, last, PAGE):
        for record in page:
            if record.position != last + 1:
                problems.append(f"Slice {slice_}: position {last + 1} is missing, {record.position} came instead")
            last = record.position
            if record.thread_id in broken:
                continue
            before = heads.get(record.thread_id) or await _beginning(store, record)
            head, wrong = _check_page((record,), before)
            heads[record.thread_id] = head
            if wrong:
                broken.add(record.thread_id)
                problems += wrong
        events += len(page)
    if last < end:
        problems.append(f"Slice {slice_}: positions {last + 1} to {end} are missing")
    elif last > end and last > (end := await store.slice_head(slice_)):
        problems.append(f"Slice {slice_}: its head is {end}, its events end at position {last}")
    for thread_id, head in heads.items():
        if thread_id not in broken:
            problems += await _check_end(store, thread_id, head)
    return Verified(len(heads), events, tuple(problems))


async def _verify_by_threads(store: EventStore, slice_: Slice, unreadable: str) -> Verified:
    """Check a slice that cannot be read in its order one thread after the other, to name the thread at fault."""
    checked, problems = [], [f"Slice {slice_} cannot be read: {unreadable}"]
    after: ThreadId | None = None
    while rows := await store.threads_of(slice_, after, PAGE):
        checked += [await verify_thread(store, row.thread_id) for row in rows]
        after = rows[-1].thread_id
    problems += [problem for part in checked for problem in part.problems]
    return Verified(len(checked), sum(part.events for part in checked), tuple(problems))


async def _beginning(store: EventStore, first: Record) -> Head:
    """Return what a thread's first record must follow: nothing, or of a fork, the parent's event that it left at."""
    if first.version == START + 1:
        return NOTHING
    try:
        event = decode(first).event
    except CorruptLog:
        return NOTHING
    if not isinstance(event, ThreadForked):
        return NOTHING
    left = Version(event.at_version)
    if not START < left <= MAX_VERSION:
        return NOTHING
    parent = await store.read(ThreadId(event.parent), Version(left - 1), left)
    return Head(left, parent[0].hash, parent[0].recorded_at) if parent else NOTHING


def _check_page(records: Sequence[Record], head: Head) -> tuple[Head, list[str]]:
    try:
        head = check_chain(records, head)
        for record in records:
            decode(record)
    except CorruptLog as error:
        return head, [str(error)]
    return head, []


async def _check_end(store: EventStore, thread_id: ThreadId, head: Head) -> list[str]:
    """The thread's row must end where its events do, so that events cut off at the end are missed.

    The thread may have grown while it was checked: what came after `head` is checked, too.
    """
    row = await store.thread(thread_id)
    ends = row.head if row else NOTHING
    while head.version < ends.version and (page := await store.read(thread_id, head.version, ends.version, PAGE)):
        head, wrong = _check_page(page, head)
        if wrong:
            return wrong
    if (ends.version, ends.hash) == (head.version, head.hash):
        return []
    if ends.version > head.version:
        return [f"{thread_id}: versions {head.version + 1} to {ends.version} are missing"]
    return [f"{thread_id}: the thread's head is at version {ends.version}, its events end at {head.version}"]
