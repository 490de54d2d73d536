"""The event-sourced repository: loads threads by folding their events, appends to them, and writes snapshots."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from domain.application.thread_reader import AT_FIRST, PAGE, PageSize, ThreadReader
from domain.errors import InvalidInput, StoreUnavailable, UnknownThread, VersionConflict
from domain.ids import DEFAULT_TENANT, START, Position, Tenant, ThreadId, Version
from domain.log.hash_chain import EMPTY_HEAD, Head, Record, chain_records
from domain.lru import Lru
from domain.ports.clock import Clock
from domain.ports.log import MAX_UNWEIGHED_RECORDS, Append, CommandRecord, Fence
from domain.ports.snapshots import Snapshot, SnapshotStore
from domain.thread.codec import Metadata, Recorded, decode, encode, read_back, to_json
from domain.thread.events import Event
from domain.thread.evolve import evolve, fold
from domain.thread.memory_size import measure
from domain.thread.snapshot import LeanState, with_texts, without_texts
from domain.thread.state import INITIAL, Idle, State

MAX_FORK_DEPTH = 16
"""Nested forks after which a load writes a snapshot, so that the next load need not go through all of them."""

HOT_BYTES = 64_000_000
"""Bytes of memory that cached threads may take, about."""

MAX_FOLD_INTERVALS = 3
"""A load that folds more than so many times `snapshot_every` events writes a snapshot."""

_log = logging.getLogger(__name__)
_decode_state = msgspec.json.Decoder(LeanState).decode


class LoadedThread(Struct, frozen=True):
    """A folded thread: its state after `head`.

    `weight` is about how many bytes the state took when it was last measured; `grown` are the bytes of later events.
    """

    thread_id: ThreadId
    tenant: Tenant = DEFAULT_TENANT
    head: Head = EMPTY_HEAD
    state: State = INITIAL
    weight: int = 0
    grown: int = 0


class ChainedEvents(Struct, frozen=True):
    """Events as hashed records that are not stored yet, and the thread before and after them.

    `forked`: the thread is new, and `before` is its parent as it was.
    """

    before: LoadedThread
    after: LoadedThread
    records: tuple[Record, ...]
    recorded: Sequence[Recorded]
    forked: bool = False


@dataclass(eq=False)
class ThreadRepository(ThreadReader):
    """Reads and writes threads. Caches the last used ones; the store's compare-and-set detects stale ones.

    `keep` and `keep_bytes` bound the cache. A snapshot is due every `snapshot_every` events.
    """

    snapshots: SnapshotStore
    clock: Clock
    fingerprint: str = field(kw_only=True)
    snapshot_every: int = field(default=250, kw_only=True)
    keep_bytes: int = field(default=HOT_BYTES, kw_only=True)
    _snapshotted: dict[ThreadId, Version] = field(init=False, default_factory=dict)
    _locks: WeakValueDictionary[ThreadId, asyncio.Lock] = field(init=False, default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        """Create empty caches."""
        super().__post_init__()
        self._hot = Lru[ThreadId, LoadedThread](self.keep_bytes, self.keep)

    async def load(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> LoadedThread:
        """Return the thread as it is now; unopened if it has no events.

        Raises:
            UnknownThread: the thread belongs to another tenant.
        """
        hot = self._hot.get(thread_id)
        # Mostly, few events are new: so few that the store need not weigh them.
        loaded = await (self._catch_up(hot, first=MAX_UNWEIGHED_RECORDS) if hot else self._folded(thread_id))
        if loaded.head.version and loaded.tenant != tenant:
            raise UnknownThread(thread_id)
        if not loaded.head.version:
            return replace(loaded, tenant=tenant)
        return self._cache(loaded)

    async def load_once(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> LoadedThread:
        """Return the thread as it is now, and do not cache it: for a look at many threads. Raises `UnknownThread`."""
        if hot := self._hot.get(thread_id):
            loaded = await self._catch_up(hot)
        else:
            loaded = await self._folded(thread_id)
        if not loaded.head.version or loaded.tenant != tenant:
            raise UnknownThread(thread_id)
        return loaded

    def cached_idle(self, thread_id: ThreadId, tenant: Tenant) -> LoadedThread | None:
        """Return the thread from the cache if it is idle there. It may be stale.

        An append that was decided by a stale state is refused. Threads in a turn are not returned: their state is stale
        most of the time.
        """
        hot = self._hot.get(thread_id)
        return hot if hot and hot.tenant == tenant and isinstance(hot.state, Idle) else None

    async def existing(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> LoadedThread:
        """Return the thread as it is now.

        Raises:
            UnknownThread: the thread has no events, or belongs to another tenant.
        """
        loaded = await self.load(thread_id, tenant)
        if not loaded.head.version:
            raise UnknownThread(thread_id)
        return loaded

    async def load_at(self, thread_id: ThreadId, version: Version, tenant: Tenant = DEFAULT_TENANT) -> LoadedThread:
        """Return the thread as it was after an event.

        Raises:
            UnknownThread: there is no such thread.
            InvalidInput: the thread has fewer events.
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
            UnknownThread: there is no such thread.
            InvalidInput: the thread did not exist yet.
        """
        row = await self.row(thread_id, tenant)
        version = await self.store.version_at(thread_id, at)
        if not version:
            raise InvalidInput("at_time", f"the thread began at {row.opened_at.isoformat().replace('+00:00', 'Z')}")
        return version

    def chain(
        self, loaded: LoadedThread, events: Sequence[Event], metadata: Metadata, *, forked: bool = False
    ) -> ChainedEvents:
        """Encode and hash events that follow `loaded`, without storing them."""
        drafts = [encode(event, metadata) for event in events]
        # The cached state is folded from decoded copies, as after a load: a caller may still change its own objects.
        events = [read_back(draft) for draft in drafts]
        records, head = chain_records(loaded.tenant, loaded.thread_id, loaded.head, drafts, self.clock.now())
        recorded = [
            Recorded(loaded.thread_id, record.version, Position(0), head.at, event, metadata, len(record.payload))
            for record, event in zip(records, events, strict=True)
        ]
        state, grown = fold(loaded.state, events, head.at), loaded.grown + sum(len(each.payload) for each in drafts)
        return ChainedEvents(loaded, replace(loaded, head=head, state=state, grown=grown), records, recorded, forked)

    async def append(
        self, chained: ChainedEvents, command: CommandRecord | None = None, fence: Fence | None = None
    ) -> tuple[LoadedThread, Sequence[Recorded]]:
        """Store chained events. Returns the thread after them, and the events as they were recorded.

        Raises:
            VersionConflict: the thread has moved on; nothing was stored.
            LeaseLost: another worker has the shard that `fence` names; nothing was stored.
        """
        before, after, state = chained.before, chained.after, chained.after.state
        whose, heads = (before.tenant, before.thread_id), (before.head, after.head)
        append = Append(*whose, *heads, chained.records, state.in_turn, command, state.waiting, chained.forked, fence)
        try:
            first = await self.store.append(append)
        except VersionConflict:
            self._hot.discard(before.thread_id)
            raise
        recorded = [replace(each, position=Position(first + n)) for n, each in enumerate(chained.recorded)]
        return self._cache(after), recorded

    def is_snapshot_due(self, loaded: LoadedThread) -> bool:
        """Say whether the last snapshot is at least `snapshot_every` events old."""
        return loaded.head.version - self._snapshotted.get(loaded.thread_id, START) >= self.snapshot_every

    async def save_snapshot(self, loaded: LoadedThread) -> None:
        """Write a snapshot if one is due. For the end of a turn: nothing has to wait for it."""
        if not self.is_snapshot_due(loaded):
            return
        if loaded.thread_id in self._hot:
            # Noted before it is written, so that a turn that ends in between does not write another one.
            self._snapshotted[loaded.thread_id] = loaded.head.version
        await self._save(loaded)

    def lock(self, thread_id: ThreadId) -> asyncio.Lock:
        """Return the lock under which this process decides a thread's commands. Across processes, the store does."""
        return self._locks.setdefault(thread_id, asyncio.Lock())

    async def _nearest(self, thread_id: ThreadId, upto: Version | None) -> LoadedThread:
        snapshot = await self.snapshots.nearest(thread_id, upto, self.fingerprint)
        if snapshot is None:
            return LoadedThread(thread_id)
        try:
            lean = _decode_state(snapshot.state)
            found = await self.at(thread_id, {*lean.texts, *lean.extras})
            state = with_texts(lean, {version: recorded.event for version, recorded in found.items()})
        except (msgspec.MsgspecError, KeyError):
            _log.exception("The snapshot of %s at version %s is ignored", thread_id, snapshot.head.version)
            return LoadedThread(thread_id)
        if upto is None:
            self._snapshotted[thread_id] = snapshot.head.version
        return LoadedThread(thread_id, snapshot.tenant, snapshot.head, state)

    async def _folded(self, thread_id: ThreadId, upto: Version | None = None) -> LoadedThread:
        """Fold a thread from the nearest snapshot on, which may be its parent's if the thread is a fork.

        After a long fold, the result is saved as a snapshot.
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
        if len(forks) > MAX_FORK_DEPTH or loaded.head.version - begun > MAX_FOLD_INTERVALS * self.snapshot_every:
            await self._save_if_possible(loaded)
        return replace(loaded, thread_id=thread_id)

    async def _catch_up(
        self, loaded: LoadedThread, upto: Version | None = None, page: Sequence[Record] = (), first: int = AT_FIRST
    ) -> LoadedThread:
        """Fold the events after `loaded`. A first `page` of them, of at most `first` records, may be given."""
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
            since, page = since + len(page), ()
            if since >= PAGE:
                since = 0
                await self._save_if_possible(loaded)
            size.limit = min(size.limit, PAGE - since)
        return loaded

    async def _save_if_possible(self, loaded: LoadedThread) -> None:
        """Save a snapshot during a long fold: a changed fold ignores old snapshots, and some threads have no turns."""
        try:
            await self._save(loaded)
        except StoreUnavailable as error:
            _log.warning(
                "The snapshot of %s was not written: %s Only the next load is slower.", loaded.thread_id, error
            )

    async def _save(self, loaded: LoadedThread) -> None:
        state = to_json(without_texts(loaded.state))
        await self.snapshots.save(Snapshot(loaded.tenant, loaded.thread_id, loaded.head, self.fingerprint, state))

    def _cache(self, loaded: LoadedThread) -> LoadedThread:
        """Put a thread into the cache. Returns it with its current weight."""
        weight, grown = measure(loaded.state, loaded.weight, loaded.grown)
        if grown != loaded.grown:
            loaded = replace(loaded, weight=weight, grown=grown)
        for evicted in self._hot.put(loaded.thread_id, loaded, weight + grown):
            self._snapshotted.pop(evicted, None)
        return loaded
