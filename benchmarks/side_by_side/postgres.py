"""The one PostgreSQL that all contestants use, each with an empty database of its own."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from infrastructure.embedded.server import EmbeddedPostgres

NAME = "contestant"


@dataclass(frozen=True)
class Server:
    """A PostgreSQL with the settings that Threadfold's embedded one has: fsync and synchronous_commit are on."""

    embedded: EmbeddedPostgres
    directory: Path
    """Where it keeps its files, and others may keep theirs."""

    @property
    def postmaster(self) -> int:
        """Its first process: all others are below it."""
        lines = (self.directory / "postgres" / "cluster" / "postmaster.pid").read_text(encoding="utf-8")
        return int(lines.split(maxsplit=1)[0])

    @contextmanager
    def database(self, name: str = NAME) -> Iterator[str]:
        """Make an empty database, and drop it at the end. Nothing of the one before is still to be written by then."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}", "CHECKPOINT")
        try:
            yield self.embedded.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)", "CHECKPOINT")

    def execute(self, *statements: str) -> None:
        """Execute statements one by one, outside of any contestant's database."""
        asyncio.run(_execute(self.embedded.url(), statements))

    def setting(self, name: str) -> str:
        """Say what a setting is."""
        return asyncio.run(_setting(self.embedded.url(), name))


@contextmanager
def one_server() -> Iterator[Server]:
    """Start a PostgreSQL with files of its own, and throw both away at the end."""
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        embedded = EmbeddedPostgres.start(directory / "postgres")
        try:
            yield Server(embedded, directory)
        finally:
            embedded.stop()


async def _execute(url: str, statements: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _setting(url: str, name: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        value: str = await connection.fetchval("SELECT current_setting($1)", name)
        return value
    finally:
        await connection.close()
