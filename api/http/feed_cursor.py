"""How far a consumer of the feed has come, as a short text: a few bytes for each slice.

Inside: the number of the first slice, how many there are, whose turn it is, the least position, and for each slice how
much more its position is; all as integers of seven bits a byte, the last of which has no eighth. Deflated, with
Adler-32 at the end, in URL-safe Base64.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator

from domain.application.streaming.feed import FeedCursor
from domain.errors import InvalidInput
from domain.ids import SLICES, Position, Slice

LONGEST = 12_000
"""Characters of a cursor: positions of eight bytes in every slice would take these."""

LARGEST = 2**63 - 1

MORE = 0x80
"""The bit that says that more of the number follows; below it are seven bits of the number."""

_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")


def encode_place(place: FeedCursor) -> str:
    """Write a place."""
    least = min(place.positions)
    numbers = [place.first, len(place.positions), place.turn, least, *(p - least for p in place.positions)]
    packed = zlib.compress(bytes(_seven_bits(numbers)), 9)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_place(text: str) -> FeedCursor:
    """Read what `encode_place` wrote. Raises `InvalidInput`."""
    try:
        return _place(text)
    except (ValueError, binascii.Error, zlib.error, StopIteration) as error:
        raise InvalidInput("after", "must be the next_cursor of a page of the feed") from error


def _place(text: str) -> FeedCursor:
    if len(text) > LONGEST or not _ALPHABET.fullmatch(text):
        raise ValueError(text[:10])
    packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    inflating = zlib.decompressobj()
    raw = inflating.decompress(packed, LONGEST)
    if not inflating.eof or inflating.unused_data:
        raise ValueError("not whole")
    first, count, turn, least, *more = _numbers(raw)
    positions = tuple(Position(least + number) for number in more)
    whole = len(positions) == count and 1 <= count <= SLICES - first and first <= turn < first + count
    if not whole or max(positions) > LARGEST:
        raise ValueError("no slices of ours")
    return FeedCursor(Slice(first), positions, Slice(turn))


def _seven_bits(numbers: Iterable[int]) -> Iterator[int]:
    for number in numbers:
        left = number
        while left >= MORE:
            yield left % MORE | MORE
            left //= MORE
        yield left


def _numbers(raw: bytes) -> Iterator[int]:
    number, factor = 0, 1
    for byte in raw:
        number += byte % MORE * factor
        factor *= MORE
        if byte < MORE:
            yield number
            number, factor = 0, 1
    if factor > 1:
        raise ValueError("cut off")
