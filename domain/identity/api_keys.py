"""API keys: their form, what is stored of them, and how long they are valid.

A key is `tf_live_<id>_<secret>_<crc>`: the prefix lets secret scanners find it, the id finds its row, and the checksum
(CRC-32 of what is before it, in base 62) lets scanners and servers drop a mistyped key without a look-up. The secret
has 184 random bits, so a plain SHA-256 of the key is safe to store: there is no dictionary to try.
"""

import hashlib
import hmac
import re
import zlib
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.identity.scopes import Scope
from domain.ids import Tenant

PREFIX = "tf_live"

ID_BYTES = 8
SECRET_BYTES = 23
ENTROPY_BYTES = ID_BYTES + SECRET_BYTES
"""Random bytes that a new key takes."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_DIGITS, _SECRET_DIGITS, _CRC_DIGITS = 11, 31, 6  # enough for 8, 23 and 4 bytes
_TOKEN = re.compile(
    f"{PREFIX}_([0-9A-Za-z]{{{_ID_DIGITS}}})_[0-9A-Za-z]{{{_SECRET_DIGITS}}}_[0-9A-Za-z]{{{_CRC_DIGITS}}}", re.ASCII
)

KeyStatus: TypeAlias = Literal["active", "expired", "revoked"]


class ApiKey(Struct, frozen=True):
    """What is stored of a key: everything but its secret. Times are in UTC."""

    id: str
    digest: bytes
    """SHA-256 of the whole key."""
    tenant: Tenant
    principal: str
    """The name under which the key's requests are recorded."""
    name: str
    """What the key is for, in its owner's words."""
    scopes: tuple[Scope, ...]
    created_at: datetime
    created_by: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    """To the minute: it is written at most once a minute."""
    replaces: str | None = None
    """The id of the key that this one was rotated from."""

    def status(self, at: datetime) -> KeyStatus:
        """Return the status at an instant."""
        if self.revoked_at is not None and self.revoked_at <= at:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= at else "active"

    def is_of(self, token: str) -> bool:
        """Return whether a token is this key. The comparison takes the same time for every token."""
        return hmac.compare_digest(digest_of(token), self.digest)


def new_token(entropy: bytes) -> str:
    """Write a new key. `entropy` are `ENTROPY_BYTES` random bytes."""
    key_id = _base62(entropy[:ID_BYTES], _ID_DIGITS)
    body = f"{PREFIX}_{key_id}_{_base62(entropy[ID_BYTES:ENTROPY_BYTES], _SECRET_DIGITS)}"
    return f"{body}_{_checksum(body)}"


def id_of(token: str) -> str | None:
    """Return the id of a key; None if the text is not in the form of a key, or its checksum is wrong."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    body, _, checksum = token.rpartition("_")
    return match[1] if checksum == _checksum(body) else None


def digest_of(token: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(token.encode()).digest()


def rotated(key: ApiKey, token: str, at: datetime, by: str | None, overlap: timedelta) -> tuple[ApiKey, ApiKey]:
    """Return the old key, which expires after the overlap unless it does so earlier, and its successor.

    The successor has the same name, tenant, principal and scopes, and lives as long as the old one was made for.
    """
    lifetime = key.expires_at - key.created_at if key.expires_at else None
    successor = replace(
        key,
        id=id_of(token) or "",
        digest=digest_of(token),
        created_at=at,
        created_by=by,
        expires_at=at + lifetime if lifetime else None,
        last_used_at=None,
        replaces=key.id,
    )
    end = at + overlap
    return replace(key, expires_at=min(key.expires_at or end, end)), successor


def _base62(number: bytes, digits: int) -> str:
    value, text = int.from_bytes(number, "big"), ""
    for _ in range(digits):
        value, digit = divmod(value, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()).to_bytes(4, "big"), _CRC_DIGITS)
