"""Where it is kept who was shown what of which threads."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from domain.ids import Tenant, ThreadId

What: TypeAlias = Literal[
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
"""What somebody was shown. An export is the whole log, and names no threads."""


class Access(Struct, frozen=True):
    """Somebody was shown what threads hold."""

    at: datetime
    """In UTC, before it was shown."""
    tenant: Tenant
    what: What
    request: str
    """What was asked, word by word: a path with its parameters, or a command line."""
    threads: tuple[ThreadId, ...]
    actor: str | None = None
    """Who it was, as far as anybody said."""
    client: str | None = None
    """The program that was used, as it names itself."""
    correlation: str | None = None


class RecordedAccess(Struct, frozen=True):
    """An access with its number, which tells it from others of the same instant."""

    number: int
    access: Access


class AccessFilter(Struct, frozen=True):
    """Which accesses to list: `since` an instant, and before another one (`until`)."""

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
    """Who was shown what. Accesses are added, never changed or removed."""

    async def record(self, access: Access) -> None:
        """Keep an access, and return once it is durable. If the connection breaks meanwhile, it may be kept twice.

        Raises:
            StoreUnavailable: it may not have been kept, so nothing may be shown.
            Overloaded: too many accesses wait already.
        """

    async def page(
        self, tenant: Tenant, only: AccessFilter, before: AccessCursor | None, limit: int
    ) -> Sequence[RecordedAccess]:
        """Return at most `limit` of a tenant's accesses, the last one first, before the cursor's."""
