"""API keys and tenants on PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg
from msgspec.structs import asdict

from domain.errors import TenantExists, UnknownTenant
from domain.identity.api_keys import ApiKey
from domain.identity.tenants import TenantRecord
from domain.ids import Tenant
from domain.ports.identity import CHANGES_SPAN_S, Changes
from infrastructure.postgres.pool import connect
from infrastructure.postgres.retry import Store

# ruff: noqa: S608  (the lists of columns are made of the fields' names)
_KEY_COLUMNS = ", ".join(ApiKey.__struct_fields__)
_TENANT_COLUMNS = ", ".join(TenantRecord.__struct_fields__)

ADD_KEY = f"""
INSERT INTO api_keys ({_KEY_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (id) DO NOTHING
"""
"""The id is random, so a conflict is this statement's own first attempt, whose answer was lost."""

KEY = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE id = $1"

KEYS = f"""
SELECT {_KEY_COLUMNS} FROM api_keys WHERE tenant = $1 AND id > coalesce($2, '') ORDER BY id LIMIT $3
"""

END_KEY = f"""
UPDATE api_keys
   SET expires_at = least(expires_at, $2), revoked_at = least(revoked_at, $3), changed_at = now()
 WHERE id = $1
RETURNING {_KEY_COLUMNS}
"""

NOTE_USES = """
UPDATE api_keys AS key
   SET last_used_at = given.at
  FROM unnest($1::text[], $2::timestamptz[]) AS given (id, at)
 WHERE key.id = given.id AND (key.last_used_at IS NULL OR key.last_used_at < given.at)
"""

ADD_TENANT = f"INSERT INTO tenants ({_TENANT_COLUMNS}) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING name"

TENANT = f"SELECT {_TENANT_COLUMNS} FROM tenants WHERE name = $1"

TENANTS = f"SELECT {_TENANT_COLUMNS} FROM tenants WHERE name > coalesce($1, '') ORDER BY name LIMIT $2"

SUSPEND = f"""
UPDATE tenants
   SET suspended_at = CASE WHEN $2::timestamptz IS NOT NULL THEN coalesce(suspended_at, $2) END, changed_at = now()
 WHERE name = $1
RETURNING {_TENANT_COLUMNS}
"""

CHANGED_KEYS = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE changed_at > now() - $1::interval"
CHANGED_TENANTS = f"SELECT {_TENANT_COLUMNS} FROM tenants WHERE changed_at > now() - $1::interval"
CHANGED = """
SELECT EXISTS (SELECT FROM api_keys) AS has_keys,
       EXISTS (SELECT FROM api_keys WHERE changed_at > now() - $1::interval) AS keys,
       EXISTS (SELECT FROM tenants WHERE changed_at > now() - $1::interval) AS tenants
"""
"""Whether there is anything to read: each process asks several times a second, and nearly always there is nothing."""

HAS_KEYS = "SELECT EXISTS (SELECT FROM api_keys)"


class PostgresIdentityStore(Store):
    """An `IdentityStore` on a migrated database."""

    async def add_key(self, key: ApiKey) -> None:
        given = {**asdict(key), "scopes": list(key.scopes)}
        try:
            await self._fetch(ADD_KEY, *given.values(), expecting=(asyncpg.ForeignKeyViolationError,))
        except asyncpg.ForeignKeyViolationError as error:
            raise UnknownTenant(key.tenant) from error

    async def key(self, key_id: str) -> ApiKey | None:
        return next(map(_key, await self._fetch(KEY, key_id)), None)

    async def keys(self, tenant: Tenant, after: str | None, limit: int) -> Sequence[ApiKey]:
        return [_key(row) for row in await self._fetch(KEYS, tenant, after, limit)]

    async def end_key(self, key_id: str, *, expires_at: datetime | None, revoked_at: datetime | None) -> ApiKey | None:
        return next(map(_key, await self._fetch(END_KEY, key_id, expires_at, revoked_at)), None)

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        await self._fetch(NOTE_USES, list(uses), list(uses.values()))

    async def add_tenant(self, tenant: TenantRecord) -> None:
        given = (tenant.name, tenant.created_at, tenant.created_by, tenant.suspended_at)
        if not await self._fetch(ADD_TENANT, *given) and await self.tenant(tenant.name) != tenant:
            raise TenantExists(f"There is a tenant {tenant.name!r} already.")

    async def tenant(self, name: Tenant) -> TenantRecord | None:
        return next(map(_tenant, await self._fetch(TENANT, name)), None)

    async def tenants(self, after: Tenant | None, limit: int) -> Sequence[TenantRecord]:
        return [_tenant(row) for row in await self._fetch(TENANTS, after, limit)]

    async def suspend(self, name: Tenant, at: datetime | None) -> TenantRecord | None:
        return next(map(_tenant, await self._fetch(SUSPEND, name, at)), None)

    async def changes(self) -> Changes:
        span = timedelta(seconds=CHANGES_SPAN_S)
        ((has_keys, keys, tenants),) = await self._fetch(CHANGED, span)
        return Changes(
            [_key(row) for row in await self._fetch(CHANGED_KEYS, span)] if keys else (),
            [_tenant(row) for row in await self._fetch(CHANGED_TENANTS, span)] if tenants else (),
            has_keys,
        )


async def has_keys(url: str) -> bool:
    """Return whether the database at `url` has an API key, also a revoked one. Raises asyncpg's errors."""
    connection = await connect(url)
    try:
        found: bool = await connection.fetchval(HAS_KEYS)
        return found
    finally:
        await connection.close()


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(**{**row, "scopes": tuple(row["scopes"])})


def _tenant(row: asyncpg.Record) -> TenantRecord:
    return TenantRecord(**row)
