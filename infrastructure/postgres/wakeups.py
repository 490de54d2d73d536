"""Wake-ups over PostgreSQL's NOTIFY: after the commit, on another connection, many in one statement.

A NOTIFY in the append's transaction would take a database-wide lock at each commit.
"""

import asyncio

import asyncpg

from domain.application.background_tasks import BackgroundTasks
from infrastructure.postgres.pool import connect
from infrastructure.postgres.retry import reaching
from infrastructure.wakeups import CHANNEL, BatchedWakeups

MAX_PAYLOAD_BYTES = 7_900
"""Bytes of a payload. PostgreSQL allows fewer than 8,000."""

SEND = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"


class PostgresWakeups(BatchedWakeups):
    """A `Wakeups` between all processes of a database. The caller closes it."""

    def __init__(self, url: str, pool: asyncpg.Pool, background: BackgroundTasks | None = None) -> None:
        self._url = url
        self._pool = pool
        super().__init__(MAX_PAYLOAD_BYTES, background)

    async def publish(self, payloads: list[str]) -> None:
        async with reaching(self._pool):
            await self._pool.execute(SEND, CHANNEL, payloads)

    async def listen_until_lost(self) -> None:
        """Listen on a dedicated connection: the pool replaces its own."""
        connection = await connect(self._url)
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(CHANNEL, self._notified)
            self.listening.set()
            await lost.wait()
        finally:
            self.listening.clear()
            connection.terminate()

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self.receive(str(payload))
