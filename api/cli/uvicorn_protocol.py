"""uvicorn's HTTP protocol, with limits on what a client may make the server wait for and keep.

Also, the head and the body of a response are one write. uvicorn writes them separately. Measured: that is a fifth of
the cost of an answer here, and wakes the client twice.
"""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class _Together:
    """A transport that joins a write with the next one, if that follows at once."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held:
            self._send(data)
        else:
            self._held = data
            asyncio.get_running_loop().call_soon(self._send)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self, data: bytes = b"") -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)


MAX_HEAD_BYTES = 32_768
"""Bytes of a request's head: its line and its headers."""

MAX_HEADERS = 100

HEAD_TIMEOUT_S = 10.0
"""Seconds for the whole head of a request, from the connection or from its first byte."""

BODY_TIMEOUT_S = 60.0
"""Seconds for the whole body of a request: a megabyte at 140 kbit/s."""

SWEEP_INTERVAL_S = 1.0
"""Seconds between two looks for connections that exceed a time limit: one timer serves all of them."""

RESERVED_FILES = 128
"""File descriptors that connections leave to the database, models and log files."""

HEAD_TOO_LARGE = (431, "Request header fields too large", f"at most {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} headers")
TOO_SLOW = (408, "Request timeout", "the request did not arrive in time")
TOO_MANY = (503, "Too many connections", "the server has as many connections as it can; retry in some seconds")


def max_connections() -> int:
    """Return how many connections this process can have: each takes a file descriptor."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, 1_000_000 if soft == resource.RLIM_INFINITY else soft - min(RESERVED_FILES, soft // 2))


class Protocol(HttpToolsProtocol):
    """One connection."""

    waiting: ClassVar[dict["Protocol", None]] = {}
    """Connections without a request, or without all of its head: the one that waits longest is first."""

    most: ClassVar[int] = 1_000_000
    """Connections that the process may have."""

    _deadline: float | None = None
    """When the client must have sent the rest of its request, by the clock of the event loop."""
    _head_bytes = 0
    _in_head = False
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wrap the transport, so that writes are joined. Beyond the limit, the longest waiting connection is closed."""
        super().connection_made(cast("asyncio.Transport", _Together(transport)))
        self._wait(HEAD_TIMEOUT_S)
        if len(self.connections) > self.most:
            longest = next(iter(self.waiting))
            if longest is self:
                self._refuse(*TOO_MANY)
            else:
                longest.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.waiting.pop(self, None)
        self._deadline = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what a client has sent, unless its head is too large."""
        if self._refused:
            return
        if self._deadline is None and self in self.waiting:  # the first bytes of a further request
            self._deadline = self.loop.time() + HEAD_TIMEOUT_S
        super().data_received(data)
        if self._in_head and not self._refused:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(*HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Run a request, unless its head is too large."""
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse(*HEAD_TOO_LARGE)
        if self._refused:
            return
        self.waiting.pop(self, None)
        self._deadline = self.loop.time() + BODY_TIMEOUT_S
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Take a request's end."""
        if not self._refused:
            self._deadline = None
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request: uvicorn closes the connection if none comes in time."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.pipeline:
            self._wait(HEAD_TIMEOUT_S if self._in_head else None)

    def sweep(self, now: float) -> None:
        """Close the connection if its client is late. A client that sent nothing gets no answer."""
        if self._deadline is not None and now > self._deadline:
            if self._in_head or self not in self.waiting:
                self._refuse(*TOO_SLOW)
            else:
                self.drop()

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.waiting.pop(self, None)
        self._deadline = None
        self.transport.close()

    def _wait(self, patience: float | None) -> None:
        self.waiting.pop(self, None)
        self.waiting[self] = None
        self._deadline = None if patience is None else self.loop.time() + patience

    def _refuse(self, status: int, title: str, detail: str) -> None:
        """Answer with a problem document, and close the connection; nothing more of it is read."""
        self._refused = True
        if self.cycle is None or self.cycle.response_complete:  # else an answer may be under way
            name = title.lower().replace(" ", "-")
            problem = {"type": f"urn:threadfold:{name}", "title": title, "status": status, "detail": f"{detail}."}
            body = msgspec.json.encode(problem)
            head = f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.drop()


@contextmanager
def sweeping(loop: asyncio.AbstractEventLoop, connections: set[Any]) -> Iterator[None]:
    """Close connections whose clients are late, while the block runs."""
    timer: asyncio.TimerHandle | None = None

    def sweep() -> None:
        nonlocal timer
        now = loop.time()
        for connection in list(connections):
            connection.sweep(now)
        timer = loop.call_later(SWEEP_INTERVAL_S, sweep)

    timer = loop.call_later(SWEEP_INTERVAL_S, sweep)
    try:
        yield
    finally:
        timer.cancel()
