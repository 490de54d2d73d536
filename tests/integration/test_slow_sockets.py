"""Clients that send slowly, too much, or nothing: they are closed in time, and keep nobody else out."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from api.cli import uvicorn_protocol
from tests.integration.test_cli_serve import Server, serving

SLOW_SOCKETS = 200


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(database_url="memory://") as started:
        yield started


async def connected(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def answer_to(server: Server, *parts: bytes) -> bytes:
    """Send bytes, and return all that the server answers until it closes the connection."""
    reader, writer = await connected(server)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


HEAD = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X-Long: " + b"a" * 40_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
        HEAD + b"X-Endless: " + b"a" * 10_000_000,
        HEAD + b"X: a\r\n" * 1_000_000,
        b"GET /" + b"a" * 10_000_000,
        b"GET /health/live?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=["a long header", "many headers", "an endless header", "endless headers", "an endless path", "a long query"],
)
async def test_a_head_has_a_limit(server: Server, head: bytes) -> None:
    answer = await answer_to(server, head)
    assert not answer or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer[:200]
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/health/live")).status_code == 200


async def test_a_head_within_the_limit_is_taken(server: Server) -> None:
    more = b"X-Long: " + b"a" * 20_000 + b"\r\nConnection: close\r\n\r\n"
    assert (await answer_to(server, HEAD[:20], HEAD[20:], more)).startswith(b"HTTP/1.1 200 ")


async def test_slow_sockets_keep_no_other_client_waiting(server: Server) -> None:
    """Silent ones, unfinished heads and unfinished bodies: a normal client is served while they are open."""
    kinds = (
        b"",
        HEAD,
        b"POST /v1/threads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    )
    sockets = [await connected(server) for _ in range(SLOW_SOCKETS)]
    for number, (_, writer) in enumerate(sockets):
        writer.write(kinds[number % len(kinds)])
    async with httpx.AsyncClient(base_url=server.url) as client:
        for _ in range(5):
            assert (await client.get("/health/live")).status_code == 200
    for _, writer in sockets:
        writer.close()


async def test_late_clients_are_closed_by_what_they_have_sent() -> None:
    """With a clock of the test's own: after its time, a head gets 408, and silence no answer."""
    loop = asyncio.get_running_loop()
    made: list[uvicorn_protocol.Protocol] = []
    for sent in (b"", HEAD, HEAD + b"\r\n"):
        protocol, written = _protocol()
        made.append(protocol)
        if sent:
            protocol.data_received(sent)
        protocol.sweep(loop.time() + uvicorn_protocol.HEAD_TIMEOUT_S - 1)
        assert not protocol.transport.is_closing()
        protocol.sweep(loop.time() + uvicorn_protocol.HEAD_TIMEOUT_S + 1)
        assert protocol.transport.is_closing() == (sent != HEAD + b"\r\n")
        await asyncio.sleep(0)
        assert written.startswith(b"HTTP/1.1 408 ") == (sent == HEAD)
    for protocol in made:
        protocol.connection_lost(None)
    assert not uvicorn_protocol.Protocol.waiting


async def test_beyond_the_limit_the_longest_waiting_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol.Protocol, "most", 2)
    shared: set[object] = set()
    first, _ = _protocol(shared)
    busy, _ = _protocol(shared)
    busy.data_received(HEAD + b"\r\n")
    third, _ = _protocol(shared)
    assert [one.transport.is_closing() for one in (first, busy, third)] == [True, False, False]
    first.connection_lost(None)
    fourth, _ = _protocol(shared)
    assert [one.transport.is_closing() for one in (busy, third, fourth)] == [False, True, False]
    third.connection_lost(None)
    fourth.data_received(HEAD + b"\r\n")
    fifth, refused = _protocol(shared)
    await asyncio.sleep(0)
    assert fifth.transport.is_closing(), "all others are in use"
    assert refused.startswith(b"HTTP/1.1 503 ")
    for one in (busy, fourth, fifth):
        one.connection_lost(None)


def _protocol(connections: set[object] | None = None) -> tuple[uvicorn_protocol.Protocol, bytearray]:
    async def app(scope: object, receive: object, send: object) -> None:
        await asyncio.sleep(0)

    state = ServerState()
    if connections is not None:
        state.connections = connections  # type: ignore[assignment]
    protocol = uvicorn_protocol.Protocol(uvicorn.Config(app, lifespan="off", log_config=None), state, {})
    transport = _Transport()
    protocol.connection_made(transport)
    return protocol, transport.written


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._closing = False
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self._closing = True

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass
