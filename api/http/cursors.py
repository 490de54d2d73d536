"""Cursors: where a page of a list ended, as a text that is opaque to the caller and bound to its list."""

import base64
import hashlib
import re
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec

from api.http.params import in_utc
from domain.errors import InvalidInput

T = TypeVar("T")
Zoned = Annotated[datetime, msgspec.Meta(tz=True)]

_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")

LIST_DIGEST_CHARACTERS = 12
"""Characters of the digest that binds a cursor to its list."""


def encode_cursor(value: Any, of: object) -> str:
    """Write where a page of a list ended; opaque to the caller. `of` identifies the list: see `list_digest`."""
    return to_base64(msgspec.json.encode((list_digest(of), value)))


def decode_cursor(text: str, kind: type[T], of: object) -> T:
    """Read a cursor that `encode_cursor` wrote for the same list. Raises `InvalidInput`."""
    try:
        digest, value = msgspec.json.decode(from_base64(text), type=tuple[str, msgspec.Raw])
        found = msgspec.json.decode(value, type=kind)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise no_page() from error
    if digest != list_digest(of):
        raise no_page()
    return found


def decode_place(cursor: str | None, kind: Any, of: object) -> Any:
    """Read a cursor that may be absent and holds a tuple; its instants are converted to UTC. Raises `InvalidInput`."""
    if cursor is None:
        return None
    values = decode_cursor(cursor, kind, of)
    return tuple(in_utc(value, "cursor") if isinstance(value, datetime) else value for value in values)


def list_digest(of: object) -> str:
    """Digest what identifies a list: its kind, thread, filters and order, but not its limit.

    A cursor carries the digest. Without it, a cursor of another thread or with other filters would be accepted, and the
    caller would miss items or get some twice.
    """
    return hashlib.sha256(msgspec.json.encode(of, order="sorted")).hexdigest()[:LIST_DIGEST_CHARACTERS]


def to_base64(raw: bytes) -> str:
    """Write bytes in URL-safe Base64, without padding."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def from_base64(text: str) -> bytes:
    """Read what `to_base64` wrote. Raises `ValueError`."""
    if not _ALPHABET.fullmatch(text):
        raise ValueError(text[:10])
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def no_page() -> InvalidInput:
    """Return the error for a cursor that is of another list, or no cursor."""
    return InvalidInput("cursor", "must be the next_cursor of a page of this list, with the same parameters")
