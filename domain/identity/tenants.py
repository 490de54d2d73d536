"""Tenants: customers of an instance who share nothing but its machines."""

import re
from datetime import datetime

from msgspec import Struct

from domain.errors import InvalidInput
from domain.ids import Tenant

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62})")


class TenantRecord(Struct, frozen=True):
    """A tenant that was created. Times are in UTC."""

    name: Tenant
    created_at: datetime
    created_by: str | None = None
    suspended_at: datetime | None = None
    """Since when all its keys and tokens are refused; None if it is active."""


def tenant_of(name: str, field: str = "tenant") -> Tenant:
    """Return a tenant by its name. Raises `InvalidInput`: the name has another form."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            field, "must be 1 to 63 lower-case letters, digits, dots, hyphens and underscores, such as acme"
        )
    return Tenant(name)
