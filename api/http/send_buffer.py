"""What streams have to send and their clients have not taken yet, in a bounded number of bytes.

A client may take its time, or never read: what it has not taken is in memory, for each stream. A stream hands a piece
at a time to the connection, and waits until that has taken it; the rest is kept here together with that of all other
streams. Where there is no room for it, it is forgotten, and made again from the log once the client goes on reading.
So no stream waits for the client of another one, and a hundred of them hold as much as one.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable

from domain.lru import Lru

PIECE = 64_000
"""Bytes that a stream hands to its connection at a time. The connection itself holds about as many again."""

KEPT = 32_000_000
"""Bytes that are kept for all streams of a process together."""


class Outgoing:
    """The rests of what streams are sending."""

    def __init__(self, kept: int = KEPT) -> None:
        """Keep at most so many bytes."""
        self._rests = Lru[object, bytes](kept)

    async def pieces(self, text: bytes, again: Callable[[], Awaitable[bytes]]) -> AsyncGenerator[bytes, None]:
        """Yield a text in pieces; `again` makes the same text once more."""
        me, size = object(), len(text)
        offset = 0
        try:
            while offset < size:
                piece, offset = text[offset : offset + PIECE], offset + PIECE
                if offset < size:
                    self._rests.put(me, text, size)
                else:
                    self._rests.discard(me)
                text = b""  # held while the client takes its time, it would count for nothing
                yield piece
                if offset < size:
                    text = self._rests.get(me) or await again()
        finally:
            self._rests.discard(me)
