"""The ledger on PostgreSQL. Reserving, settling and setting limits are functions of the database: see migration 0012.

Group commit: a process reserves for all calls that wait in one statement, and so it settles. Otherwise the calls of a
busy tenant would wait for each other's commits, each with a connection of the pool.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from domain.ids import Shard, Tenant, shard_of, slice_of
from domain.ports.ledger import Amount, Granted, LimitUsage, Refused, Reservation, Scope, ScopeLimits
from domain.ports.log import Fence
from domain.thread.codec import to_json
from domain.thread.events import Limit
from domain.windows import WINDOWS, start_of
from infrastructure.postgres.batching import Groups
from infrastructure.postgres.retry import Store

MAX_GROUP_CALLS = 32
"""As many versions of a counter's row as fit on a page: its updates stay heap-only, and touch no index."""

MAX_WAITING_CALLS = 2_000
"""Calls that may wait to reserve, and to settle."""

SET = "SELECT set_budget_limits($1, $2, $3, $4, $5, $6, $7, $8, $9) AS done"

NOW = "SELECT clock_timestamp() AS now"

RESERVE = "SELECT number, granted, passing, refusing FROM reserve_spending($1) ORDER BY number"

SETTLE = "SELECT number, warning FROM settle_spending($1)"

LIMITS = """
SELECT tenant, agent, model, subject, limits, set_at, actor
  FROM (SELECT DISTINCT ON (subject, agent, model) tenant, agent, model, subject, limits, set_at, actor
          FROM budget_limits
         WHERE tenant = $1 AND ($2::text[] IS NULL OR subject = ANY ($2))
         ORDER BY subject, agent, model, number DESC) AS last
 WHERE limits <> '[]'
"""

HISTORY = """
SELECT tenant, agent, model, subject, limits, set_at, actor
  FROM budget_limits
 WHERE tenant = $1 AND ($3::text IS NULL OR subject = $3)
 ORDER BY number DESC
 LIMIT $2
"""

LIMIT_USAGE = f"""
SELECT last.subject, last.agent, last.model, allowed.value AS allowed, begun.start, counted.tokens, counted.cost,
       counted.reserved_tokens, counted.reserved_cost
  FROM ({LIMITS}) AS last
 CROSS JOIN LATERAL jsonb_array_elements(last.limits) AS allowed
  JOIN unnest($3::text[], $4::timestamptz[]) WITH ORDINALITY AS begun ("window", start, place)
    ON begun."window" = allowed.value ->> 'window'
  LEFT JOIN spending AS counted
    ON (counted.tenant, counted.subject, counted.agent, counted.model, counted."window", counted.start)
     = (last.tenant, last.subject, last.agent, last.model, begun."window", begun.start)
 ORDER BY last.agent COLLATE "C", last.model COLLATE "C", last.subject COLLATE "C", begun.place
"""  # noqa: S608  (a statement within a statement)

OPEN_RESERVATIONS = """
SELECT id, tenant, thread_id, agent, model, tokens, cost, at, shard, epoch, subject
  FROM reservations
 WHERE shard = ANY ($1)
"""

_read_limits = msgspec.json.Decoder(tuple[Limit, ...]).decode
_read_limit = msgspec.json.Decoder(Limit).decode
_read_usage = msgspec.json.Decoder(LimitUsage).decode


