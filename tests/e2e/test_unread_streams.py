"""A hundred clients that open a stream and do not read it cost a server what one does: memory is bounded in bytes."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx

from domain.ids import ThreadId
from infrastructure.postgres.log.event_store import PostgresEventStore
from tests.e2e.server_process import ServerProcess, threadfold
from tests.support.large import a_thread

MB = 1_000_000
STREAMS = 100
LETTERS = "abcdefghijklmnopqrstuvwx"
"""An event of a megabyte for each: a page of them, held for each stream, would be 2.4 GB."""

MOST = 300 * MB
"""What the process may take."""

BEGUN = 100_000
"""Bytes of its first events that a client takes before it stops reading."""


async def test_unread_streams_take_little_memory_and_hold_up_no_other_one(
    database_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    store = PostgresEventStore(pool)
    threads = [await a_thread(store, [letter * MB for letter in LETTERS]) for _ in range(2)]
    await store.close()

    async with threadfold(tmp_path, DATABASE_URL=database_url) as server:
        with ExitStack() as open_ones:
            opening = [_opened(server, threads[number % 2], open_ones) for number in range(STREAMS)]
            await asyncio.gather(*opening)
            said = await asyncio.wait_for(_read(server, threads[0]), 120)

            assert [text[0] for text in said] == [*LETTERS]
            assert {len(text) for text in said} == {MB}
            assert _peak(server.pid) < MOST


async def _opened(server: ServerProcess, thread_id: ThreadId, open_ones: ExitStack) -> None:
    """Open a stream and take the beginning of what it sends, and no more."""
    at = urlsplit(server.url)
    client = open_ones.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (at.hostname, at.port))
    request = f"GET /v1/threads/{thread_id}/stream?after=0 HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n"
    await loop.sock_sendall(client, request.encode())
    taken = 0
    while taken < BEGUN:
        got = await asyncio.wait_for(loop.sock_recv(client, 4096), 120)
        assert got, "the server has closed the stream"
        taken += len(got)


async def _read(server: ServerProcess, thread_id: ThreadId) -> list[str]:
    """Follow a thread until it is idle, and return what the agent said."""
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as client,
        client.stream("GET", f"/v1/threads/{thread_id}/stream", params={"after": 0, "until_idle": True}) as response,
    ):
        body = await response.aread()
    return [*_said(body.decode())]


def _said(body: str) -> Iterator[str]:
    for block in body.split("\n\n"):
        _, found, data = block.partition("event: MessageAppended\ndata: ")
        if found:
            yield json.loads(data)["data"]["content"]


def _peak(pid: int) -> int:
    """Say what a process took in memory at most, in bytes."""
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
