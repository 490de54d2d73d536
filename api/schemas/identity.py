"""Bodies and answers about keys, tenants and the caller."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from msgspec import Struct
from pydantic import AwareDatetime, Field

from api.schemas.requests import Body
from api.schemas.view import view_of
from domain.application.identity.manage import MAX_OVERLAP, NewKey
from domain.identity.api_keys import ApiKey
from domain.identity.scopes import SCOPES, Scope

MAX_NAME_CHARACTERS = 100

_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS, pattern=r"^[^\x00-\x1f\x7f]+$")]


class CreateKey(Body):
    """Make an API key."""

    name: Annotated[_Name, Field(description="What the key is for.")]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES), description="What it may do.")]
    principal: Annotated[
        _Name | None, Field(description="The name under which its requests are recorded. Default: the key's name.")
    ] = None
    tenant: Annotated[
        str | None, Field(max_length=63, description="Its tenant. Default: the caller's. Another one takes operate.")
    ] = None
    expires_at: Annotated[AwareDatetime | None, Field(description="When it ends. Default: never.")] = None


class RotateKey(Body):
    """Make a successor of a key."""

    overlap_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=int(MAX_OVERLAP.total_seconds()),
            description="Seconds for which the old key stays valid.",
        ),
    ] = 86_400


class CreateTenant(Body):
    """Make a tenant."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]


class KeyView(Struct, frozen=True):
    """An API key without its secret."""

    id: str
    name: str
    tenant: str
    principal: str
    scopes: Sequence[str]
    status: Literal["active", "expired", "revoked"]
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    replaces: str | None
    """The id of the key that it was rotated from."""


class CreatedKey(Struct, frozen=True):
    """A new key. `token` is shown this once: only its digest is stored."""

    token: str
    key: KeyView


class TenantView(Struct, frozen=True):
    """A tenant. While it is suspended, its keys and tokens are refused."""

    name: str
    created_at: datetime
    created_by: str | None
    suspended_at: datetime | None


class Me(Struct, frozen=True):
    """The caller, as the server knows it."""

    tenant: str
    principal: str | None
    """Null if the server is open: then no caller is verified."""
    scopes: Sequence[str]
    key_id: str | None
    key_name: str | None
    expires_at: datetime | None
    authentication: Literal["required", "open"]


def key_view(key: ApiKey, now: datetime) -> KeyView:
    """Show a key as it is at an instant."""
    return view_of(KeyView, key, status=key.status(now))


def created_key(made: NewKey, now: datetime) -> CreatedKey:
    """Show a key that was just made."""
    return CreatedKey(made.token, key_view(made.key, now))
