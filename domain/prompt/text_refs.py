"""Texts are named by what they say: who knows the name can tell whether a text is the one that is meant."""

import base64
import hashlib

BYTES = 16
"""Bytes of a digest that make a name: nobody finds another text with the same 16."""


def name_of(text: str) -> str:
    """Return a text's name: 22 characters of URL-safe base64; "" for no text."""
    if not text:
        return ""
    digest = hashlib.sha256(text.encode()).digest()[:BYTES]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
