"""Bodies of responses, decompressed piece by piece: 64 kB of gzip may hold 64 MB, which httpx would unpack at once."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Iterator

import httpx

PIECE_BYTES = 64 * 1024

PAUSE_EVERY = 64
PAUSE_BYTES = 64 * 1024
"""Pieces, or bytes, after which other tasks run: what has arrived already is read without waiting."""


async def pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield a response's body in pieces of at most `PIECE_BYTES`. Raises `httpx.RequestError`."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip", "deflate", ""}:
        raise httpx.DecodingError(f"it is encoded as {encoding[:50]}, which was not accepted")
    inflate = _Inflating(encoding) if encoding not in {"identity", ""} else None
    count = size = 0
    async for chunk in response.aiter_raw():
        for piece in inflate.pieces(chunk) if inflate else _cut(chunk):
            count, size = count + 1, size + len(piece)
            if count == PAUSE_EVERY or size >= PAUSE_BYTES:
                await asyncio.sleep(0)
                count = size = 0
            yield piece


async def read_body(response: httpx.Response, most: int) -> bytes | None:
    """Read a body; None if it has more than `most` bytes. Raises `httpx.RequestError`."""
    body = bytearray()
    async for piece in pieces(response):
        body += piece
        if len(body) > most:
            return None
    return bytes(body)


def _cut(chunk: bytes) -> Iterator[bytes]:
    if len(chunk) <= PIECE_BYTES:
        yield chunk
        return
    for start in range(0, len(chunk), PIECE_BYTES):
        yield chunk[start : start + PIECE_BYTES]


class _Inflating:
    """Decompresses chunks. Some servers send `deflate` without the header of zlib."""

    def __init__(self, encoding: str) -> None:
        self._begun = encoding != "deflate"
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16 if self._begun else zlib.MAX_WBITS)

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk:
                yield from filter(None, [self._next(chunk)])
                chunk = self._inflate.unconsumed_tail
        except zlib.error as error:
            raise httpx.DecodingError(str(error)) from error

    def _next(self, chunk: bytes) -> bytes:
        begun, self._begun = self._begun, True
        try:
            return self._inflate.decompress(chunk, PIECE_BYTES)
        except zlib.error:
            if begun:
                raise
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._inflate.decompress(chunk, PIECE_BYTES)
