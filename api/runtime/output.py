"""Our own standard output, shared by the processes that this one has started, and never waited for without a limit."""

import asyncio
import errno
import logging
import os
import select
import threading
from collections import deque
from contextlib import suppress
from typing import BinaryIO

CHUNK = 65_536
"""Bytes that are read from a process at a time."""

HELD_MAX = 4 << 20
"""Bytes that wait to be written; more make the processes wait."""

PIECE = 4_096
"""Bytes that are written at a time: while the reader takes so much now and then, it counts as reading."""

STUCK_S = 1.0
"""Seconds that processes wait for a reader that takes nothing. Then what they print is dropped until it reads again: a
process that waits for its output runs no turns."""

REGAINED = 0.1
"""Seconds of patience that come back in a second, for a reader that reads but is slow."""

FINAL = {errno.EPIPE, errno.EBADF}
"""Errors after which a descriptor takes nothing for ever: its reader is gone, or it was closed."""

_log = logging.getLogger(__name__)


class Output:
    """Writes to a descriptor in a thread of its own, as a write may block for as long as the reader likes."""

    def __init__(self, descriptor: int | None, patience: float = 5.0) -> None:
        """Write to a descriptor; None drops everything: there is no standard output.

        A slow reader makes processes wait for `patience` seconds in all; after that, what is too much is dropped.
        """
        self._descriptor = descriptor
        self._patience = self._patience_max = patience
        self._loop = asyncio.get_running_loop()
        self._patience_at = self._loop.time()
        self._held: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._moved = asyncio.Event()
        """Set whenever the thread has written something."""
        self._something = threading.Semaphore(0)
        self._drops = self._fails = False
        if descriptor is not None:
            threading.Thread(target=self._write_forever, name="stdout", daemon=True).start()

    async def write(self, chunk: bytes) -> None:
        """Have a chunk written, once there is room for it. Drop it where nothing reads."""
        if not chunk:
            return
        while self._descriptor is not None and self._size >= HELD_MAX and not self._drops:
            await self._wait()
        if self._descriptor is None or self._drops:
            self._dropped += len(chunk)
            return
        self._size += len(chunk)
        self._held.append(chunk)
        self._something.release()

    async def _wait(self) -> None:
        """Wait until the thread has written something. Where that takes too long, drop what is printed from now on."""
        began = self._loop.time()
        regained = REGAINED * (began - self._patience_at)
        self._patience, self._patience_at = min(self._patience + regained, self._patience_max), began
        self._moved.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(STUCK_S, max(self._patience, 0.0))):
                await self._moved.wait()
        waited = self._loop.time() - began
        self._patience, self._patience_at = self._patience - waited, began + waited
        if (not self._moved.is_set() or self._patience <= 0) and not self._drops:
            self._drops = True
            _log.warning("The standard output is not read fast enough: what is printed is dropped until it is")

    async def flush(self, within: float = STUCK_S) -> None:
        """Wait until what is held was written, for a bounded time."""
        deadline = self._loop.time() + within
        while self._descriptor is not None and self._size and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def _write_forever(self) -> None:
        while True:
            self._something.acquire()
            chunk = self._held.popleft()
            for start in range(0, len(chunk), PIECE):
                piece = chunk[start : start + PIECE]
                failure = self._write(piece)
                try:
                    self._loop.call_soon_threadsafe(self._note, len(piece), failure)
                except RuntimeError:  # the loop is closed
                    return
                if failure and failure.errno in FINAL:
                    return

    def _write(self, piece: bytes) -> OSError | None:
        left = memoryview(piece)
        while left and self._descriptor is not None:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another program that has the same terminal or pipe has made it so
                select.select((), (self._descriptor,), ())
            except OSError as error:  # such as a reader that is gone, or a disk that is full
                return error
        return None

    def _note(self, size: int, failure: OSError | None) -> None:
        self._size -= size
        self._moved.set()
        if failure:
            self._dropped += size
            if not self._fails:
                _log.warning("The standard output fails (%s): what processes print is dropped", failure.strerror)
            self._fails = True
            if failure.errno in FINAL:
                self._descriptor = None
                self._held.clear()
        elif (self._drops and self._size <= HELD_MAX // 2) or self._fails:
            self._drops = self._fails = False
            _log.warning("The standard output is written again; %d bytes were dropped", self._dropped)
            self._dropped = 0


async def forward(printed: BinaryIO, output: Output) -> None:
    """Write what a process prints to a pipe to our own output, in whole lines where they are not too long."""
    loop, reader, rest = asyncio.get_running_loop(), asyncio.StreamReader(limit=CHUNK), b""
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), printed)
    try:
        while chunk := await reader.read(CHUNK):
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            if len(rest) > CHUNK:
                lines, newline, rest = lines + newline + rest, b"", b""
            await output.write(lines + newline)
    finally:
        transport.close()
        if rest:
            await output.write(rest)
