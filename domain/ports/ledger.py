"""The ledger: limits of tenants and subjects, and what is spent and reserved of each. It is exact across processes.

A model call reserves its worst case before it is made, and settles what it took afterwards. What is spent and reserved
together never passes a limit.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol, Self, cast
from uuid import UUID

from msgspec import Struct

from domain.ids import Shard, Tenant, ThreadId
from domain.ports.log import Fence
from domain.thread.events import Limit
from domain.windows import Window


class Scope(Struct, frozen=True, order=True):
    """The calls that a limit counts: all of a tenant's, or only those of one agent, of one model, about one subject.

    The subject is the customer that a thread is about. A scope with several of them has the calls that fit all.
    """

    tenant: Tenant
    agent: str = ""
    model: str = ""
    subject: str = ""

    def counts(self, agent: str, *models: str, subject: str) -> bool:
        """Say whether the scope includes calls of the tenant's agent about a subject, with one of some models."""
        return self.subject in {"", subject} and self.agent in {"", agent} and self.model in {"", *models}


class Amount(Struct, frozen=True):
    """Tokens of prompts and completions together, and money in the units of `domain.money`."""

    tokens: int = 0
    cost: int = 0

    def __add__(self, other: Self) -> "Amount":
        """Add tokens and money."""
        return Amount(self.tokens + other.tokens, self.cost + other.cost)

    def __sub__(self, other: Self) -> "Amount":
        """Subtract tokens and money."""
        return Amount(self.tokens - other.tokens, self.cost - other.cost)


NOTHING = Amount()


class ScopeLimits(Struct, frozen=True):
    """The limits of a scope as they were set. Without limits: they were lifted."""

    scope: Scope
    limits: tuple[Limit, ...]
    set_at: datetime
    actor: str | None = None


class Reservation(Struct, frozen=True):
    """The worst case of a model call. `fence` is the lease that the call runs under.

    `at` is the time of the calling process, as in the thread's events. `counted_at` is the ledger's time, which all
    processes share: the call counts in the windows that it lies in. Without it, `at` decides.
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
    subject: str = ""

    @property
    def window_at(self) -> datetime:
        """The instant whose windows the call counts in."""
        return self.counted_at or self.at


class LimitUsage(Struct, frozen=True):
    """How a limit stands in the window that began at `start`. Without a `scope`, it is a thread's own limit."""

    scope: Scope | None
    limit: Limit
    start: datetime
    spent: Amount = NOTHING
    reserved: Amount = NOTHING

    @property
    def window(self) -> Window:
        """The limit's window. A limit for each turn has none."""
        return cast(Window, self.limit.window)


class Granted(Struct, frozen=True):
    """The reservation is made, or no limit counts the call."""


class Refused(Struct, frozen=True):
    """Too little is left of a limit. `temporary`: enough would be left if all other reservations were released.

    `usage` is the refusing limit that the caller has to wait for the longest: one that refuses for good comes before
    one that refuses for now, and a longer window before a shorter one.
    """

    usage: LimitUsage
    temporary: bool


class Ledger(Protocol):
    """Limits of tenants and of subjects, and what is spent and reserved of each.

    Limits for each turn are stored with the others, but the ledger counts nothing for them. A reservation outlives
    changes of the limits, and can be settled after them. Everything is durable once a method returns.
    """

    async def now(self) -> datetime | None:
        """Return the ledger's time, which decides for all processes in which windows a call counts.

        None: the ledger has no clock, and the caller's decides.
        """

    async def set_limits(
        self, given: ScopeLimits, spent: Mapping[str, Amount], expected: tuple[Limit, ...] | None = None
    ) -> bool:
        """Replace the limits of a scope; without limits, lift them. Setting the same limits again changes nothing.

        `spent` is what was spent before, by window (`hour`, `day`, `month`, `lifetime`) that `given.set_at` lies in. It
        seeds the windows that no limit counts yet. A window that a lifted limit had counted keeps its count if that is
        higher, or if `spent` lacks the window.

        `expected` are the limits that `spent` was computed for (optimistic concurrency): if the scope has others by
        now, nothing changes and the result is False.
        """

    async def limits(self, tenant: Tenant, subjects: Collection[str] | None = None) -> Sequence[ScopeLimits]:
        """Return a tenant's limits, ordered by scope.

        `subjects` chooses the limits of some subjects, where `""` stands for those that count calls about any.
        """

    async def history(self, tenant: Tenant, limit: int, subject: str | None = None) -> Sequence[ScopeLimits]:
        """Return what was set and lifted, of all limits or of one subject's, newest first."""

    async def limit_usage(
        self, tenant: Tenant, at: datetime, scopes: Collection[Scope] | None = None
    ) -> Sequence[LimitUsage]:
        """Return how each limit stands, or each of some scopes, ordered by scope and window.

        `at` is not in the past: the ledger drops windows that ended.
        """

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        """Reserve the worst case of a call from every limit that counts it; or from none, if one has too little left.

        Idempotent by the reservation's id.
        """

    async def settle(self, reservation: UUID, spent: Amount, *, quietly: bool = False) -> Sequence[LimitUsage]:
        """Turn what was reserved into what was spent, once. An unknown or settled reservation changes nothing.

        Returns the limits whose warning threshold is reached by that, each once in a window. A caller that cannot
        report them settles `quietly`, and leaves the report to the next settlement.
        """

    async def release(self, reservation: UUID) -> None:
        """Give back what was reserved: the call has taken nothing."""

    async def open_reservations(self, shards: Sequence[Shard]) -> Sequence[Reservation]:
        """Return the reservations in these shards that are neither settled nor released, under any epoch."""
