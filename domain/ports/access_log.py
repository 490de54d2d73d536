"""The access log: which callers read what of which threads."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from domain.ids import Tenant, ThreadId

Read: TypeAlias = Literal[
    "list",
    "summary",
    "state",
    "messages",
    "context",
    "events",
    "diff",
    "stream",
    "approvals",
    "proof",
    "feed",
    "replay",
    "export",
]
"""What a caller read. An export reads the whole log and names no threads."""

Operation: TypeAlias = Literal[
    "import",
    "migrate",
    "seal",
    "verify",
    "rebuild",
    "rollback",
    "drop",
    "retry",
    "skip",
    "create_key",
    "rotate_key",
    "revoke_key",
    "create_tenant",
    "suspend_tenant",
    "resume_tenant",
]
"""What an operator did."""

What: TypeAlias = Literal[Read, Operation]


class Access(Struct, frozen=True):
    """A caller read data of threads, or operated the log or its read models."""

    at: datetime
    """In UTC, before the data was returned or anything was done."""
    tenant: Tenant
    what: What
    request: str
    """The exact request: a path with its parameters, or a command line. For an operation over HTTP also its body's."""
    threads: tuple[ThreadId, ...]
    actor: str | None = None
    """The person whom the caller says to act for; without one, the principal."""
    client: str | None = None
    """The name that the caller's program gives itself."""
    correlation: str | None = None
    principal: str | None = None
    """The verified caller; None without authentication."""


class RecordedAccess(Struct, frozen=True):
    """An access with its number, which distinguishes accesses of the same instant."""

    number: int
    access: Access


class AccessFilter(Struct, frozen=True):
    """Which accesses to list. `since` is inclusive, `until` exclusive."""

    thread_id: ThreadId | None = None
    actor: str | None = None
    what: What | None = None
    since: datetime | None = None
    until: datetime | None = None


class AccessCursor(Struct, frozen=True):
    """The last access of a page."""

    at: datetime
    number: int


class AccessLog(Protocol):
    """The accesses of callers. They are only added, never changed or removed."""

    async def record(self, access: Access) -> None:
        """Store an access, and return when it is durable. If the connection breaks meanwhile, it may be stored twice.

        Raises:
            StoreUnavailable: it may not have been stored, so the data may not be returned.
            Overloaded: too many accesses are waiting already.
        """

    async def page(
        self, tenant: Tenant, only: AccessFilter, before: AccessCursor | None, limit: int
    ) -> Sequence[RecordedAccess]:
        """Return at most `limit` of a tenant's accesses, the newest first, starting after the cursor."""
