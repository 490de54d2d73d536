"""API keys and tenants in memory."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from domain.errors import TenantExists, UnknownTenant
from domain.identity.api_keys import ApiKey
from domain.identity.tenants import TenantRecord
from domain.ids import DEFAULT_TENANT, Tenant
from domain.ports.identity import CHANGES_SPAN_S, Changes


class MemoryIdentityStore:
    """An `IdentityStore` that ends with its process."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._keys: dict[str, ApiKey] = {}
        self._tenants = {DEFAULT_TENANT: TenantRecord(DEFAULT_TENANT, now())}
        self._changed: dict[object, datetime] = {}

    async def add_key(self, key: ApiKey) -> None:
        if key.tenant not in self._tenants:
            raise UnknownTenant(key.tenant)
        self._put_key(key)

    async def key(self, key_id: str) -> ApiKey | None:
        return self._keys.get(key_id)

    async def keys(self, tenant: Tenant, after: str | None, limit: int) -> Sequence[ApiKey]:
        ids = sorted(key.id for key in self._keys.values() if key.tenant == tenant and key.id > (after or ""))
        return [self._keys[key_id] for key_id in ids[:limit]]

    async def end_key(self, key_id: str, *, expires_at: datetime | None, revoked_at: datetime | None) -> ApiKey | None:
        key = self._keys.get(key_id)
        if key is None:
            return None
        ended = replace(
            key, expires_at=_earlier(key.expires_at, expires_at), revoked_at=_earlier(key.revoked_at, revoked_at)
        )
        self._put_key(ended)
        return ended

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        for key_id, at in uses.items():
            if key := self._keys.get(key_id):
                used = max(at, key.last_used_at or at)
                self._keys[key_id] = replace(key, last_used_at=used)

    async def add_tenant(self, tenant: TenantRecord) -> None:
        if tenant.name in self._tenants:
            raise TenantExists(f"There is a tenant {tenant.name!r} already.")
        self._put_tenant(tenant)

    async def tenant(self, name: Tenant) -> TenantRecord | None:
        return self._tenants.get(name)

    async def tenants(self, after: Tenant | None, limit: int) -> Sequence[TenantRecord]:
        names = sorted(name for name in self._tenants if name > (after or ""))
        return [self._tenants[name] for name in names[:limit]]

    async def suspend(self, name: Tenant, at: datetime | None) -> TenantRecord | None:
        tenant = self._tenants.get(name)
        if tenant is None:
            return None
        since = (tenant.suspended_at or at) if at else None
        self._put_tenant(replace(tenant, suspended_at=since))
        return self._tenants[name]

    async def changes(self) -> Changes:
        since = self._now() - timedelta(seconds=CHANGES_SPAN_S)
        keys = [key for key in self._keys.values() if self._changed[key.id] > since]
        tenants = [one for one in self._tenants.values() if self._changed.get((one.name,), since) > since]
        return Changes(keys, tenants, bool(self._keys))

    def _put_key(self, key: ApiKey) -> None:
        self._keys[key.id], self._changed[key.id] = key, self._now()

    def _put_tenant(self, tenant: TenantRecord) -> None:
        self._tenants[tenant.name], self._changed[tenant.name,] = tenant, self._now()


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min(one, other) if one and other else one or other
