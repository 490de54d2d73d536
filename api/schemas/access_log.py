"""Answers about the access log."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct


class AccessView(Struct, frozen=True):
    """An access: a client was shown what is in threads."""

    at: datetime
    what: str
    request: str
    """The path with its query, or the command line; truncated if it is long."""
    actor: str | None
    client: str | None
    correlation: str | None
    principal: str | None
    """The verified caller; null without authentication."""
    threads: Sequence[UUID]
    """The threads that were shown; with a fork, also its ancestors. Empty for an export, which is of the whole log."""
