"""The access log on PostgreSQL, with group commit: concurrent accesses share a statement and a commit."""

from collections.abc import Sequence

import asyncpg
from msgspec.structs import astuple

from domain.ids import Tenant
from domain.ports.access_log import Access, AccessCursor, AccessFilter, RecordedAccess
from infrastructure.postgres.batching import Groups
from infrastructure.postgres.retry import Store

MAX_GROUP_ACCESSES = 128
"""Accesses of a statement."""

MAX_WAITING_ACCESSES = 2_000
"""Accesses that may wait; more are refused, so that a slow database does not fill the memory."""

RECORD = """
INSERT INTO reads (at, tenant, what, request, threads, actor, client, correlation, principal)
SELECT at, tenant, what, request, threads::uuid[], actor, client, correlation, principal
  FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
              $9::text[])
       AS given (at, tenant, what, request, threads, actor, client, correlation, principal)
"""
"""Insert accesses. The threads of each are an array as text, since arrays in an array must have the same length."""

PAGE = """
SELECT id, at, tenant, what, request, threads, actor, client, correlation, principal
  FROM reads
 WHERE tenant = $1
   AND at >= coalesce($2::timestamptz, '-infinity')
   AND at < coalesce($3::timestamptz, 'infinity')
   AND (at, id) < (coalesce($4::timestamptz, 'infinity'), coalesce($5::bigint, 9223372036854775807))
   AND ($6::text IS NULL OR what = $6)
   AND ($7::text IS NULL OR actor = $7)
 ORDER BY at DESC, id DESC
 LIMIT $8
"""
"""A page of a tenant's accesses, the latest first."""

PAGE_OF_KIND = PAGE.replace("($6::text IS NULL OR what = $6)", "what = $6")
"""The same for one kind of access, so that rare kinds are found through their index."""

PAGE_OF_ACTOR = PAGE.replace("($7::text IS NULL OR actor = $7)", "actor = $7")
"""The same for one actor."""

PAGE_OF_THREAD = PAGE.replace(
    "FROM reads",
    """FROM (SELECT id, at, tenant, what, request, threads, actor, client, correlation, principal
          FROM reads
         WHERE threads @> ARRAY[$9::uuid]
        OFFSET 0) AS of_thread""",
)
"""The same for one thread. OFFSET keeps the outer conditions outside: with them, the planner would scan all accesses in
their order until it finds enough of this thread."""


class PostgresAccessLog(Store):
    """An `AccessLog` on a migrated database."""

    def __init__(self, pool: asyncpg.Pool, *, limit: int = MAX_WAITING_ACCESSES) -> None:
        """At most `limit` accesses wait to be written; more are refused."""
        super().__init__(pool)
        self._groups = Groups(self._write, "accesses", most=MAX_GROUP_ACCESSES, limit=limit)

    async def record(self, access: Access) -> None:
        await self._groups.put(access)

    async def page(
        self, tenant: Tenant, only: AccessFilter, before: AccessCursor | None, limit: int
    ) -> Sequence[RecordedAccess]:
        """List a page by the statement with the most selective index."""
        place = (before.at, before.number) if before else (None, None)
        given = (tenant, only.since, only.until, *place, only.what, only.actor, limit)
        if only.thread_id is not None:
            rows = await self._fetch(PAGE_OF_THREAD, *given, only.thread_id)
        elif only.actor is not None:
            rows = await self._fetch(PAGE_OF_ACTOR, *given)
        else:
            rows = await self._fetch(PAGE if only.what is None else PAGE_OF_KIND, *given)
        return [_recorded(row) for row in rows]

    async def close(self) -> None:
        await self._groups.close()

    async def _write(self, group: Sequence[Access]) -> Sequence[None]:
        *before, threads, actor, client, correlation, principal = map(list, zip(*map(astuple, group), strict=True))
        ids = [f"{{{','.join(map(str, of_access))}}}" for of_access in threads]
        await self._fetch(RECORD, *before, ids, actor, client, correlation, principal)
        return [None] * len(group)


def _recorded(row: asyncpg.Record) -> RecordedAccess:
    fields = {name: value for name, value in row.items() if name != "id"}
    return RecordedAccess(row["id"], Access(**{**fields, "threads": tuple(row["threads"])}))
