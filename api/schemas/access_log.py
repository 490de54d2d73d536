"""Who was shown what, as it is answered."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from domain.ports.access_log import Access


class AccessView(Struct, frozen=True):
    """Somebody was shown what threads hold."""

    at: datetime
    what: str
    request: str
    """The path with its parameters, or the command line; its beginning if it is long."""
    actor: str | None
    client: str | None
    correlation: str | None
    threads: Sequence[UUID]
    """Those that were shown; with a fork, also those that it left. None of an export, which is the whole log."""


def access_view(access: Access) -> AccessView:
    """Describe an access."""
    return AccessView(
        access.at, access.what, access.request, access.actor, access.client, access.correlation, access.threads
    )
