"""Threads as folded state over the event store: load, append, look back."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from domain.application.thread_reader import AT_FIRST, PAGE, PageSize, ThreadReader
from domain.errors import InvalidInput, StoreUnavailable, UnknownThread, VersionConflict
from domain.ids import DEFAULT_TENANT, START, Position, Tenant, ThreadId, Version
from domain.log.hash_chain import NOTHING, Head, Record, chain_records
from domain.lru import Lru
from domain.ports.clock import Clock
from domain.ports.log import FEW, Append, CommandRecord, EventStore, Fence
from domain.ports.snapshots import Snapshot, SnapshotStore
from domain.thread.codec import Metadata, Recorded, decode, encode, read_back, to_json
from domain.thread.events import Event
from domain.thread.evolve import evolve, fold
from domain.thread.memory_size import weighed
from domain.thread.snapshot import LeanState, with_texts, without_texts
from domain.thread.state import INITIAL, Idle, State

FAR = 16
"""Forks of forks after which a snapshot is left, so that nobody has to go back through all of them again."""

HOT_BYTES = 64_000_000
"""What folded threads that are kept may take in memory, about."""

LONG = 3
"""A way is long that has so many times the events between two snapshots."""

_log = logging.getLogger(__name__)
_decode_checkpoint = msgspec.json.Decoder(LeanState).decode


class LoadedThread(Struct, frozen=True):
    """A thread as it was folded: its state after `head`.

    `weight` is what the state took in memory when it was weighed last, about; events of `grown` bytes came since.
    """

    thread_id: ThreadId
    tenant: Tenant = DEFAULT_TENANT
    head: Head = NOTHING
    state: State = INITIAL
    weight: int = 0
    grown: int = 0


class ChainedEvents(Struct, frozen=True):
    """Events as records, with the thread as it is after them."""

    after: LoadedThread
    records: tuple[Record, ...]
    recorded: Sequence[Recorded]


class ThreadRepository(ThreadReader):
    """Reads and writes threads. Keeps the last used ones folded; the store's compare-and-set finds stale ones."""

    def __init__(
        self,
        store: EventStore,
        snapshots: SnapshotStore,
        clock: Clock,
        *,
        fingerprint: str,
        snapshot_every: int = 250,
        keep: int = 1_000,
        keep_bytes: int = HOT_BYTES,
    ) -> None:
        super().__init__(store, keep)
        self._snapshots = snapshots
        self._clock = clock
        self._fingerprint = fingerprint
        self._snapshot_every = snapshot_every
        self._hot = Lru[ThreadId, LoadedThread](keep_bytes, keep)
        self._snapshotted: dict[ThreadId, Version] = {}
        self._locks: WeakValueDictionary[ThreadId, asyncio.Lock] = WeakValueDictionary()

    async def load(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> LoadedThread:
        """Return the thread as it is now; unopened if it has no events.

        Raises:
            UnknownThread: it belongs to another tenant.
        """
        hot = self._hot.get(thread_id)
        # Mostly, few events have come since: so few that their size is not looked at.
        loaded = await (self._catch_up(hot, first=FEW) if hot else self._folded(thread_id))
        if loaded.head.version and loaded.tenant != tenant:
            raise UnknownThread(thread_id)
        if not loaded.head.version:
            return replace(loaded, tenant=tenant)
        return self._remember(loaded)

    def last_seen(self, thread_id: ThreadId, tenant: Tenant) -> LoadedThread | None:
        """Return an idle thread as it was when this process last saw it, if it remembers: a good guess, no more.

        An append that was decided by it is refused if the thread has moved on. Of threads in a turn there is none:
        they move on all the time.
        """
        hot = self._hot.get(thread_id)
        return hot if hot and hot.tenant == tenant and isinstance(hot.state, Idle) else None

    async def existing(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> LoadedThread:
        """Return the thread as it is now.

        Raises:
            UnknownThread: it has no events, or belongs to another tenant.
        """
        loaded = await self.load(thread_id, tenant)
        if not loaded.head.version:
            raise UnknownThread(thread_id)
        return loaded

    async def load_at(self, thread_id: ThreadId, version: Version, tenant: Tenant = DEFAULT_TENANT) -> LoadedThread:
        """Return the thread as it was after an event.

        Raises:
            UnknownThread: there is none.
            InvalidInput: it has fewer events than that.
        """
        hot = self._hot.get(thread_id)
        if hot and hot.head.version == version and hot.tenant == tenant:
            return hot
        past = await self._folded(thread_id, version)
        if past.head.version == version and past.tenant == tenant:
            return past
        row = await self.row(thread_id, tenant)
        raise InvalidInput("at_version", f"the thread has versions 1 to {row.head.version}")

    async def version_at(self, thread_id: ThreadId, at: datetime, tenant: Tenant = DEFAULT_TENANT) -> Version:
        """Return the thread's version at an instant.

        Raises:
            UnknownThread: there is none.
            InvalidInput: it did not exist yet.
        """
        row = await self.row(thread_id, tenant)
        version = await self.store.version_at(thread_id, at)
        if not version:
            raise InvalidInput("at_time", f"the thread began at {row.opened_at.isoformat().replace('+00:00', 'Z')}")
        return version

    def append(
        self,
        loaded: LoadedThread,
        events: Sequence[Event],
        metadata: Metadata,
        command: CommandRecord | None = None,
        *,
        forked: bool = False,
        fence: Fence | None = None,
    ) -> Coroutine[Any, Any, tuple[LoadedThread, Sequence[Recorded]]]:
        """Store events after `loaded` and return the thread as it is then, with the events as they were recorded.

        Raises:
            VersionConflict: the thread has moved on; nothing was stored.
            LeaseLost: another worker has the shard that `fence` names; nothing was stored.
        """
        chained = self.chain(loaded, events, metadata)
        return self.append_chained(loaded, chained, command, forked=forked, fence=fence)

    def chain(self, loaded: LoadedThread, events: Sequence[Event], metadata: Metadata) -> ChainedEvents:
        """Make events into records that follow on `loaded`, without storing them."""
        drafts = [encode(event, metadata) for event in events]
        # What is kept hot is what the log would give back: nothing that a caller still holds and may change.
        events = [read_back(draft) for draft in drafts]
        records, head = chain_records(loaded.tenant, loaded.thread_id, loaded.head, drafts, self._clock.now())
        recorded = [
            Recorded(loaded.thread_id, record.version, Position(0), head.at, event, metadata, len(record.payload))
            for record, event in zip(records, events, strict=True)
        ]
        state, grown = fold(loaded.state, events, head.at), loaded.grown + sum(len(each.payload) for each in drafts)
        return ChainedEvents(replace(loaded, head=head, state=state, grown=grown), records, recorded)

    async def append_chained(
        self,
        loaded: LoadedThread,
        sealed: ChainedEvents,
        command: CommandRecord | None = None,
        *,
        forked: bool = False,
        fence: Fence | None = None,
    ) -> tuple[LoadedThread, Sequence[Recorded]]:
        """Store sealed events after `loaded`; see `append`."""
        moved = sealed.after
        append = Append(
            loaded.tenant,
            loaded.thread_id,
            loaded.head,
            moved.head,
            sealed.records,
            moved.state.in_turn,
            command,
            waiting=moved.state.waiting,
            forked=forked,
            fence=fence,
        )
        try:
            position = await self.store.append(append)
        except VersionConflict:
            self._hot.discard(loaded.thread_id)
            raise
        moved = self._remember(moved)
        return moved, [
            replace(recorded, position=Position(position + index)) for index, recorded in enumerate(sealed.recorded)
        ]

    def is_due(self, loaded: LoadedThread) -> bool:
        """Say whether the last snapshot is `snapshot_every` events ago."""
        return loaded.head.version - self._snapshotted.get(loaded.thread_id, START) >= self._snapshot_every

    async def checkpoint(self, loaded: LoadedThread) -> None:
        """Write a snapshot if one is due; for turn boundaries, off the hot path."""
        if not self.is_due(loaded):
            return
        thread_id = loaded.thread_id
        if thread_id in self._hot:
            # At once: a turn that ends meanwhile need not write another.
            self._snapshotted[thread_id] = loaded.head.version
        await self._save(loaded)

    def lock(self, thread_id: ThreadId) -> asyncio.Lock:
        """Let one at a time decide about a thread in this process; between processes, compare-and-set does."""
        return self._locks.setdefault(thread_id, asyncio.Lock())

    async def _nearest(self, thread_id: ThreadId, upto: Version | None) -> LoadedThread:
        snapshot = await self._snapshots.nearest(thread_id, upto, self._fingerprint)
        if snapshot is None:
            return LoadedThread(thread_id)
        try:
            checkpoint = _decode_checkpoint(snapshot.state)
            told = tuple(dict.fromkeys((*checkpoint.texts, *checkpoint.extras)))
            found = await self.at(thread_id, told) if told else {}
            state = with_texts(checkpoint, {version: recorded.event for version, recorded in found.items()})
        except (msgspec.MsgspecError, KeyError):
            _log.exception("The snapshot of %s at version %s is ignored", thread_id, snapshot.head.version)
            return LoadedThread(thread_id)
        if upto is None:
            self._snapshotted[thread_id] = snapshot.head.version
        return LoadedThread(thread_id, snapshot.tenant, snapshot.head, state)

    async def _folded(self, thread_id: ThreadId, upto: Version | None = None) -> LoadedThread:
        """Fold a thread from the nearest snapshot on, which may be that of a thread that it is a fork of.

        A long way is not gone again: its end is kept.
        """
        owner, end = thread_id, upto
        forks: list[tuple[ThreadId, Version | None]] = []
        while not (begun := (loaded := await self._nearest(owner, end)).head.version):
            first = await self.store.read(owner, START, end, AT_FIRST)
            origin = None if first and first[0].version == START + 1 else await self.origin(owner)
            if origin is None:
                loaded = await self._catch_up(loaded, end, first)
                break
            if first:
                forks.append((owner, end))
            owner, end = origin.parent, origin.version if end is None else min(end, origin.version)
        else:
            loaded = await self._catch_up(loaded, end)
        for fork, its_end in reversed(forks):
            loaded = await self._catch_up(replace(loaded, thread_id=fork), its_end)
        if len(forks) > FAR or loaded.head.version - begun > LONG * self._snapshot_every:
            await self._shorten(loaded)
        return replace(loaded, thread_id=thread_id)

    async def _catch_up(
        self,
        loaded: LoadedThread,
        upto: Version | None = None,
        page: Sequence[Record] | None = None,
        first: int = AT_FIRST,
    ) -> LoadedThread:
        """Fold the events after `loaded`, of which a `page` of at most `first` may have been read already."""
        size, since = PageSize(first), 0
        while page := page or await self.store.read(loaded.thread_id, loaded.head.version, upto, size.limit):
            state = loaded.state
            for record in page:
                state = evolve(state, decode(record).event, record.recorded_at)
            last = page[-1]
            head = Head(last.version, last.hash, last.recorded_at)
            sizes = [len(record.payload) for record in page]
            grown = loaded.grown + sum(sizes)
            loaded = replace(loaded, tenant=last.tenant, head=head, state=state, grown=grown)
            if size.is_last(sizes) or loaded.head.version == upto:
                break
            since, page = since + len(page), None
            if since >= PAGE:
                since = 0
                await self._shorten(loaded)
            size.limit = min(size.limit, PAGE - since)
        return loaded

    async def _shorten(self, loaded: LoadedThread) -> None:
        """Leave a snapshot on a long way: a new fold ignores the old ones, and some threads never have a turn."""
        try:
            await self._save(loaded)
        except StoreUnavailable as error:
            _log.warning("No snapshot of %s: %s It would have saved time only.", loaded.thread_id, error)

    async def _save(self, loaded: LoadedThread) -> None:
        state = to_json(without_texts(loaded.state))
        await self._snapshots.save(Snapshot(loaded.tenant, loaded.thread_id, loaded.head, self._fingerprint, state))

    def _remember(self, loaded: LoadedThread) -> LoadedThread:
        """Keep a thread, and return it weighed."""
        weight, grown = weighed(loaded.state, loaded.weight, loaded.grown)
        if grown != loaded.grown:
            loaded = replace(loaded, weight=weight, grown=grown)
        for evicted in self._hot.put(loaded.thread_id, loaded, weight + grown):
            self._snapshotted.pop(evicted, None)
        return loaded
