"""The service of keys and tenants."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, TypeVar

from msgspec import Meta

from api.http.caller import Caller
from api.http.cursors import decode_place, encode_cursor
from api.runtime.composition import Runtime
from api.schemas.identity import CreatedKey, CreateKey, KeyView, TenantView, created_key, key_view
from api.schemas.page import Page
from api.schemas.view import view_of
from api.services.access_log import AccessLogService
from domain.application.identity.manage import KeyManager, KeyRequest
from domain.errors import UnknownKey
from domain.identity.principal import Principal
from domain.identity.scopes import scopes_of
from domain.identity.tenants import tenant_of
from domain.ids import Tenant

T = TypeVar("T")
_Id = Annotated[str, Meta(max_length=100)]


class IdentityService:
    """Manages keys and tenants on behalf of a principal. What is changed is recorded before, as other operations are.

    `caller` is how the record names the principal, with its request.
    """

    def __init__(self, runtime: Runtime, access_log: AccessLogService) -> None:
        self._record = access_log.record_operation
        self._clock = runtime.clock
        self._manager = KeyManager(runtime.log.identity, runtime.clock)

    async def create_key(self, asked: CreateKey, by: Principal, caller: Caller) -> CreatedKey:
        """Make a key. Raises `InvalidInput`, `Forbidden` and `UnknownTenant`."""
        tenant = tenant_of(asked.tenant) if asked.tenant is not None else by.tenant
        await self._record(caller, "create_key", name=asked.name, tenant=tenant, scopes=",".join(asked.scopes))
        request = KeyRequest(
            asked.name, asked.principal or asked.name, scopes_of(asked.scopes), tenant, asked.expires_at
        )
        return created_key(await self._manager.create(request, by), self._clock.now())

    async def keys(self, tenant: str | None, by: Principal, cursor: str | None, limit: int) -> Page[KeyView]:
        """List the keys of the principal's tenant or of another one. Raises `InvalidInput` and `Forbidden`."""
        of_tenant = tenant_of(tenant) if tenant is not None else by.tenant
        of = ("keys", of_tenant)
        (after,) = decode_place(cursor, tuple[_Id], of) or (None,)
        found = await self._manager.keys(of_tenant, by, after, limit + 1)
        now = self._clock.now()
        return _page([(key.id, key_view(key, now)) for key in found], limit, of)

    async def rotate_key(self, key_id: str, overlap_seconds: int, by: Principal, caller: Caller) -> CreatedKey:
        """Make a successor of a key. Raises `UnknownKey` and `InvalidInput`."""
        await self._record(caller, "rotate_key")
        made = await self._manager.rotate(_checked(key_id), timedelta(seconds=overlap_seconds), by)
        return created_key(made, self._clock.now())

    async def revoke_key(self, key_id: str, by: Principal, caller: Caller) -> KeyView:
        """Revoke a key. Raises `UnknownKey`."""
        await self._record(caller, "revoke_key")
        key = await self._manager.revoke(_checked(key_id), by)
        return key_view(key, max(self._clock.now(), key.revoked_at or self._clock.now()))

    async def create_tenant(self, name: str, by: Principal, caller: Caller) -> TenantView:
        """Make a tenant. Raises `InvalidInput` and `TenantExists`."""
        await self._record(caller, "create_tenant", name=name)
        return view_of(TenantView, await self._manager.create_tenant(tenant_of(name, "name"), by))

    async def tenants(self, cursor: str | None, limit: int) -> Page[TenantView]:
        """List the tenants. Raises `InvalidInput`."""
        of = ("tenants",)
        (after,) = decode_place(cursor, tuple[_Id], of) or (None,)
        found = await self._manager.tenants(Tenant(after) if after else None, limit + 1)
        return _page([(tenant.name, view_of(TenantView, tenant)) for tenant in found], limit, of)

    async def suspend_tenant(self, name: str, by: Principal, caller: Caller) -> TenantView:
        """Suspend a tenant. Raises `InvalidInput` and `UnknownTenant`."""
        await self._record(caller, "suspend_tenant")
        return view_of(TenantView, await self._manager.suspend(tenant_of(name), by))

    async def resume_tenant(self, name: str, caller: Caller) -> TenantView:
        """Let a tenant go on. Raises `InvalidInput` and `UnknownTenant`."""
        await self._record(caller, "resume_tenant")
        return view_of(TenantView, await self._manager.resume(tenant_of(name)))


def _checked(key_id: str) -> str:
    if not key_id.isascii() or not key_id.isalnum():
        raise UnknownKey(key_id)
    return key_id


def _page(found: Sequence[tuple[str, T]], limit: int, of: object) -> Page[T]:
    following = encode_cursor((found[limit - 1][0],), of) if len(found) > limit else None
    return Page([view for _, view in found[:limit]], following)
