"""Threads as folded state over the event store: load, append, look back."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from domain.application.history import PAGE, History
from domain.chain import NOTHING, Head, Record, seal
from domain.checkpoints import Checkpoint, lean, text_of, whole
from domain.codec import Metadata, Recorded, decode, encode, read_back, to_json
from domain.errors import InvalidInput, StoreUnavailable, UnknownThread, VersionConflict
from domain.events import Event
from domain.evolve import evolve, fold
from domain.ids import DEFAULT_TENANT, START, Position, Tenant, ThreadId, Version
from domain.ports.clock import Clock
from domain.ports.log import Append, CommandRecord, EventStore, Fence
from domain.ports.snapshots import Snapshot, SnapshotStore
from domain.state import INITIAL, Idle, State

FAR = 16
"""Forks of forks after which a snapshot is left, so that nobody has to go back through all of them again."""

LONG = 3
"""A way is long that has so many times the events between two snapshots."""

_log = logging.getLogger(__name__)
_decode_checkpoint = msgspec.json.Decoder(Checkpoint).decode


class Loaded(Struct, frozen=True):
    """A thread as it was folded: its state after `head`."""

    thread_id: ThreadId
    tenant: Tenant = DEFAULT_TENANT
    head: Head = NOTHING
    state: State = INITIAL


class Sealed(Struct, frozen=True):
    """Events as records, with the thread as it is after them."""

    after: Loaded
    records: tuple[Record, ...]
    recorded: Sequence[Recorded]


class Journal(History):
    """Reads and writes threads. Keeps the last used ones folded; the store's compare-and-set finds stale ones."""

    def __init__(  # noqa: D107  (the parts are named by their ports)
        self,
        store: EventStore,
        snapshots: SnapshotStore,
        clock: Clock,
        *,
        fingerprint: str,
        snapshot_every: int = 250,
        keep: int = 1_000,
    ) -> None:
        super().__init__(store, keep)
        self._snapshots = snapshots
        self._clock = clock
        self._fingerprint = fingerprint
        self._snapshot_every = snapshot_every
        self._hot: OrderedDict[ThreadId, Loaded] = OrderedDict()
        self._snapshotted: dict[ThreadId, Version] = {}
        self._locks: WeakValueDictionary[ThreadId, asyncio.Lock] = WeakValueDictionary()

    async def load(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> Loaded:
        """Return the thread as it is now; unopened if it has no events.

        Raises:
            UnknownThread: it belongs to another tenant.
        """
        hot = self._hot.get(thread_id)
        loaded = await (self._catch_up(hot) if hot else self._folded(thread_id))
        if loaded.head.version and loaded.tenant != tenant:
            raise UnknownThread(thread_id)
        if not loaded.head.version:
            return replace(loaded, tenant=tenant)
        self._remember(loaded)
        return loaded

    def last_seen(self, thread_id: ThreadId, tenant: Tenant) -> Loaded | None:
        """Return an idle thread as it was when this process last saw it, if it remembers: a good guess, no more.

        An append that was decided by it is refused if the thread has moved on. Of threads in a turn there is none:
        they move on all the time.
        """
        hot = self._hot.get(thread_id)
        return hot if hot and hot.tenant == tenant and isinstance(hot.state, Idle) else None

    async def existing(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> Loaded:
        """Return the thread as it is now.

        Raises:
            UnknownThread: it has no events, or belongs to another tenant.
        """
        loaded = await self.load(thread_id, tenant)
        if not loaded.head.version:
            raise UnknownThread(thread_id)
        return loaded

    async def load_at(self, thread_id: ThreadId, version: Version, tenant: Tenant = DEFAULT_TENANT) -> Loaded:
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

    async def append(
        self,
        loaded: Loaded,
        events: Sequence[Event],
        metadata: Metadata,
        command: CommandRecord | None = None,
        *,
        forked: bool = False,
        fence: Fence | None = None,
    ) -> tuple[Loaded, Sequence[Recorded]]:
        """Store events after `loaded` and return the thread as it is then, with the events as they were recorded.

        Raises:
            VersionConflict: the thread has moved on; nothing was stored.
            LeaseLost: another worker has the shard that `fence` names; nothing was stored.
        """
        return await self.append_sealed(
            loaded, self.seal(loaded, events, metadata), command, forked=forked, fence=fence
        )

    def seal(self, loaded: Loaded, events: Sequence[Event], metadata: Metadata) -> Sealed:
        """Make events into records that follow on `loaded`, without storing them."""
        drafts = [encode(event, metadata) for event in events]
        # What is kept hot is what the log would give back: nothing that a caller still holds and may change.
        events = [read_back(draft) for draft in drafts]
        records, head = seal(loaded.tenant, loaded.thread_id, loaded.head, drafts, self._clock.now())
        recorded = [
            Recorded(loaded.thread_id, record.version, Position(0), head.at, event, metadata)
            for record, event in zip(records, events, strict=True)
        ]
        return Sealed(replace(loaded, head=head, state=fold(loaded.state, events, head.at)), records, recorded)

    async def append_sealed(
        self,
        loaded: Loaded,
        sealed: Sealed,
        command: CommandRecord | None = None,
        *,
        forked: bool = False,
        fence: Fence | None = None,
    ) -> tuple[Loaded, Sequence[Recorded]]:
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
            self._hot.pop(loaded.thread_id, None)
            raise
        self._remember(moved)
        return moved, [
            replace(recorded, position=Position(position + index)) for index, recorded in enumerate(sealed.recorded)
        ]

    def is_due(self, loaded: Loaded) -> bool:
        """Say whether the last snapshot is `snapshot_every` events ago."""
        return loaded.head.version - self._snapshotted.get(loaded.thread_id, START) >= self._snapshot_every

    async def checkpoint(self, loaded: Loaded) -> None:
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

    async def _nearest(self, thread_id: ThreadId, upto: Version | None) -> Loaded:
        snapshot = await self._snapshots.nearest(thread_id, upto, self._fingerprint)
        if snapshot is None:
            return Loaded(thread_id)
        try:
            checkpoint = _decode_checkpoint(snapshot.state)
            found = await self.at(thread_id, checkpoint.texts) if checkpoint.texts else {}
            state = whole(checkpoint, {version: text_of(told.event) or "" for version, told in found.items()})
        except (msgspec.MsgspecError, KeyError):
            _log.exception("The snapshot of %s at version %s is ignored", thread_id, snapshot.head.version)
            return Loaded(thread_id)
        if upto is None:
            self._snapshotted[thread_id] = snapshot.head.version
        return Loaded(thread_id, snapshot.tenant, snapshot.head, state)

    async def _folded(self, thread_id: ThreadId, upto: Version | None = None) -> Loaded:
        """Fold a thread from the nearest snapshot on, which may be that of a thread that it is a fork of.

        A long way is not gone again: its end is kept.
        """
        owner, end = thread_id, upto
        forks: list[tuple[ThreadId, Version | None]] = []
        while not (begun := (loaded := await self._nearest(owner, end)).head.version):
            first = await self.store.read(owner, START, end, PAGE)
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
        self, loaded: Loaded, upto: Version | None = None, page: Sequence[Record] | None = None
    ) -> Loaded:
        """Fold the events after `loaded`, of which `page` was read already."""
        while page := page or await self.store.read(loaded.thread_id, loaded.head.version, upto, PAGE):
            state = loaded.state
            for record in page:
                state = evolve(state, decode(record).event, record.recorded_at)
            last = page[-1]
            head = Head(last.version, last.hash, last.recorded_at)
            loaded = replace(loaded, tenant=last.tenant, head=head, state=state)
            if len(page) < PAGE:
                break
            page = None
            await self._shorten(loaded)
        return loaded

    async def _shorten(self, loaded: Loaded) -> None:
        """Leave a snapshot on a long way: a new fold ignores the old ones, and some threads never have a turn."""
        try:
            await self._save(loaded)
        except StoreUnavailable as error:
            _log.warning("No snapshot of %s: %s It would have saved time only.", loaded.thread_id, error)

    async def _save(self, loaded: Loaded) -> None:
        state = to_json(lean(loaded.state))
        await self._snapshots.save(Snapshot(loaded.tenant, loaded.thread_id, loaded.head, self._fingerprint, state))

    def _remember(self, loaded: Loaded) -> None:
        self._hot[loaded.thread_id] = loaded
        self._hot.move_to_end(loaded.thread_id)
        if len(self._hot) > self._keep:
            evicted, _ = self._hot.popitem(last=False)
            self._snapshotted.pop(evicted, None)
