"""Creates, rotates and revokes keys; creates and suspends tenants.

A principal with `admin` manages the keys of its own tenant, and may give any scope but `operate`, which concerns the
whole instance: that takes a principal with `operate`. With both, it manages the keys of every tenant.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from domain.application.identity.authenticate import Clock
from domain.errors import Forbidden, InvalidInput, UnknownKey, UnknownTenant
from domain.identity.api_keys import ENTROPY_BYTES, ApiKey, digest_of, id_of, new_token, rotated
from domain.identity.principal import Principal
from domain.identity.scopes import Scope
from domain.identity.tenants import TenantRecord
from domain.ids import Tenant
from domain.ports.identity import IdentityStore

MAX_LIFETIME = timedelta(days=3_650)
"""How long a key may live."""

MAX_OVERLAP = timedelta(days=30)
"""How long a rotated key may stay valid after its successor was made."""


class NewKey(Struct, frozen=True):
    """A key that was made, and its text, which is not stored: it can be shown this once."""

    key: ApiKey
    token: str


class KeyRequest(Struct, frozen=True):
    """What a new key is to be."""

    name: str
    principal: str
    scopes: tuple[Scope, ...]
    tenant: Tenant
    expires_at: datetime | None = None


class KeyManager:
    """Manages keys and tenants on behalf of a principal. All methods raise `StoreUnavailable`."""

    def __init__(self, store: IdentityStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, asked: KeyRequest, by: Principal) -> NewKey:
        """Make a key. Raises `InvalidInput`, `Forbidden` and `UnknownTenant`."""
        _check_tenant(asked.tenant, by)
        if "operate" in asked.scopes and not by.may("operate"):
            raise Forbidden("Only a key with the scope operate may give it to another.", "scopes")
        now = self._clock.now()
        if asked.expires_at is not None and not now < asked.expires_at <= now + MAX_LIFETIME:
            raise InvalidInput("expires_at", f"must be in the future, at most {MAX_LIFETIME.days:,} days from now")
        token = new_token(secrets.token_bytes(ENTROPY_BYTES))
        key = ApiKey(
            id=id_of(token) or "",
            digest=digest_of(token),
            tenant=asked.tenant,
            principal=asked.principal,
            name=asked.name,
            scopes=asked.scopes,
            created_at=now,
            created_by=by.name,
            expires_at=asked.expires_at,
        )
        await self._store.add_key(key)
        return NewKey(key, token)

    async def keys(self, tenant: Tenant, by: Principal, after: str | None, limit: int) -> Sequence[ApiKey]:
        """List a tenant's keys. Raises `Forbidden`."""
        _check_tenant(tenant, by)
        return await self._store.keys(tenant, after, limit)

    async def rotate(self, key_id: str, overlap: timedelta, by: Principal) -> NewKey:
        """Make a successor of a key, which expires after the overlap. Raises `UnknownKey` and `InvalidInput`."""
        if not timedelta() <= overlap <= MAX_OVERLAP:
            raise InvalidInput("overlap_seconds", f"must be from 0 to {MAX_OVERLAP.total_seconds():.0f}")
        key, now = await self._key(key_id, by), self._clock.now()
        if (status := key.status(now)) != "active":
            raise InvalidInput("key_id", f"this key is {status}; create a new one")
        token = new_token(secrets.token_bytes(ENTROPY_BYTES))
        old, successor = rotated(key, token, now, by.name, overlap)
        await self._store.add_key(successor)  # first, so that a crash between the two leaves a valid key
        await self._store.end_key(key_id, expires_at=old.expires_at, revoked_at=None)
        return NewKey(successor, token)

    async def revoke(self, key_id: str, by: Principal) -> ApiKey:
        """Revoke a key at once. A revoked key stays so since the first time. Raises `UnknownKey`."""
        key = await self._key(key_id, by)
        ended = await self._store.end_key(key.id, expires_at=None, revoked_at=self._clock.now())
        if ended is None:
            raise UnknownKey(key_id)
        return ended

    async def create_tenant(self, name: Tenant, by: Principal) -> TenantRecord:
        """Make a tenant. Raises `TenantExists`."""
        tenant = TenantRecord(name, self._clock.now(), by.name)
        await self._store.add_tenant(tenant)
        return tenant

    async def tenants(self, after: Tenant | None, limit: int) -> Sequence[TenantRecord]:
        """List the tenants."""
        return await self._store.tenants(after, limit)

    async def suspend(self, name: Tenant, by: Principal) -> TenantRecord:
        """Refuse all keys and tokens of a tenant from now on. Raises `UnknownTenant` and `InvalidInput`."""
        if name == by.tenant:
            raise InvalidInput("tenant", "is your own: you could not resume it")
        return await self._suspend(name, self._clock.now())

    async def resume(self, name: Tenant) -> TenantRecord:
        """Let a suspended tenant go on. Raises `UnknownTenant`."""
        return await self._suspend(name, None)

    async def _suspend(self, name: Tenant, at: datetime | None) -> TenantRecord:
        tenant = await self._store.suspend(name, at)
        if tenant is None:
            raise UnknownTenant(name)
        return tenant

    async def _key(self, key_id: str, by: Principal) -> ApiKey:
        """Return a key. That of another tenant is unknown to an admin, and so is one with `operate`."""
        key = await self._store.key(key_id)
        if key is None or not (by.may("operate") or (key.tenant == by.tenant and "operate" not in key.scopes)):
            raise UnknownKey(key_id)
        return key


def _check_tenant(tenant: Tenant, by: Principal) -> None:
    if tenant != by.tenant and not by.may("operate"):
        raise Forbidden("Keys of another tenant take the scope operate.", "tenant")
