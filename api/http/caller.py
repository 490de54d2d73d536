"""Who asks for something, and how."""

from dataclasses import dataclass

from domain.application.command_handler import ExpectedVersion
from domain.ids import DEFAULT_TENANT, Tenant


@dataclass(frozen=True)
class Caller:
    """Who asks, and how: what the headers say, or the command line.

    `existing`: only if the thread exists, at whatever checkpoint. `request`: what was asked, word by word.
    """

    tenant: Tenant = DEFAULT_TENANT
    key: str | None = None
    seen: ExpectedVersion | None = None
    existing: bool = False
    correlation: str | None = None
    actor: str | None = None
    client: str | None = None
    request: str = ""


def printable(text: str, most: int) -> str:
    """Take of what a caller says about itself what can be stored and shown, at most so many characters."""
    return "".join(filter(str.isprintable, text))[:most]
