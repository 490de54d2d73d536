"""The caller of a command or a query."""

from dataclasses import dataclass

from domain.application.command_handler import ExpectedVersion
from domain.ids import DEFAULT_TENANT, Tenant


@dataclass(frozen=True)
class Caller:
    """Who calls, and under which conditions, by the headers or the command line.

    `principal` is the verified name, which an open server does not have. `actor` is the person whom the principal says
    to act for, or the principal itself.
    `key` is the idempotency key. With `seen`, the thread must be at that version; with `existing`, at any. `request` is
    the path with its query, or the command line: the access log has it.
    """

    tenant: Tenant = DEFAULT_TENANT
    key: str | None = None
    seen: ExpectedVersion | None = None
    existing: bool = False
    correlation: str | None = None
    principal: str | None = None
    actor: str | None = None
    client: str | None = None
    request: str = ""


def printable(text: str, most: int) -> str:
    """Keep the printable characters of a text, at most `most` of them."""
    return "".join(filter(str.isprintable, text))[:most]
