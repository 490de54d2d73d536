"""A principal: a verified caller, with its tenant and its scopes."""

from collections.abc import Collection
from datetime import datetime

from msgspec import Struct

from domain.identity.scopes import SCOPES, Scope
from domain.ids import DEFAULT_TENANT, Tenant


class Principal(Struct, frozen=True):
    """A verified caller. Without a name it is unverified, since the server is open."""

    tenant: Tenant
    name: str | None
    scopes: Collection[Scope]
    key_id: str | None = None
    """The API key; None for a token of an OIDC issuer."""
    key_name: str | None = None
    expires_at: datetime | None = None
    """When its key or token ends, in UTC."""

    def may(self, scope: Scope) -> bool:
        """Return whether the principal has a scope."""
        return scope in self.scopes


OPEN = Principal(DEFAULT_TENANT, None, frozenset(SCOPES))
"""The caller of a server without authentication: it may do everything in the default tenant."""
