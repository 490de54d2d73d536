"""Many HTTP clients in one process, each with one connection that it keeps, and as cheap as can be.

A client sends a request, waits for the whole answer, and sends the next one. Answers must say their length.
"""

import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.side_by_side.cpu import own_cpu

HOST = "127.0.0.1"


def post(path: str, body: object) -> bytes:
    """Write a POST request."""
    written = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(written)}\r\n\r\n".encode() + written


@dataclass
class Outcome:
    """What came of a load: seconds of each request, the answers' status codes, and what it all took."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wall: float = 0.0
    cpu: float = 0.0
    """Seconds of CPU that the clients took."""


class _Client(asyncio.Protocol):
    """One client with all its requests."""

    def __init__(self, requests: Sequence[bytes], outcome: Outcome) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = iter(requests)
        self._outcome = outcome
        self._received = b""
        self._expected: int | None = None
        self._began = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of TCP

    def begin(self) -> None:
        """Send the first request."""
        self._next()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._expected is None:
            head, found, _ = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            self._expected = len(head) + 4 + _length(head)
        if len(self._received) >= self._expected:
            self._outcome.seconds.append(time.perf_counter() - self._began)
            self._outcome.statuses[int(self._received[9:12])] += 1
            self._received, self._expected = b"", None
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("The server has closed a connection"))

    def _next(self) -> None:
        request = next(self._requests, None)
        if self._transport is None or request is None:
            self.done.set_result(None)
        else:
            self._began = time.perf_counter()
            self._transport.write(request)

    def close(self) -> None:
        if self._transport:
            self._transport.close()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"An answer without its length: {head!r}")


async def drive(port: int, clients: Sequence[Sequence[bytes]]) -> Outcome:
    """Connect all clients, then let all of them send their requests, and wait for the last answer."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop, outcome = asyncio.get_running_loop(), Outcome()
    connected: list[_Client] = []
    for requests in clients:
        _, client = await loop.create_connection(partial(_Client, requests, outcome), HOST, port)
        connected.append(client)
    began, used = time.perf_counter(), own_cpu()
    for client in connected:
        client.begin()
    await asyncio.gather(*[client.done for client in connected])
    outcome.wall, outcome.cpu = time.perf_counter() - began, own_cpu() - used
    for client in connected:
        client.close()
    return outcome
