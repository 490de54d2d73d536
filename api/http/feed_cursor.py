"""The cursor of the feed, as a short text: a few bytes for each slice.

It consists of the first slice's number, the number of slices, the slice to read next, the lowest position, and each
slice's distance from that: varints of seven bits a byte, deflated (with an Adler-32 checksum), in URL-safe Base64.
"""

import zlib
from collections.abc import Iterable, Iterator

from api.http.cursors import from_base64, to_base64
from domain.application.streaming.feed import FeedCursor
from domain.errors import InvalidInput
from domain.ids import SLICES, Position, Slice

MAX_CURSOR_CHARACTERS = 12_000
"""Characters of a cursor with a position of eight bytes in every slice."""

MAX_POSITION = 2**63 - 1

MORE = 0x80
"""The bit that is set if more of the number follows; the lower seven bits belong to the number."""


def encode_feed_cursor(place: FeedCursor) -> str:
    """Write a cursor."""
    least = min(place.positions)
    numbers = [place.first, len(place.positions), place.turn, least, *(p - least for p in place.positions)]
    return to_base64(zlib.compress(bytes(_seven_bits(numbers)), 9))


def decode_feed_cursor(text: str) -> FeedCursor:
    """Read what `encode_feed_cursor` wrote. Raises `InvalidInput`."""
    try:
        return _decoded(text)
    except (ValueError, zlib.error) as error:
        raise InvalidInput("after", "must be the next_cursor of a page of the feed") from error


def _decoded(text: str) -> FeedCursor:
    if len(text) > MAX_CURSOR_CHARACTERS:
        raise ValueError(text[:10])
    inflating = zlib.decompressobj()
    raw = inflating.decompress(from_base64(text), MAX_CURSOR_CHARACTERS)
    if not inflating.eof or inflating.unused_data:
        raise ValueError("it is incomplete")
    first, count, turn, least, *more = _numbers(raw)
    positions = tuple(Position(least + number) for number in more)
    whole = len(positions) == count and 1 <= count <= SLICES - first and first <= turn < first + count
    if not whole or max(positions) > MAX_POSITION:
        raise ValueError("its slices or positions do not exist")
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
        raise ValueError("its last number is incomplete")
