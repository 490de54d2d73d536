"""What tenants may spend, and what their calls of models have taken of it: exact, across all processes.

A call reserves the most that it can take, and settles what it took. A limit is never passed by what is settled and
what is reserved together.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from domain.ids import Shard, Tenant, ThreadId
from domain.ports.log import Fence
from domain.thread.events import Limit


class Scope(Struct, frozen=True, order=True):
    """Whose calls a limit counts: all of a tenant's, or only those of one agent, of one model, or of both."""

    tenant: Tenant
    agent: str = ""
    model: str = ""


class Amount(Struct, frozen=True):
    """Tokens of prompts and answers, and money in the units of `domain.budget.prices`."""

    tokens: int = 0
    cost: int = 0


class ScopeLimits(Struct, frozen=True):
    """The limits of a scope, as somebody set them. None: they were lifted."""

    scope: Scope
    limits: tuple[Limit, ...]
    set_at: datetime
    actor: str | None = None


class Reservation(Struct, frozen=True):
    """The most that a call can take. `fence` is the lease that it runs under.

    `at` is the time of the process that calls, as in the thread's events. `counted_at` names the windows that the call
    counts in: the ledger's time, which all processes share; without it, `at` does.
    """

    id: UUID
    tenant: Tenant
    thread_id: ThreadId
    agent: str
    model: str
    worst_case: Amount
    at: datetime
    fence: Fence | None = None
    counted_at: datetime | None = None

    @property
    def window_at(self) -> datetime:
        """The instant that lies in the windows which the call counts in."""
        return self.counted_at or self.at


class LimitUsage(Struct, frozen=True):
    """How a limit stands in the window that began at `start`."""

    scope: Scope
    limit: Limit
    start: datetime
    spent: Amount = Amount()
    reserved: Amount = Amount()


class Granted(Struct, frozen=True):
    """The reservation holds. `strained`: it reaches into what is left after the share `warn_at` of some limit."""

    strained: bool = False


class Refused(Struct, frozen=True):
    """There is not enough left of a limit. `temporary`: there would be, if what others reserved came back unused.

    Of several such limits, `usage` is one that would still have too little, and of these the one that ends last.
    """

    usage: LimitUsage
    temporary: bool


class Ledger(Protocol):
    """Limits of tenants, and what is spent and reserved of each.

    Limits for turns are kept with the others; nothing is counted for them here. What was reserved stays so, and is
    settled, whatever becomes of the limits meanwhile. Everything is durable once a method returns.
    """

    async def now(self) -> datetime | None:
        """Return the ledger's time, which names the windows for all processes. None: its callers' clock is its own."""

    async def set_limits(
        self,
        scope: Scope,
        limits: tuple[Limit, ...],
        at: datetime,
        actor: str | None,
        spent: Mapping[str, Amount],
        expected: tuple[Limit, ...] | None = None,
    ) -> bool:
        """Limit a scope from now on, instead of what limited it before. Without limits, they are lifted.

        `spent` says what was spent before in windows (`hour`, `day`, `month`, `lifetime`) that `at` lies in. It counts
        where no limit counts until now; but what a limit had counted in the same window before it was lifted is never
        made less. Where `spent` has no figure, that goes on. To set what is set changes nothing.

        `expected` are the limits that `spent` was added up for: False, with nothing changed, if others hold by now.
        """

    async def limits(self, tenant: Tenant) -> Sequence[ScopeLimits]:
        """Return the limits that hold, by scope."""

    async def history(self, tenant: Tenant, limit: int) -> Sequence[ScopeLimits]:
        """Return what was set and lifted, the last first."""

    async def limit_usage(self, tenant: Tenant, at: datetime) -> Sequence[LimitUsage]:
        """Return how each limit stands at an instant of now or later: in windows before, nothing is kept."""

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        """Take the most that a call can take, from every limit that counts it; or from none, if one has too little.

        The same id a second time changes nothing.
        """

    async def settle(self, reservation: UUID, spent: Amount, *, quietly: bool = False) -> Sequence[LimitUsage]:
        """Turn what was reserved into what was spent, once; nothing where there is no such reservation any more.

        Returns the limits whose share `warn_at` is reached by that, each once in a window. Who cannot tell it to
        anybody settles `quietly`, and leaves it to the next one.
        """

    async def release(self, reservation: UUID) -> None:
        """Give back what was reserved: the call has taken nothing."""

    async def open_reservations(self, shards: Sequence[Shard]) -> Sequence[Reservation]:
        """Return what is reserved for calls under leases of these shards, whichever epoch: for whoever has them now."""
