"""Reservations of this process's model calls in the ledger, and the recovery of those that a lost process left open.

A call is `live` from before its reservation is made until it is settled or released. So a worker that finds an open
reservation in its own shards that is not live here knows that the process or its lease is gone, and settles by the log.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from uuid import UUID

from msgspec import Struct

from domain.application.budget.limits_cache import LimitsCache
from domain.application.thread_reader import ThreadReader
from domain.budget.limits import is_limited, spent_by
from domain.budget.prices import Prices
from domain.errors import CorruptLog, StoreUnavailable, UnknownThread
from domain.ids import Shard, ThreadId, shard_of, slice_of
from domain.ports.ledger import Amount, Granted, Ledger, LimitUsage, Refused, Reservation
from domain.thread.events import ModelCalled

PAGE_EVENTS = 100
"""Events of a thread that are read at first: a call that was left open is among the last ones."""

_log = logging.getLogger(__name__)


async def _nothing(_: ThreadId) -> None:
    """Do nothing before a recovery."""


class Recovered(Struct, frozen=True):
    """How many of the calls that were left open had answered, and how many had not."""

    settled: int = 0
    released: int = 0


class Reservations:
    """Reserves and settles for the model calls of this process, and recovers what lost processes left open."""

    def __init__(self, ledger: Ledger, limits: LimitsCache, history: ThreadReader, prices: Prices) -> None:
        self.ledger = ledger
        self.limits = limits
        self._history = history
        self._prices = prices
        self._live: set[UUID] = set()
        self._unsettled: dict[UUID, Amount | None] = {}
        """What calls have taken whose settlement failed: `recover` tries again. None: the reservation is released."""

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        """Reserve the worst case of a call. The ledger is not asked where no limit counts the call.

        Raises:
            StoreUnavailable: the call must not be made.
        """
        limits = await self.limits.of(reservation.tenant, reservation.subject)
        if not is_limited(limits, reservation.agent, reservation.model, reservation.subject):
            return Granted()
        self._live.add(reservation.id)
        try:
            answer = await self.ledger.reserve(reservation)
        except BaseException:
            self._unsettled[reservation.id] = None  # the ledger may have it nevertheless
            raise
        if isinstance(answer, Refused):
            self._live.discard(reservation.id)
        return answer

    async def settle(self, reservation: UUID, spent: Amount | None) -> Sequence[LimitUsage]:
        """Count what a call has taken; return the limits whose warning threshold is reached by that.

        None gives back what was reserved. While the ledger is away, the settlement waits in memory for `recover`.
        """
        if reservation not in self._live:
            return ()
        try:
            return await self._settle(reservation, spent)
        except BaseException as error:
            self._unsettled[reservation] = spent
            if not isinstance(error, StoreUnavailable):
                raise
            _log.warning("Reservation %s is settled later: %s", reservation, error)
            return ()

    def abandon(self, reservations: Iterable[UUID]) -> None:
        """Leave reservations of a turn that runs here no longer to the next `recover`, of any worker."""
        self._live.difference_update(reservations)

    async def recover(
        self,
        held: Mapping[Shard, int],
        before: Callable[[ThreadId], Awaitable[None]] = _nothing,
        runs_elsewhere: Callable[[ThreadId], bool] = lambda _: False,
    ) -> Recovered:
        """End what lost processes left open in this worker's shards: `held` gives each with the epoch of its lease.

        First `before` stores what a lost worker had answered in a thread. Then the thread is fenced: no stale append
        comes into its log any more. A thread with an append under way is left for later. Then the log decides: a call
        without an answer in it took nothing.

        `runs_elsewhere` names the threads that other processes run under this worker's leases: they are left alone.

        Raises:
            StoreUnavailable: the ledger or the log is away; the next `recover` goes on.
        """
        for reservation, spent in list(self._unsettled.items()):
            try:
                await self._settle(reservation, spent, quietly=True)
            except StoreUnavailable:
                raise
            except Exception:  # noqa: BLE001  (one that cannot be settled must not keep the others open)
                _log.exception("Reservation %s cannot be settled and stays open for now", reservation)
        answered: list[bool] = []
        for each in await self.ledger.open_reservations(list(held)):
            if not self._is_left(each, held) or runs_elsewhere(each.thread_id):
                continue
            try:
                await before(each.thread_id)
            except StoreUnavailable as error:  # such as the store of staged answers; the log and the ledger may work
                _log.warning("A reservation in thread %s stays open for now: %s", each.thread_id, error)
                continue
            try:
                epochs = {each.thread_id: held[shard_of(slice_of(each.thread_id))]}
                # No former owner appends to a fenced thread. One that is not fenced may have an append under way.
                if self._is_left(each, held) and await self._history.store.fence_threads(epochs):
                    called = await self._called(each)
                    await self._settle(each.id, spent_by(called, self._prices) if called else None, quietly=True)
                    answered.append(called is not None)
            except StoreUnavailable:
                raise
            except CorruptLog:
                _log.exception("The log of thread %s is corrupt: its reservation stays open", each.thread_id)
            except Exception:  # noqa: BLE001  (one that cannot be settled must not keep the others open)
                _log.exception("A reservation in thread %s stays open for now", each.thread_id)
        return Recovered(answered.count(True), answered.count(False))

    def _is_left(self, reservation: Reservation, held: Mapping[Shard, int]) -> bool:
        """Say whether a reservation's process is gone. Under a newer epoch, it is this worker that lost the shard."""
        epoch = reservation.fence.epoch if reservation.fence else 0
        return reservation.id not in self._live and epoch <= held[shard_of(slice_of(reservation.thread_id))]

    async def _called(self, reservation: Reservation) -> ModelCalled | None:
        """Find the answer to a reservation's call in its thread's log: no answer is older than its reservation."""
        try:
            row = await self._history.row(reservation.thread_id, reservation.tenant)
        except UnknownThread:
            return None
        async for page in self._history.pages_back(row.thread_id, row.base, row.head.version, PAGE_EVENTS):
            for recorded in reversed(page):
                event = recorded.event
                if isinstance(event, ModelCalled) and event.reservation == reservation.id:
                    return event
            if page and page[0].recorded_at < reservation.at:
                return None
        return None

    async def _settle(self, reservation: UUID, spent: Amount | None, *, quietly: bool = False) -> Sequence[LimitUsage]:
        warned: Sequence[LimitUsage] = ()
        if spent is None:
            await self.ledger.release(reservation)
        else:
            warned = await self.ledger.settle(reservation, spent, quietly=quietly)
        self._unsettled.pop(reservation, None)
        self._live.discard(reservation)
        return warned
