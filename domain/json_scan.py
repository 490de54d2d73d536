"""Looks over JSON text before it is parsed: parsing `[[],[],...]` takes 30 times the text's size in memory.

The scan uses a few passes of the interpreter's own string functions, so its cost is proportional to the text's size.
It is right for JSON. Of a text that turns out to be no JSON it counts at least what a parser reads before it gives up.
"""

from typing import NamedTuple

from domain.errors import InvalidInput
from domain.json import MAX_ITEMS

MAX_DIGITS = 50
"""Digits of an integer that are parsed: more than any valid integer has."""

_MARKS = b'",:[{'
_OTHERS = bytes(set(range(256)) - set(_MARKS))


class Counted(NamedTuple):
    """How many items and fields a text has. An item is a value in an array or a field of an object; so is a bracket."""

    items: int
    fields: int


def count_items(text: bytes, most: int) -> Counted:
    """Count what a JSON text has. If that is more than `most` items, the numbers may be too low, but above `most`."""
    marks = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS)
    strings = marks.count(b'"') // 2
    if strings > 2 * most + 1:  # each is a value or the name of a field; to split them would take much memory
        return Counted(strings // 2, 0)
    outside = b"".join(marks.split(b'"')[::2])
    return Counted(len(outside) - outside.count(b":"), outside.count(b":"))


def check_items(text: bytes | str, field: str, most: int = MAX_ITEMS) -> None:
    """Raise `InvalidInput` if a JSON text has more than `most` items."""
    if len(text) > most and count_items(_bytes(text), most).items > most:
        raise too_many_items(field, most)


def too_many_items(field: str, most: int = MAX_ITEMS) -> InvalidInput:
    """Return the error for JSON that has more items than are parsed."""
    return InvalidInput(field, f"may have {most:,} items in all: values in arrays, fields of objects, and brackets")


def read_integer(digits: str) -> int:
    """Read an integer; of one that is far too large only the beginning, for long ones take time and memory."""
    return int(digits[:MAX_DIGITS])


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
