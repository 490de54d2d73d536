"""The store of API keys and tenants."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.identity.api_keys import ApiKey
from domain.identity.tenants import TenantRecord
from domain.ids import Tenant

CHANGES_SPAN_S = 60
"""Seconds for which a change is reported: longer than a transaction of this store can take."""


class Changes(Struct, frozen=True):
    """Keys and tenants that were made or changed in the last `CHANGES_SPAN_S` seconds."""

    keys: Sequence[ApiKey]
    tenants: Sequence[TenantRecord]
    has_keys: bool
    """Whether a key was ever made, also a revoked one."""


class IdentityStore(Protocol):
    """API keys and tenants. Neither is ever removed, so the audit can always say whose a name was.

    All methods raise `StoreUnavailable`.
    """

    async def add_key(self, key: ApiKey) -> None:
        """Store a new key. Raises `UnknownTenant`."""

    async def key(self, key_id: str) -> ApiKey | None:
        """Return a key."""

    async def keys(self, tenant: Tenant, after: str | None, limit: int) -> Sequence[ApiKey]:
        """Return at most `limit` of a tenant's keys in the order of their ids, starting after an id."""

    async def end_key(self, key_id: str, *, expires_at: datetime | None, revoked_at: datetime | None) -> ApiKey | None:
        """Let a key expire, or revoke it. An earlier end that it has already stays. Return the key after that."""

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        """Store when keys were last used. An instant before the stored one is ignored."""

    async def add_tenant(self, tenant: TenantRecord) -> None:
        """Store a new tenant. Raises `TenantExists`."""

    async def tenant(self, name: Tenant) -> TenantRecord | None:
        """Return a tenant. `DEFAULT_TENANT` always exists."""

    async def tenants(self, after: Tenant | None, limit: int) -> Sequence[TenantRecord]:
        """Return at most `limit` tenants by name, starting after a name."""

    async def suspend(self, name: Tenant, at: datetime | None) -> TenantRecord | None:
        """Suspend a tenant, or let it go on (None). A tenant that is suspended stays so since then. Return it."""

    async def changes(self) -> Changes:
        """Return what has changed lately."""
