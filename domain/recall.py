"""Older messages that matter again: parts of them, found by what was just said."""

from msgspec import Struct

from domain.ids import Version


class Excerpt(Struct, frozen=True):
    """The characters of a message from `start` on, and why they are shown again. `who` is a role, or a tool's name."""

    message: Version
    who: str
    start: int
    text: str
    tokens: int
    because: str
