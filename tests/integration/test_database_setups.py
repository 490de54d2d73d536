"""Databases that are set up otherwise: each works as any other, or is refused at the start with a remedy."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from infrastructure.postgres import requirements
from infrastructure.postgres.pool import connect, open_pool
from infrastructure.postgres.requirements import UnfitDatabase, check_server, check_sessions
from migrations.run import migrate
from tests.conftest import url_of
from tests.support.command import threadfold
from tests.support.http import running_api

ODD = {
    "search_path": "app, public",
    "standard_conforming_strings": "off",
    "timezone": "'Asia/Kathmandu'",
    "datestyle": "'German'",
    "intervalstyle": "'sql_standard'",
    "bytea_output": "'escape'",
    "default_transaction_isolation": "'serializable'",
    "extra_float_digits": "-5",
}


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def fetch(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(statement)]
    finally:
        await connection.close()


def as_user(url: str, user: str, password: str = "secret") -> str:
    parts = urlsplit(url)
    query = dict(part.split("=", 1) for part in parts.query.split("&") if part)
    host = parts.netloc.rpartition("@")[2]
    assert host or query
    return parts._replace(netloc=f"{user}:{password}@{host}").geturl()


@asynccontextmanager
async def a_role(url: str, options: str, *more: str) -> AsyncIterator[str]:
    name = f"boss_{uuid4().hex[:8]}"
    await execute(url, f"CREATE ROLE {name} LOGIN PASSWORD 'secret' {options}", *(one.format(name) for one in more))
    try:
        yield name
    finally:
        await execute(url, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


async def refusal(url: str) -> str:
    """Start a server there, and return the one line in which it refuses to."""
    done = await threadfold("serve", "--port", "0", database_url=url)
    assert (done.status, done.out) == (1, ""), done
    assert done.err.count("\n") == 1, done.err
    return done.err


async def tables(url: str) -> set[str]:
    kept = "nspname NOT LIKE 'pg_%' AND nspname <> 'information_schema'"
    return set(
        await fetch(
            url,
            f"SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE {kept}",
        )
    )


async def talks(url: str) -> None:
    async with running_api(database_url=url) as api:
        thread = await api.opened()
        said = await api.turn(thread, "What is 2 + 3?")
        assert said.json()["answer"] == "calculate says: 5"
        for path in ("/v1/threads?search=calculate", "/v1/usage", "/v1/budgets", "/v1/audit"):
            query = "&consistency=strong" if "?" in path else "?consistency=strong"
            assert (await api.get(path + query)).status_code == 200
        await api.put("/v1/limits", json={"limits": [{"window": "day", "tokens": 1_000_000}]})
        assert (await api.turn(thread, "What is 2 + 4?")).json()["status"] == "completed"
        assert (await api.post("/v1/verify")).json()["problems"] == []
        assert (await api.get("/v1/projections/parked")).json() == []


async def test_settings_of_a_database_change_nothing(empty_database_url: str) -> None:
    name = urlsplit(empty_database_url).path[1:]
    await execute(
        empty_database_url,
        "CREATE SCHEMA app",
        *(f"ALTER DATABASE {name} SET {key} = {value}" for key, value in ODD.items()),
    )
    await migrate(empty_database_url)
    await talks(empty_database_url)
    assert await tables(empty_database_url) == {"public", "read_models", "analytics"}
    pool = await open_pool(empty_database_url, max_size=1)
    async with pool:
        assert await pool.fetchval("SHOW search_path") == "public, pg_temp"
    alone = await connect(empty_database_url)
    assert await alone.fetchrow("SELECT current_user, to_regclass('events')::text") == ("threadfold_app", "events")
    await alone.close()


async def test_a_schema_of_the_users_name_is_left_alone(empty_database_url: str) -> None:
    (user,) = await fetch(empty_database_url, "SELECT quote_ident(current_user)")
    await execute(empty_database_url, f"CREATE SCHEMA {user}")
    await migrate(empty_database_url)
    await talks(empty_database_url)
    assert await tables(empty_database_url) == {"public", "read_models", "analytics"}


async def test_a_log_in_another_schema_is_not_left_behind(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    await execute(
        empty_database_url,
        "CREATE SCHEMA app",
        *(f"ALTER TABLE {table} SET SCHEMA app" for table in ("alembic_version", "slices", "events")),
    )
    assert "a log in the schema app" in await refusal(empty_database_url)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_an_encoding_without_all_characters_is_refused(postgres_server: str, encoding: str) -> None:
    name = f"test_{uuid4().hex}"
    await execute(
        postgres_server,
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C'",
    )
    try:
        url = url_of(postgres_server, name)
        line = await refusal(url)
        assert f"has the encoding {encoding}" in line
        assert "CREATE DATABASE" in line
        assert await tables(url) == set()
    finally:
        await execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_database_that_takes_no_writes_is_refused_before_it_is_migrated(empty_database_url: str) -> None:
    name = urlsplit(empty_database_url).path[1:]
    await execute(empty_database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "is read-only" in await refusal(empty_database_url)


async def test_missing_privileges_are_named(empty_database_url: str) -> None:
    name = urlsplit(empty_database_url).path[1:]
    async with a_role(empty_database_url, "") as user:
        url = as_user(empty_database_url, user)
        assert f'GRANT CREATE ON SCHEMA public TO "{user}"' in await refusal(url)
        await execute(empty_database_url, f"GRANT CREATE ON SCHEMA public TO {user}")
        assert f'GRANT CREATE ON DATABASE "{name}" TO "{user}"' in await refusal(url)
        assert await tables(empty_database_url) == set()
        await execute(empty_database_url, "DROP SCHEMA public")
        assert "CREATE SCHEMA public" in await refusal(url)


async def test_a_user_who_may_not_act_as_the_applications_role_is_refused(database_url: str) -> None:
    grants = ("GRANT SELECT ON alembic_version TO {}", "GRANT USAGE ON SCHEMA public TO {}")
    async with a_role(database_url, "", *grants) as user:
        url = as_user(database_url, user)
        assert f'GRANT threadfold_app TO "{user}"' in await refusal(url)
        await execute(database_url, f"GRANT threadfold_app TO {user}")
        await talks(url)


async def test_a_role_that_could_change_the_log_is_refused(database_url: str) -> None:
    await execute(database_url, "GRANT UPDATE ON events TO threadfold_app")
    assert "REVOKE UPDATE" in await refusal(database_url)


async def test_sessions_that_act_as_the_owner_are_refused(database_url: str) -> None:
    """Something in between may drop what sessions begin with, or set them back."""
    async with asyncpg.create_pool(database_url, min_size=0, max_size=1) as pool:
        with pytest.raises(UnfitDatabase, match="and not as threadfold_app"):
            await check_sessions(pool)


async def test_a_user_with_createrole_makes_a_role_and_may_act_as_it(empty_database_url: str) -> None:
    """On managed databases no user is a superuser; from PostgreSQL 16 on, the maker of a role may not act as it."""
    role = f"app_{uuid4().hex[:8]}"
    script = role_script(role)
    async with a_role(empty_database_url, "CREATEROLE", "GRANT CREATE, USAGE ON SCHEMA public TO {}") as user:
        url = as_user(empty_database_url, user)
        name = urlsplit(empty_database_url).path[1:]
        await execute(empty_database_url, f"GRANT CREATE ON DATABASE {name} TO {user}")
        await execute(empty_database_url, f"GRANT USAGE ON SCHEMA public TO {user} WITH GRANT OPTION")
        await execute(url, script)
        await execute(url, script)
        await execute(url, f"SET ROLE {role}")
        await execute(url, f"CREATE SCHEMA made AUTHORIZATION {role}")
        await execute(url, f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} IN SCHEMA made GRANT SELECT ON TABLES TO {user}")
        await execute(empty_database_url, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def role_script(role: str) -> str:
    """Take the statement that makes the application's role, with another name: the real one is there already."""
    made = importlib.import_module("migrations.versions.0001_event_log")
    return str(made.ROLE).replace("threadfold_app", role)


