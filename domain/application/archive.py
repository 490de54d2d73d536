"""Exporting the whole log from a store, in pages, and importing it into an empty one."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from domain.application.audit.verify import Verified, verify_slices
from domain.application.command_handler import result_version_of
from domain.application.thread_reader import PageSize, ThreadReader
from domain.errors import CorruptLog
from domain.ids import SLICES, START, Position, Slice, ThreadId, Version, slice_of
from domain.log.hash_chain import Record
from domain.ports.archive import LogImport, LogView, LogWriting, StoredCommand, ThreadEnds
from domain.ports.log import EventStore, ThreadRow
from domain.thread.codec import decode
from domain.thread.events import ThreadForked, ThreadOpened, TurnCompleted, TurnFailed, TurnRolledBack
from domain.thread.evolve import evolve
from domain.thread.state import INITIAL, State

MAX_PAGE_COMMANDS = 1_000

MAX_PAGE_THREADS = 50_000
"""Threads of a page. For each page, a database may read all events of the slice."""

SHA256_BYTES = 32

AT_REST = frozenset(event.__name__ for event in (ThreadOpened, TurnCompleted, TurnFailed, TurnRolledBack))
"""Events after which a thread is always idle: it need not be folded to know that nothing runs.

Without `TurnCancelled`: it may be about a queued turn, while another one runs.
"""

Progress = Callable[[str, int], None]
"""Is called with the kind of items, and how many more are done."""


class Archived(Protocol):
    """An exported log."""

    @property
    def heads(self) -> Sequence[Position]:
        """The last positions of all slices, in the order of the slices."""

    def events(self) -> Iterable[Sequence[Record]]:
        """Read all records, in parts of any size and in any order."""

    def commands(self) -> Iterable[Sequence[StoredCommand]]:
        """Read all commands, in parts of any size and in any order."""


class Imported(Struct, frozen=True):
    """What was imported and verified."""

    threads: int
    events: int
    commands: int
    running: int
    """Threads with something to run: a worker continues them."""
    waiting: int
    """Threads that wait for a person."""


async def new_events(
    store: EventStore, after: Sequence[Position], upto: Sequence[Position]
) -> AsyncIterator[tuple[Slice, Sequence[Record]]]:
    """Yield the records of each slice with `after < position <= upto`, slice by slice, in order, in pages.

    Raises:
        CorruptLog: a position is missing, or a thread of another slice has it. Such an export could not be imported.
    """
    for slice_ in map(Slice, range(SLICES)):
        last, size = after[slice_], PageSize()
        while last < upto[slice_]:
            page = await store.read_slice(slice_, last, min(size.limit, upto[slice_] - last))
            size.adapt(page)
            if not page or page[-1].position != last + len(page):
                raise CorruptLog(f"Slice {slice_}: a position after {last} is missing. `threadfold verify` says which.")
            for record in page:
                if (own := slice_of(record.thread_id)) != slice_:
                    place = f"version {record.version} is in slice {slice_}"
                    raise CorruptLog(f"{record.thread_id}: {place}, its thread is of slice {own}")
            yield slice_, page
            last = page[-1].position


async def all_commands(view: LogView) -> AsyncIterator[Sequence[StoredCommand]]:
    """Yield all commands in pages."""
    after: StoredCommand | None = None
    while page := await view.commands(after, MAX_PAGE_COMMANDS):
        yield page
        after = page[-1]


async def import_log(log: LogImport, archived: Archived, progress: Progress) -> Imported:
    """Import an exported log into an empty store, and verify every hash, version and position before the commit.

    Raises:
        LogNotEmpty: the store is not empty.
        CorruptLog: the log does not verify, or has a command that does not belong to it. The store stays empty.
    """
    async with log.writing() as writing:
        for records in archived.events():
            await writing.add_events(records)
            progress("events", len(records))
        commands = 0
        for part in archived.commands():
            for stored in part:  # no hash covers it, so check that it can be repeated
                result_version_of(stored.command)
                if len(stored.command.request_hash) != SHA256_BYTES:
                    raise CorruptLog(f"The command {stored.command.id} has no SHA-256 of its request")
            await writing.add_commands(part)
            commands += len(part)
            progress("commands", len(part))
        await writing.set_heads(archived.heads)
        running = waiting = 0
        async for rows in _threads(writing):
            await writing.add_threads(rows)
            running += sum(row.in_turn for row in rows)
            waiting += sum(row.waiting for row in rows)
            progress("threads", len(rows))
        if stray := await writing.stray_command():
            thread = f"the thread {stray.thread_id} of the tenant {stray.tenant!r}"
            raise CorruptLog(f"There is a command {stray.command.id}, but not {thread} that it was for")
        verified = await _verified(writing, progress)
    return Imported(verified.threads, verified.events, commands, running, waiting)


async def state_of(store: EventStore, thread_id: ThreadId) -> State:
    """Fold a thread from its first event on, across its parents, without reading its row: it may not exist yet."""
    lineage: list[tuple[ThreadId, Version | None]] = [(thread_id, None)]
    while (found := await store.read(lineage[-1][0], START, lineage[-1][1], 1)) and found[0].version > START + 1:
        owner, version, fork = found[0].thread_id, found[0].version, decode(found[0]).event
        # It names the version before its own, so that no thread is its own ancestor.
        if not isinstance(fork, ThreadForked) or fork.at_version != version - 1:
            raise CorruptLog(f"{owner}: it begins at version {version} without a matching ThreadForked")
        lineage.append((ThreadId(fork.parent), Version(fork.at_version)))
    state: State = INITIAL
    for owner, upto in reversed(lineage):
        last = START
        async for record in ThreadReader(store).records(owner, upto=upto):
            state, last = evolve(state, decode(record).event, record.recorded_at), record.version
        if upto is not None and last != upto:
            raise CorruptLog(f"{owner}: a fork begins after its version {upto}, which it does not have")
    return state


async def _threads(writing: LogWriting) -> AsyncIterator[Sequence[ThreadRow]]:
    for slice_ in map(Slice, range(SLICES)):
        after: ThreadId | None = None
        while ends := await writing.thread_ends(slice_, after, MAX_PAGE_THREADS):
            yield [await _row(writing, end) for end in ends]
            after = ends[-1].row.thread_id
            if len(ends) < MAX_PAGE_THREADS:
                break


async def _row(writing: LogWriting, ends: ThreadEnds) -> ThreadRow:
    if ends.last_type in AT_REST:
        return ends.row
    state = await state_of(writing.written, ends.row.thread_id)
    return replace(ends.row, in_turn=state.in_turn, waiting=state.waiting)


async def _verified(writing: LogWriting, progress: Progress) -> Verified:
    verified = Verified()
    for slice_ in map(Slice, range(SLICES)):
        checked = await verify_slices(writing.written, (slice_,))
        if checked.problems:
            raise CorruptLog(f"Nothing was imported: the files do not verify. {checked.problems[0]}")
        verified += checked
        progress("verified", checked.events)
    return verified
