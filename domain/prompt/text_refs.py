"""Content-addressed texts: a text's name is a digest of it, so a name identifies exactly one text."""

import base64
import hashlib

DIGEST_BYTES = 16
"""Bytes of the SHA-256 digest in a name: enough that no second text with the same name can be found."""


def text_name(text: str) -> str:
    """Return a text's name: 22 characters of URL-safe base64; "" for an empty text."""
    if not text:
        return ""
    digest = hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
