"""Reading and checking headers and path parameters."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from domain.application.command_handler import ExpectedVersion
from domain.errors import InvalidInput
from domain.ids import MAX_VERSION, Version

CHECKPOINT = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{8})")
Instant = TypeVar("Instant", datetime, datetime | None)

KEY = re.compile(r"[\x21-\x7e]{1,255}")


def expected_version(checkpoint_ref: str | None, if_match: str | None) -> ExpectedVersion | None:
    """Read the checkpoint that the caller has seen, from the body or from `If-Match`."""
    header = None if if_match is None or if_match.strip() == "*" else if_match.strip()
    if header is not None:
        if len(header) < len('""') or header[0] != '"' or header[-1] != '"':
            raise InvalidInput("If-Match", 'must be one entity tag, such as "12-3fa9c1d2", with its quotes')
        header = header[1:-1]
    if header and checkpoint_ref and header != checkpoint_ref:
        raise InvalidInput("checkpoint_ref", "differs from If-Match; give one of them")
    text = checkpoint_ref if checkpoint_ref is not None else header
    if text is None:
        return None
    match = CHECKPOINT.fullmatch(text)
    if match is None:
        field = "If-Match" if checkpoint_ref is None else "checkpoint_ref"
        raise InvalidInput(field, "must be a checkpoint from an answer, such as 12-3fa9c1d2")
    return ExpectedVersion(Version(int(match[1])), match[2])


def visible(header: str | None, name: str) -> str | None:
    """Check a header that is stored: 1 to 255 visible ASCII characters."""
    if header is not None and not KEY.fullmatch(header):
        raise InvalidInput(name, "must be 1 to 255 visible ASCII characters")
    return header


def uuid_of(text: str, name: str) -> UUID:
    """Read an id of a path."""
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInput(name, "must be a UUID") from error


def number_of(text: str, name: str, highest: int = MAX_VERSION, lowest: int = 1, why: str | None = None) -> int:
    """Read a number of a path or header, in decimal."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(highest)) and lowest <= int(text) <= highest):
        raise InvalidInput(name, why or f"must be a number from {lowest} to {highest}")
    return int(text)


def in_utc(instant: Instant, field: str) -> Instant:
    """Check that an instant has a time zone, and convert it to UTC. Raises `InvalidInput`."""
    if instant is None:
        return None
    if instant.tzinfo is None:
        raise InvalidInput(field, "needs a time zone, such as 2026-11-23T10:00:00Z")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInput(field, "must be in the years 1 to 9999 in UTC") from error


def names_in(text: str, field: str, known: Sequence[str]) -> tuple[str, ...]:
    """Read names that are separated by commas. Raises `InvalidInput` for an unknown one."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not set(names) <= set(known):
        raise InvalidInput(field, f"expected some of {', '.join(known)}")
    return names


def range_of(
    since: datetime | None, until: datetime | None, begin: str = "from", end: str = "to"
) -> tuple[datetime | None, datetime | None]:
    """Convert both ends of a range to UTC, and check that it does not end before it begins. Raises `InvalidInput`.

    Two equal ends are an empty range: a client that reads in steps may ask for one.
    """
    first, last = in_utc(since, begin), in_utc(until, end)
    if first is not None and last is not None and last < first:
        raise InvalidInput(end, f"must not be before {begin}")
    return first, last
