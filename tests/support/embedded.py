"""An embedded PostgreSQL as other processes see it."""

import asyncio
import contextlib
import fcntl
import os
import pathlib
import signal
import time

import asyncpg

CHECKOUT = pathlib.Path(__file__).parents[2]

ANOTHER_PROCESS = """
import pathlib, sys
from infrastructure.embedded.server import EmbeddedPostgres
server = EmbeddedPostgres.start(pathlib.Path(sys.argv[1]))
print(server.url(), flush=True)
sys.stdin.read()
server.stop()
"""


def postmaster_of(data_dir: pathlib.Path) -> int:
    return int((data_dir / "cluster" / "postmaster.pid").read_text(encoding="utf-8").split()[0])


def runs(data_dir: pathlib.Path) -> bool:
    with (data_dir / "server.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def kill_server(data_dir: pathlib.Path) -> None:
    if (data_dir / "server.lock").exists() and runs(data_dir):
        with contextlib.suppress(ProcessLookupError):
            os.kill(postmaster_of(data_dir), signal.SIGKILL)
        while runs(data_dir):
            time.sleep(0.01)


def ask(url: str, statement: str) -> object:
    async def asked() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(asked())