class PostgresLedger(Store):
    """A `Ledger` on a migrated database."""

    def __init__(self, pool: asyncpg.Pool, *, limit: int = MAX_WAITING_CALLS) -> None:
        """Use connections of a pool, which the caller closes. More than `limit` waiting calls raise `Overloaded`."""
        super().__init__(pool)
        self._reserving = Groups(self._reserve, "reservations", most=MAX_GROUP_CALLS, limit=limit)
        self._settling = Groups(self._settle, "settlements", most=MAX_GROUP_CALLS, limit=limit)

    async def now(self) -> datetime | None:
        found: datetime = (await self._fetch(NOW))[0]["now"]
        return found

    async def set_limits(
        self, given: ScopeLimits, spent: Mapping[str, Amount], expected: tuple[Limit, ...] | None = None
    ) -> bool:
        counted = {window: msgspec.structs.asdict(amount) for window, amount in spent.items()}
        seeds = [{"window": name, "start": start_of(name, given.set_at), **counted.get(name, {})} for name in WINDOWS]
        scope, limits = given.scope, _limits_json(given.limits)
        whose, before = (
            (scope.tenant, scope.subject, scope.agent, scope.model),
            None if expected is None else _limits_json(expected),
        )
        rows = await self._fetch(SET, *whose, limits, given.set_at, given.actor, to_json(seeds), before)
        return bool(rows[0]["done"])

    async def limits(self, tenant: Tenant, subjects: Collection[str] | None = None) -> Sequence[ScopeLimits]:
        chosen = None if subjects is None else list(subjects)
        found = [_scope_limits(row) for row in await self._fetch(LIMITS, tenant, chosen)]
        return sorted(found, key=lambda given: given.scope)

    async def history(self, tenant: Tenant, limit: int, subject: str | None = None) -> Sequence[ScopeLimits]:
        return [_scope_limits(row) for row in await self._fetch(HISTORY, tenant, limit, subject)]

    async def limit_usage(
        self, tenant: Tenant, at: datetime, scopes: Collection[Scope] | None = None
    ) -> Sequence[LimitUsage]:
        starts = [start_of(window, at) for window in WINDOWS]
        subjects = None if scopes is None else list({scope.subject for scope in scopes})
        rows = await self._fetch(LIMIT_USAGE, tenant, subjects, WINDOWS, starts)
        found = [_limit_usage(tenant, row) for row in rows]
        return [usage for usage in found if scopes is None or usage.scope in scopes]

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        row = await self._reserving.put(_reservation_json(reservation))
        if row["granted"]:
            return Granted()
        return Refused(_read_usage(row["refusing"]), row["passing"])

    async def settle(self, reservation: UUID, spent: Amount, *, quietly: bool = False) -> Sequence[LimitUsage]:
        asked = {"id": reservation, "tokens": spent.tokens, "cost": spent.cost, "quietly": quietly}
        return [_read_usage(usage) for usage in await self._settling.put(to_json(asked))]

    async def release(self, reservation: UUID) -> None:
        await self._settling.put(to_json({"id": reservation, "quietly": True}))

    async def open_reservations(self, shards: Sequence[Shard]) -> Sequence[Reservation]:
        return [_reservation(row) for row in await self._fetch(OPEN_RESERVATIONS, list(shards))]

    async def close(self) -> None:
        """Wait until everything is written or refused."""
        await self._reserving.close()
        await self._settling.close()

    async def _reserve(self, group: Sequence[str]) -> Sequence[asyncpg.Record]:
        return await self._fetch(RESERVE, _json_array(group))

    async def _settle(self, group: Sequence[str]) -> Sequence[Sequence[str]]:
        warning: list[list[str]] = [[] for _ in group]
        for row in await self._fetch(SETTLE, _json_array(group)):
            warning[row["number"] - 1].append(row["warning"])
        return warning


def _limits_json(limits: tuple[Limit, ...]) -> str:
    """Write limits with their defaults, which the SQL functions need."""
    return to_json([msgspec.structs.asdict(limit) for limit in limits])


def _json_array(group: Sequence[str]) -> str:
    return f"[{','.join(group)}]"


def _reservation_json(reservation: Reservation) -> str:
    """Write a reservation for RESERVE, with the start of each window that the call counts in."""
    call = {
        name: getattr(reservation, name) for name in ("id", "tenant", "thread_id", "subject", "agent", "model", "at")
    }
    shard, fence = shard_of(slice_of(reservation.thread_id)), reservation.fence
    starts = {window: start_of(window, reservation.window_at) for window in WINDOWS}
    lease = {"shard": shard, "epoch": fence.epoch if fence else None}
    return to_json({**call, **lease, **msgspec.structs.asdict(reservation.worst_case), "starts": starts})


def _reservation(row: asyncpg.Record) -> Reservation:
    id_, tenant, thread_id, agent, model, tokens, cost, at, shard, epoch, subject = row
    fence = None if epoch is None else Fence(shard, epoch)
    return Reservation(id_, tenant, thread_id, agent, model, Amount(tokens, cost), at, fence, subject=subject)


def _scope_limits(row: asyncpg.Record) -> ScopeLimits:
    *scope, limits, set_at, actor = row
    return ScopeLimits(Scope(*scope), _read_limits(limits), set_at, actor)


def _limit_usage(tenant: Tenant, row: asyncpg.Record) -> LimitUsage:
    subject, agent, model, limit, start, *amounts = row
    tokens, cost, reserved_tokens, reserved_cost = (amount or 0 for amount in amounts)
    spent, reserved = Amount(tokens, cost), Amount(reserved_tokens, reserved_cost)
    return LimitUsage(Scope(tenant, agent, model, subject), _read_limit(limit), start, spent, reserved)
