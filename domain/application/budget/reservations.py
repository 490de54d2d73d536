"""What this process's calls of models take of their tenants' limits; and what became of calls that nobody settles.

A call is `live` from before its reservation is made until that is settled: so whoever finds a reservation that is not
live here, in a shard that is this worker's, knows that its process or its lease is gone, and asks the log.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.application.budget.limits_cache import LimitsCache
from domain.application.thread_reader import ThreadReader
from domain.budget.accounts import is_limited
from domain.budget.prices import Prices
from domain.errors import CorruptLog, StoreUnavailable, UnknownThread
from domain.ids import Shard, Tenant, ThreadId, shard_of, slice_of
from domain.ports.ledger import Amount, Granted, Ledger, LimitUsage, Refused, Reservation
from domain.thread.events import ModelCalled

PAGE_EVENTS = 100
"""Events of a thread that are looked at first: a call that was left open is among the last ones."""

Outcome: TypeAlias = Amount | None
"""What a call has taken; None: nothing, and what was reserved comes back."""

_log = logging.getLogger(__name__)


Before: TypeAlias = Callable[[ThreadId], Awaitable[None]]


async def _nothing(_: ThreadId) -> None:
    """Wait for nothing."""


class Recovered(Struct, frozen=True):
    """How many calls that were left open had answered, and how many had not."""

    settled: int = 0
    released: int = 0


class Reservations:
    """Reserves and settles for the calls of this process, and looks after those of processes that are gone."""

    def __init__(self, ledger: Ledger, limits: LimitsCache, history: ThreadReader, prices: Prices) -> None:
        """Keep accounts in a ledger, and find in the threads' histories what calls have taken."""
        self.ledger = ledger
        self.limits = limits
        self._history = history
        self._prices = prices
        self._live: set[UUID] = set()
        self._unsettled: dict[UUID, Outcome] = {}

    async def limit_usage(self, tenant: Tenant) -> Sequence[LimitUsage]:
        """Return how a tenant's limits stand now, by the ledger's time."""
        return await self.ledger.limit_usage(tenant, await self.limits.now())

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        """Take the most that a call can take. Where nothing limits it, nobody is asked.

        Raises `StoreUnavailable`: then the call must not be made.
        """
        if not is_limited(await self.limits.of(reservation.tenant), reservation.agent, reservation.model):
            return Granted()
        self._live.add(reservation.id)
        try:
            answer = await self.ledger.reserve(reservation)
        except BaseException:
            self._unsettled[reservation.id] = None  # it may be taken nevertheless
            raise
        if isinstance(answer, Refused):
            self._live.discard(reservation.id)
        return answer

    async def settle(
        self, reservation: UUID, model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0
    ) -> Sequence[LimitUsage]:
        """Count what a call has taken; return the limits whose share `warn_at` is reached by that.

        While the ledger is away, it is remembered, and counted by the next `recover`.
        """
        return await self._end(reservation, self._taken(model, prompt_tokens, completion_tokens, cached_tokens))

    async def release(self, reservation: UUID) -> None:
        """Give back what was reserved: the call has taken nothing."""
        await self._end(reservation, None)

    def abandon(self, reservations: Iterable[UUID]) -> None:
        """Leave reservations whose turn does not run here any more to the next `recover`, of whichever worker."""
        self._live.difference_update(reservations)

    async def recover(
        self,
        held: Mapping[Shard, int],
        before: Before = _nothing,
        runs_elsewhere: Callable[[ThreadId], bool] = lambda _: False,
    ) -> Recovered:
        """End what was left open in shards that are this worker's, each under the epoch of its lease.

        `before` stores what workers that are gone had answered in a thread: what is not in the log took nothing. First,
        a thread is fenced, so that nothing comes into its log after that; one with an append under way has time.
        Threads that another process runs under this worker's leases, as `runs_elsewhere` says, are left alone.
        """
        for reservation, outcome in list(self._unsettled.items()):
            try:
                await self._try_to_end(reservation, outcome, quietly=True)
            except StoreUnavailable:
                raise
            except Exception:  # noqa: BLE001  (as below)
                _log.exception("The reservation %s cannot be settled, and stays as it is for now", reservation)
        found = [each for each in await self.ledger.open_reservations(list(held)) if self._is_left(each, held)]
        left = [each for each in found if not runs_elsewhere(each.thread_id)]
        ended: list[str] = []
        for each in left:
            try:
                await before(each.thread_id)
            except StoreUnavailable as error:  # such as where answers are held; the log and the ledger may be there
                _log.warning("A call in %s stays reserved for now: %s", each.thread_id, error)
                continue
            try:
                if self._is_left(each, held) and await self._is_fenced(each, held):
                    ended.append(await self._recover(each))
            except StoreUnavailable:
                raise
            except Exception:  # noqa: BLE001  (one that cannot be ended is no reason to leave the others)
                _log.exception("What a call in %s has reserved stays so for now", each.thread_id)
        return Recovered(ended.count("settled"), ended.count("released"))

    def _is_left(self, reservation: Reservation, held: Mapping[Shard, int]) -> bool:
        """Say whether who made a reservation is gone. Under a newer epoch, it is this worker who has lost the shard."""
        epoch = reservation.fence.epoch if reservation.fence else 0
        return reservation.id not in self._live and epoch <= held[shard_of(slice_of(reservation.thread_id))]

    async def _is_fenced(self, reservation: Reservation, held: Mapping[Shard, int]) -> bool:
        """Keep a former owner's appends out of a thread. No: one of them may be on its way."""
        thread_id = reservation.thread_id
        fenced = await self._history.store.fence_threads({thread_id: held[shard_of(slice_of(thread_id))]})
        return thread_id in fenced

    async def _recover(self, reservation: Reservation) -> str:
        try:
            called = await self._called(reservation)
        except CorruptLog:
            _log.exception("Nobody can say whether a call of %s was answered: it stays reserved", reservation.thread_id)
            return "left"
        if called is None:
            await self.ledger.release(reservation.id)
            return "released"
        taken = self._taken(called.model, called.prompt_tokens, called.completion_tokens, called.cached)
        await self.ledger.settle(reservation.id, taken, quietly=True)
        return "settled"

    async def _called(self, reservation: Reservation) -> ModelCalled | None:
        """Find the answer that a reservation was made for in its thread's log: none is older than the reservation."""
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

    async def _end(self, reservation: UUID, outcome: Outcome) -> Sequence[LimitUsage]:
        if reservation not in self._live:
            return ()
        try:
            return await self._try_to_end(reservation, outcome)
        except BaseException as error:
            self._unsettled[reservation] = outcome
            if not isinstance(error, StoreUnavailable):
                raise
            _log.warning("The reservation %s is settled later: %s", reservation, error)
            return ()

    async def _try_to_end(self, reservation: UUID, outcome: Outcome, *, quietly: bool = False) -> Sequence[LimitUsage]:
        warning: Sequence[LimitUsage] = ()
        if outcome is None:
            await self.ledger.release(reservation)
        else:
            warning = await self.ledger.settle(reservation, outcome, quietly=quietly)
        self._unsettled.pop(reservation, None)
        self._live.discard(reservation)
        return warning

    def _taken(self, model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Amount:
        cost = self._prices.cost(model, prompt_tokens, completion_tokens, cached_tokens)
        return Amount(prompt_tokens + completion_tokens, cost)
