"""Backpressure for streams: what slow clients have not read yet takes a bounded number of bytes.

A stream hands one piece at a time to its connection and waits until that is written; the rest of the event is buffered
here, in one buffer for all streams. If the buffer is full, the oldest rest is dropped, and read again from the log when
its client continues. So no stream waits for another one's client, and a hundred streams hold as much memory as one.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable

from domain.lru import Lru

PIECE_BYTES = 64_000
"""Bytes that a stream hands to its connection at a time. The connection buffers about as many again."""

BUFFER_BYTES = 32_000_000
"""Bytes that are buffered for all streams of a process together."""


class SendBuffer:
    """Buffers the rests of the events that streams are sending."""

    def __init__(self, max_bytes: int = BUFFER_BYTES) -> None:
        self._rests = Lru[object, bytes](max_bytes)

    async def pieces(self, text: bytes, again: Callable[[], Awaitable[bytes]]) -> AsyncGenerator[bytes, None]:
        """Yield a text in pieces; `again` makes the same text a second time."""
        me, size = object(), len(text)
        offset = 0
        try:
            while offset < size:
                piece, offset = text[offset : offset + PIECE_BYTES], offset + PIECE_BYTES
                if offset < size:
                    self._rests.put(me, text, size)
                else:
                    self._rests.discard(me)
                text = b""  # while the client reads, only the buffer holds the text
                yield piece
                if offset < size:
                    text = self._rests.get(me) or await again()
        finally:
            self._rests.discard(me)