class Server:
    """What asyncpg knows of a server without asking."""

    def __init__(self, major: int, encoding: str = "UTF8") -> None:
        self.major, self.encoding = major, encoding

    def get_server_version(self) -> Any:
        return type("Version", (), {"major": self.major, "minor": 3})()

    def get_settings(self) -> Any:
        return type("Settings", (), {"server_encoding": self.encoding})()


def test_an_old_server_is_refused() -> None:
    for major in (15, 16, 17, 18, 19):
        check_server(cast(asyncpg.Connection, Server(major)))
    for major in (9, 12, 14):
        with pytest.raises(UnfitDatabase, match=f"PostgreSQL {major}.3 is too old"):
            check_server(cast(asyncpg.Connection, Server(major)))


class Pooled:
    """A session of a pooler: each statement is carried out by the next of some server connections."""

    def __init__(self, server: list[int], *, steady: bool) -> None:
        self.server, self.steady, self.own = server, steady, server.pop(0) if steady else 0

    async def fetchrow(self, _statement: str) -> dict[str, Any]:
        return {"login": "me", "acting": requirements.ROLE, "pid": await self.fetchval(""), "may_change": False}

    async def fetchval(self, _statement: str) -> int:
        if self.steady:
            return self.own
        pid = self.server.pop(0)
        await asyncio.sleep(0)
        self.server.insert(0, pid)
        return pid

    def get_server_pid(self) -> int:
        return 999


class Pooler:
    def __init__(self, *, steady: bool) -> None:
        self.server, self.steady = [1, 2], steady

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Pooled]:
        yield Pooled(self.server, steady=self.steady)


async def test_a_pooler_that_shares_connections_between_transactions_is_refused() -> None:
    with pytest.raises(UnfitDatabase, match="pool_mode=session"):
        await check_sessions(Pooler(steady=False))


async def test_a_pooler_that_does_not_is_taken() -> None:
    await check_sessions(Pooler(steady=True))
