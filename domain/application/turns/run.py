"""One run of a turn by this process: its reports, and how they are stored exactly once."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from domain.application.budget.turn_budget import TurnBudget, crossed
from domain.application.command_handler import CommandRequest, execute
from domain.application.thread_repository import LoadedThread
from domain.application.turns.interruptible import Interruptible
from domain.application.turns.services import TurnServices
from domain.application.turns.staging import StagedReport, append_of, decided_again, stage, store_staged
from domain.application.turns.unreported_calls import UnreportedCalls, calls_in
from domain.errors import LeaseLost, StoreUnavailable, TurnIsOver, VersionConflict
from domain.ids import ThreadId, TurnId, Version
from domain.ports.hot import HOT_TIMEOUT_S
from domain.ports.log import Fence
from domain.thread.codec import Metadata, Recorded, decode
from domain.thread.commands import RecordModelCalls, RecordThreshold, RuntimeCommand
from domain.thread.events import BudgetThresholdReached, Durability, ModelCalled
from domain.thread.state import Running, Turn

_log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_REPORT_DELAY_S = 0.005
"""Seconds that a report may wait for the next one, to be stored with it."""

STORE_RETRY_S = 1.0
"""Seconds between two attempts to store staged reports while the store is unavailable."""


@dataclass
class TurnRun(Interruptible):
    """A run of a turn. `number` is a fencing token: once another worker has resumed the turn, reports are ignored.

    `fence` returns the fencing token of the lease under which a thread's turn appends.
    """

    services: TurnServices
    loaded: LoadedThread
    metadata: Metadata
    fence: Callable[[ThreadId], Fence | None] = lambda _: None
    turn_id: TurnId = field(init=False)
    number: int = field(init=False)
    durability: Durability = field(init=False, default="sync")
    spending: TurnBudget = field(init=False)
    unreported: UnreportedCalls = field(init=False)
    """Calls of models that are not in a report yet."""
    answered: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set once the answer may be given to clients, though it may not be stored yet."""
    actor: str | None = field(init=False, default=None)
    """Who sent the message that the turn answers; None as long as no tool has asked."""
    _staged: list[StagedReport] = field(init=False, default_factory=list)
    _thresholds: list[RecordThreshold] = field(init=False, default_factory=list)
    """Budget thresholds that were reached and are not recorded yet."""
    _durable: LoadedThread | None = field(init=False, default=None)
    """The thread as it is stored, while reports are staged."""
    _last_number: int = field(init=False, default=0)
    """The number of the last staged report."""
    _unconfirmed: set[bytes] = field(init=False, default_factory=set)
    """Hashes of reports whose append was cancelled or got no answer: the log may have them."""
    _unsettled: deque[tuple[LoadedThread, LoadedThread, Sequence[Recorded]]] = field(init=False, default_factory=deque)
    """Stored events whose model calls are not settled yet, with the thread before and after them."""
    _store_was_away: bool = field(init=False, default=False)
    """Whether it was logged that the store is unavailable."""
    _closed: bool = field(init=False, default=False)
    _lock: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _save_timer: asyncio.TimerHandle | None = field(init=False, default=None)
    _saving: asyncio.Task[None] | None = field(init=False, default=None)
    """Referenced here so that it is not collected before it ends."""

    def __post_init__(self) -> None:
        """Raise `TurnIsOver` if no turn runs."""
        if not isinstance(self.loaded.state, Running):
            raise TurnIsOver
        # Copied, because the thread may get another turn, or the turn another run, while this one still ends.
        self.turn_id = TurnId(self.loaded.state.turn.turn_id)
        self.number = self.loaded.state.turn.run
        self.durability = self.loaded.state.turn.durability
        thread = self.loaded.state.thread
        whose = self.loaded.tenant, self.thread_id, thread.graph, thread.subject
        self.spending = TurnBudget(self.services.account, *whose)
        self.unreported = UnreportedCalls(self.spending)

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.loaded.thread_id

    @cached_property
    def place(self) -> str:
        """The turn and its thread, for logs."""
        return f"turn {self.turn_id} in thread {self.thread_id}"

    @property
    def turn(self) -> Turn | None:
        """The turn as it is now; None if it has ended, or another worker has resumed it."""
        state = self.loaded.state
        if isinstance(state, Running) and (state.turn.turn_id, state.turn.run) == (self.turn_id, self.number):
            return state.turn
        return None

    @property
    def durable_version(self) -> Version:
        """The thread's last stored version, as far as this run knows."""
        return (self._durable or self.loaded).head.version

    @property
    def kept(self) -> Sequence[Recorded]:
        """The events of staged reports: they are not stored yet."""
        return [recorded for each in self._staged for recorded in each.chained.recorded]

    async def report(self, command: RuntimeCommand, *, durable: bool = True, soon: bool = False) -> Sequence[Recorded]:
        """Decide and store a report, and broadcast its events. Reports of a run are stored in order, one at a time.

        A report that need not be `durable` before the next one is staged until the turn ends or waits, if the turn's
        durability allows that. With any durability, a report that the next one follows `soon` may wait up to
        `MAX_REPORT_DELAY_S` seconds to be stored with it. While the store is unavailable, this waits; that time does
        not count against the node's deadline.

        A report is hashed before it is stored, and kept until the store has confirmed it. If this is cancelled in
        between, the next report stores it, or finds it in the log by its hash. So it is stored exactly once.

        Returns the events; none if the report changes nothing.

        Raises:
            TurnIsOver: the turn does not run here any more.
            LeaseLost: another worker has the shard.
            InvalidInput: see `decide`.
        """
        async with self._lock:
            self._check_open()
            command = self.unreported.carried_by(command)
            self._last_number += 1
            staged = stage(self.services.repository, self.loaded, command, self.metadata, self._last_number)
            if staged is None:
                return ()
            self._durable = self._durable or self.loaded
            self._staged.append(staged)
            self.loaded = staged.after
            self.unreported.said(command)
            sync, over = self.durability == "sync", self.turn is None or self.turn.waits
            if over and self.durability == "async" and await self._hold():
                self.answered.set()
            if durable or over or (sync and not soon):
                return (await self._store_staged()).get(staged.number, ())
            if sync and self._save_timer is None:
                loop = asyncio.get_running_loop()
                self._save_timer = loop.call_later(MAX_REPORT_DELAY_S, self._save_in_background)
            return staged.chained.recorded

    def _save_in_background(self) -> None:
        self._save_timer = None
        if self._staged:
            self._saving = asyncio.create_task(self._save_safely(), name=f"events of {self.thread_id}")

    async def _save_safely(self) -> None:
        try:
            await self.save()
        except Exception as error:  # noqa: BLE001  (whatever it is, the next report meets it as well)
            _log.debug("Staged reports of %s are stored with the next report: %r", self.thread_id, error)

    async def _hold(self) -> bool:
        """Put the staged reports where they outlive this process. False: then no client may get the answer yet."""
        if self.services.hot is None or self._durable is None:
            return True
        try:
            async with asyncio.timeout(HOT_TIMEOUT_S):
                await self.services.hot.put(append_of(self._durable, self._staged))
        except (StoreUnavailable, TimeoutError) as error:
            _log.warning("The answer in %s waits until it is stored: %r", self.thread_id, error)
            return False
        return True

    async def save(self) -> None:
        """Store the staged reports."""
        async with self._lock:
            await self._store_staged()

    def drop_staged(self) -> None:
        """Drop the staged reports: another worker has the turn, so they would be ignored."""
        self._staged, self._durable = [], None

    def reject_staged(self) -> None:
        """Drop the staged reports because they cannot be stored. Their model calls go into the next report."""
        for called in calls_in(each.report for each in self._staged):
            self.unreported.keep(called)
        self.drop_staged()

    async def refresh(self) -> None:
        """Store the staged reports, then read what other processes have written. Raises `StoreUnavailable`."""
        await self.save()
        self.loaded = await self.services.repository.load(self.thread_id, self.loaded.tenant)

    async def note_calls(self) -> None:
        """Record the model calls that are not in a report, where no report follows soon."""
        if self.unreported and self.turn is not None:
            await self.report(RecordModelCalls(self.turn_id, run=self.number))

    def close(self) -> None:
        """Store nothing from now on: the turn is over, or does not run here any more."""
        self._closed = True
        self._cancel_save_timer()
        self.spending.close()

    def _check_open(self) -> None:
        if self._closed:
            raise TurnIsOver

    def _cancel_save_timer(self) -> None:
        if self._save_timer is not None:
            self._save_timer.cancel()
            self._save_timer = None

    async def _store_staged(self) -> Mapping[int, Sequence[Recorded]]:
        """Store the staged reports. Retries while the store is unavailable: they exist nowhere else.

        Returns the events of each report that is stored now, by its number.
        """
        self._cancel_save_timer()
        stored: dict[int, Sequence[Recorded]] = {}
        with self.uncounted():
            while self._staged:
                self._check_open()
                try:
                    stored |= await self._store_once()
                except StoreUnavailable as error:
                    await self._wait_for_store(error)
            self._store_was_away = False
            self._durable = None
            await self._settle()
        return stored

    async def _store_once(self) -> Mapping[int, Sequence[Recorded]]:
        """Store the staged reports, or find out why the log refuses them. `StoreUnavailable` leaves them staged."""
        before, staged = self._durable, tuple(self._staged)
        if before is None:
            raise RuntimeError("Staged reports without the version that they follow")
        try:
            moved, stored = await store_staged(self.services.repository, before, staged, self.fence(self.thread_id))
        except VersionConflict:
            return await self._after_conflict(before, staged)
        except BaseException:
            self._unconfirmed.update(each.after.head.hash for each in staged)
            raise
        self._unconfirmed.clear()
        self._staged, self._durable, self.loaded = [], None, moved
        self._unsettled.append((before, moved, stored))
        self.services.broadcast.send(self.thread_id, stored)
        if self.services.hot and self.answered.is_set():
            with suppress(TimeoutError):  # a later reader finds it there, and the log has it already
                async with asyncio.timeout(HOT_TIMEOUT_S):
                    await self.services.hot.drop(self.thread_id)
        return {each.number: each.chained.recorded for each in staged}

    async def _after_conflict(
        self, before: LoadedThread, staged: Sequence[StagedReport]
    ) -> Mapping[int, Sequence[Recorded]]:
        """Compare the staged reports with the log: an unconfirmed append may have stored some, others may have written.

        Reports that the log has are done. The events of other writers come before the remaining reports, which are
        decided again after them. Reports that were staged after an unconfirmed append refer to its events by their
        versions, which these events have indeed.
        """
        repository = self.services.repository
        now = await repository.load(self.thread_id, self.loaded.tenant)
        written = repository.records(self.thread_id, before.head.version)
        meanwhile = [record async for record in written if record.version <= now.head.version]
        hashes = self._unconfirmed.intersection(record.hash for record in meanwhile)
        ours = [each for each in staged if each.after.head.hash in hashes]
        left, durable = list(staged[len(ours) :]), ours[-1].after if ours else before
        events = [recorded for each in ours for recorded in each.chained.recorded]
        others = [decode(record) for record in meanwhile if record.version > durable.head.version]
        again: list[StagedReport] = left
        calls: Sequence[ModelCalled] = ()
        if now.head.hash != durable.head.hash:
            again, calls = decided_again(repository, now, durable, left, self.metadata, others)
            durable = now
        self._staged, self._durable = again, durable
        self._unconfirmed.clear()
        self.loaded = again[-1].after if again else now
        for called in calls:
            self.unreported.keep(called)
        if events:
            self._unsettled.append((before, ours[-1].after, events))
            self.services.broadcast.send(self.thread_id, events)
        if others:  # some may be from an earlier run of this turn whose append was cancelled
            self._unsettled.append((now, now, others))
        if self.turn and self.turn.cancelling:  # the wake-up that says so may have been lost
            self.stop()
        return {each.number: each.chained.recorded for each in ours}

    async def _settle(self) -> None:
        """Settle what stored model calls have cost, and record the budget thresholds that this has reached.

        If this is cancelled, the next report does the rest. Settling is idempotent.
        """
        while self._unsettled:
            before, after, stored = self._unsettled[0]
            reached: Sequence[BudgetThresholdReached] = ()
            try:
                reached = await self.spending.settle(stored)
            except Exception:  # noqa: BLE001  (the events are stored: nothing is done again because of this)
                _log.exception("The model calls in %s are settled later", self.thread_id)
            own = crossed(before.state, after.state, after.head.at, self.services.account.prices)
            self._thresholds += map(RecordThreshold, (*own, *reached))
            self._unsettled.popleft()
        if self._thresholds:
            await self._record_thresholds()

    async def _record_thresholds(self) -> None:
        thresholds = tuple(self._thresholds)
        request = CommandRequest(
            self.thread_id,
            lambda _: thresholds,
            self.metadata,
            self.loaded.tenant,
            known=self.loaded,
            fence=self.fence(self.thread_id),
        )
        recording = asyncio.ensure_future(execute(self.services.repository, request))
        try:
            result = await asyncio.shield(recording)
        except (StoreUnavailable, LeaseLost) as error:
            _log.warning("The budget threshold in %s is recorded with the next report: %s", self.thread_id, error)
            return
        except asyncio.CancelledError:  # the threshold is recorded nevertheless
            self._thresholds.clear()
            recording.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        self._thresholds.clear()
        self.loaded = result.loaded
        self.services.broadcast.send(self.thread_id, result.events)

    async def _wait_for_store(self, error: StoreUnavailable) -> None:
        """Wait before the next attempt at an unavailable store."""
        if not self._store_was_away:
            _log.warning("The turn of %s waits for the store: %s", self.thread_id, error)
        self._store_was_away = True
        with self.uncounted():
            await asyncio.sleep(STORE_RETRY_S)

    async def patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Read or reserve; retry while the store is unavailable. That time does not count against the deadline."""
        while True:
            with self.uncounted():
                try:
                    return await act()
                except StoreUnavailable as error:
                    self._check_open()
                    await self._wait_for_store(error)
