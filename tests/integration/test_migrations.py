"""A database is brought up to date, by whoever comes first."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from migrations.run import NEWEST, current, migrate

ROOT = Path(__file__).parents[2]


async def test_a_new_database_has_no_revision(empty_database_url: str) -> None:
    assert await current(empty_database_url) is None


async def test_migrating_again_changes_nothing(empty_database_url: str) -> None:
    first = await migrate(empty_database_url)

    assert await migrate(empty_database_url) == first
    assert await current(empty_database_url) == first


async def test_many_may_migrate_at_once(empty_database_url: str) -> None:
    assert len(set(await asyncio.gather(*(migrate(empty_database_url) for _ in range(8))))) == 1


async def test_two_processes_may_migrate_at_once(empty_database_url: str) -> None:
    async def run() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api", "migrate"),
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": empty_database_url},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        return process.returncode, output

    for status, output in await asyncio.gather(run(), run()):
        assert status == 0
        assert output.startswith(f"Revision {NEWEST}".encode())


async def test_a_url_as_sqlalchemy_writes_it_is_taken(empty_database_url: str) -> None:
    assert await migrate(empty_database_url.replace("postgresql://", "postgresql+asyncpg://"))


def test_there_is_one_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [NEWEST]


async def test_every_table_of_the_write_side_can_be_distributed(owner: asyncpg.Connection) -> None:
    """Each unique index holds the slice, and so can stay on one shard. What all processes share is on none."""
    rows = await owner.fetch(
        """SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
             FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
            WHERE indisunique AND relnamespace = 'public'::regnamespace
              AND relname NOT IN ('alembic_version', 'leases', 'workers', 'seals', 'reads',
                                  'budget_limits', 'spending', 'reservations', 'texts', 'suspects', 'loans',
                                  'tenants', 'api_keys')"""
    )
    assert {row["name"] for row in rows if "slice" not in row["definition"].partition(" btree ")[2]} == set()
    assert len(rows) == 6


@asynccontextmanager
async def _owned_by(url: str, rights: str) -> AsyncIterator[str]:
    """Give the database to a new user with only these rights and return the user's URL."""
    name = f"user_{uuid4().hex}"
    admin = await asyncpg.connect(url)
    database = urlsplit(url).path[1:]
    await admin.execute(
        f"CREATE ROLE {name} LOGIN {rights} PASSWORD 'secret'; ALTER DATABASE {database} OWNER TO {name}"
    )
    try:
        parts = urlsplit(url)
        yield parts._replace(netloc=f"{name}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
    finally:
        await admin.execute(f"REASSIGN OWNED BY {name} TO current_user; DROP OWNED BY {name}; DROP ROLE {name}")
        await admin.close()


async def test_a_user_who_may_not_act_as_the_role_is_told_what_to_do(
    template_database: str, empty_database_url: str
) -> None:
    assert template_database  # the role exists
    async with _owned_by(empty_database_url, "NOCREATEROLE") as url:
        with pytest.raises(Exception, match="may not act as the role threadfold_app"):
            await migrate(url)
        assert await current(url) is None


async def test_an_ordinary_owner_with_the_role_can_migrate_and_work(
    template_database: str, empty_database_url: str
) -> None:
    assert template_database
    async with _owned_by(empty_database_url, "NOCREATEROLE IN ROLE threadfold_app") as url:
        assert await migrate(url) == NEWEST
        connection = await asyncpg.connect(url, server_settings={"role": "threadfold_app"})
        assert await connection.fetchval("SELECT count(*) FROM slices") == 1024
        await connection.close()
