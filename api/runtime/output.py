"""This process's standard output, shared with its subprocesses. A reader that does not read cannot block them."""

import asyncio
import errno
import logging
import os
import select
import threading
from collections import deque
from contextlib import suppress
from typing import BinaryIO

CHUNK_BYTES = 65_536
"""Bytes that are read from a subprocess at a time."""

MAX_QUEUED_BYTES = 4 << 20
"""Bytes that wait to be written; with more, the subprocesses wait (backpressure)."""

PIECE_BYTES = 4_096
"""Bytes that are written at a time: a reader that takes one such piece now and then counts as reading."""

STALLED_S = 1.0
"""Seconds that subprocesses wait for a reader that takes nothing. Then their output is dropped until it reads again: a
process that waits for its output runs no turns."""

REGAINED_S_PER_S = 0.1
"""Seconds of waiting that a slow reader is granted again in each second."""

FINAL_ERRORS = {errno.EPIPE, errno.EBADF}
"""Errors after which nothing more can be written: the reader is gone, or the descriptor was closed."""

_log = logging.getLogger(__name__)


class Output:
    """Writes to a descriptor in a thread, since a write blocks until the reader reads."""

    def __init__(self, descriptor: int | None, patience: float = 5.0) -> None:
        """Write to a descriptor; with None, drop everything: there is no standard output.

        For a slow reader, subprocesses wait `patience` seconds in total. After that, excess output is dropped.
        """
        self._descriptor = descriptor
        self._patience = self._patience_max = patience
        self._loop = asyncio.get_running_loop()
        self._patience_at = self._loop.time()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._moved = asyncio.Event()
        """Set when the thread has written something."""
        self._available = threading.Semaphore(0)
        self._drops = self._fails = False
        if descriptor is not None:
            threading.Thread(target=self._write_forever, name="stdout", daemon=True).start()

    async def write(self, chunk: bytes) -> None:
        """Queue a chunk once there is room for it. Drop it if the reader does not read."""
        if not chunk:
            return
        while self._descriptor is not None and self._size >= MAX_QUEUED_BYTES and not self._drops:
            await self._wait()
        if self._descriptor is None or self._drops:
            self._dropped += len(chunk)
            return
        self._size += len(chunk)
        self._queue.append(chunk)
        self._available.release()

    async def _wait(self) -> None:
        """Wait until the thread has written something. If that takes too long, begin to drop output."""
        began = self._loop.time()
        regained = REGAINED_S_PER_S * (began - self._patience_at)
        self._patience, self._patience_at = min(self._patience + regained, self._patience_max), began
        self._moved.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(STALLED_S, max(self._patience, 0.0))):
                await self._moved.wait()
        waited = self._loop.time() - began
        self._patience, self._patience_at = self._patience - waited, began + waited
        if (not self._moved.is_set() or self._patience <= 0) and not self._drops:
            self._drops = True
            _log.warning("The standard output is not read fast enough: output is dropped until it is")

    async def flush(self, within: float = STALLED_S) -> None:
        """Wait until the queue was written, at most `within` seconds."""
        deadline = self._loop.time() + within
        while self._descriptor is not None and self._size and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def _write_forever(self) -> None:
        while True:
            self._available.acquire()
            chunk = self._queue.popleft()
            for start in range(0, len(chunk), PIECE_BYTES):
                piece = chunk[start : start + PIECE_BYTES]
                failure = self._write(piece)
                try:
                    self._loop.call_soon_threadsafe(self._note, len(piece), failure)
                except RuntimeError:  # the loop is closed
                    return
                if failure and failure.errno in FINAL_ERRORS:
                    return

    def _write(self, piece: bytes) -> OSError | None:
        left = memoryview(piece)
        while left and self._descriptor is not None:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another program with the same terminal or pipe made it non-blocking
                select.select((), (self._descriptor,), ())
            except OSError as error:  # the reader is gone, or the disk is full
                return error
        return None

    def _note(self, size: int, failure: OSError | None) -> None:
        self._size -= size
        self._moved.set()
        if failure:
            self._dropped += size
            if not self._fails:
                _log.warning("The standard output fails (%s): the output of subprocesses is dropped", failure.strerror)
            self._fails = True
            if failure.errno in FINAL_ERRORS:
                self._descriptor = None
                self._queue.clear()
        elif (self._drops and self._size <= MAX_QUEUED_BYTES // 2) or self._fails:
            self._drops = self._fails = False
            _log.warning("The standard output works again; %d bytes were dropped", self._dropped)
            self._dropped = 0


async def forward(printed: BinaryIO, output: Output) -> None:
    """Copy what a subprocess prints to our output: whole lines, unless they are longer than a chunk."""
    loop, reader, rest = asyncio.get_running_loop(), asyncio.StreamReader(limit=CHUNK_BYTES), b""
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), printed)
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            if len(rest) > CHUNK_BYTES:
                lines, newline, rest = lines + newline + rest, b"", b""
            await output.write(lines + newline)
    finally:
        transport.close()
        if rest:
            await output.write(rest)
