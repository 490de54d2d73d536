"""A PostgreSQL server for the session, a migrated database for each test, and both kinds of stores.

`TEST_DATABASE_URL` names a server to use instead of the embedded one. Its user must be able to create databases
and roles; the database in the URL is only connected to.
"""

import asyncio
import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis

from api.runtime.stores import LogArchive, SystemClock
from domain.ports.access_log import AccessLog
from domain.ports.identity import IdentityStore
from domain.ports.leases import LeaseStore
from domain.ports.ledger import Ledger
from domain.ports.loans import Loans
from domain.ports.log import EventStore
from domain.ports.read_models import ReadModels
from domain.ports.seals import SealStore
from domain.ports.snapshots import SnapshotStore
from domain.ports.suspects import Suspects
from domain.ports.wakeups import Wakeups
from infrastructure.archive.manifest import Format
from infrastructure.embedded.server import EmbeddedPostgres
from infrastructure.memory.access_log import MemoryAccessLog
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.identity import MemoryIdentityStore
from infrastructure.memory.leases import MemoryLeaseStore
from infrastructure.memory.ledger import MemoryLedger
from infrastructure.memory.read_models import MemoryReadModels
from infrastructure.memory.seals import MemorySealStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.memory.wakeups import MemoryWakeups
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.archive import PostgresArchive
from infrastructure.postgres.identity import PostgresIdentityStore
from infrastructure.postgres.leases import PostgresLeaseStore
from infrastructure.postgres.ledger import PostgresLedger
from infrastructure.postgres.loans import PostgresLoans
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.seals import PostgresSealStore
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from infrastructure.postgres.suspects import PostgresSuspects
from infrastructure.postgres.wakeups import PostgresWakeups
from infrastructure.redis.wakeups import RedisWakeups
from migrations.run import migrate
from tests.support.examples import examples
from tests.support.redis_server import RedisServer

HURRY = (
    *("fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_connections = 300"),
    *("min_wal_size = '32MB'", "max_wal_size = '256MB'"),
)
"""Settings of the test server only: its data need not survive anything."""

IN_MEMORY = pathlib.Path("/dev/shm")
"""Where the test server's data are, if there is room: most tests have a database made, which is a thousand files."""

ROOM = 3 * 2**30
"""Bytes that have to be free there, for the servers of all xdist workers. Containers often have 64 MB only."""

STORES = ["memory", "postgres"]

# On a busy machine, making an example may take long: that is no fault of a test.
settings.register_profile(
    "share",
    settings(),
    max_examples=examples(settings().max_examples),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("share")

# Most tests start a process or two; a third for each would take more time than all that they try.
os.environ["PROJECTIONS"] = "inside"


def url_of(server: str, database: str) -> str:
    """Name another database of the same server."""
    return urlsplit(server)._replace(path=f"/{database}").geturl()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Give the URL of a server: one for each xdist worker, in a directory that any user may enter."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    for left in IN_MEMORY.glob("threadfold-test-*-*"):
        if not pathlib.Path("/proc", left.name.split("-")[2]).exists():  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
    in_memory = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM
    name = f"threadfold-test-{os.getpid()}-"
    directory = pathlib.Path(tempfile.mkdtemp(prefix=name, dir=IN_MEMORY if in_memory else None))
    directory.chmod(0o755)
    server = EmbeddedPostgres.start(directory)
    try:
        asyncio.run(_hurry(server.url()))
        server.stop()  # max_connections needs a restart
        server = EmbeddedPostgres.start(directory)
        yield server.url()
    finally:
        server.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """Migrate one database, for the others to be copied from, and return its name."""
    name = f"template_{uuid.uuid4().hex}"
    asyncio.run(_execute(postgres_server, f"CREATE DATABASE {name}"))
    asyncio.run(migrate(url_of(postgres_server, name)))
    yield name
    asyncio.run(_execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def empty_database_url(postgres_server: str) -> AsyncIterator[str]:
    """Give the URL of a database that was never migrated, dropped after the test."""
    async with _database(postgres_server, "template0") as url:
        yield url


@pytest.fixture
async def database_url(postgres_server: str, template_database: str) -> AsyncIterator[str]:
    """Give the URL of a migrated database of the test's own, dropped after it."""
    async with _database(postgres_server, template_database) as url:
        yield url


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """Connect to the test's database as the application does."""
    async with await open_pool(database_url, max_size=20) as pool:
        yield pool


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the test's database as its owner, a superuser."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture(params=STORES)
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name each kind of stores in turn."""
    return str(request.param)


@pytest.fixture
def event_store(request: pytest.FixtureRequest, store_kind: str) -> EventStore:
    """Give an empty event store."""
    return MemoryEventStore() if store_kind == "memory" else PostgresEventStore(request.getfixturevalue("pool"))


@pytest.fixture
def archive(request: pytest.FixtureRequest, event_store: EventStore) -> LogArchive:
    """Give the way into and out of the event store as a whole."""
    if isinstance(event_store, MemoryEventStore):
        return MemoryArchive(event_store)
    return PostgresArchive(request.getfixturevalue("pool"))


@pytest.fixture(params=["parquet", "ndjson"])
def format_(request: pytest.FixtureRequest) -> Format:
    """Name each format of exports in turn."""
    chosen: Format = request.param
    return chosen


@pytest.fixture
def snapshot_store(request: pytest.FixtureRequest, store_kind: str) -> SnapshotStore:
    """Give an empty snapshot store."""
    return MemorySnapshotStore() if store_kind == "memory" else PostgresSnapshotStore(request.getfixturevalue("pool"))


@pytest.fixture
def seal_store(request: pytest.FixtureRequest, store_kind: str) -> SealStore:
    """Give an empty seal store."""
    return MemorySealStore() if store_kind == "memory" else PostgresSealStore(request.getfixturevalue("pool"))


@pytest.fixture
def access_log(request: pytest.FixtureRequest, store_kind: str) -> AccessLog:
    """Give an empty audit of reads."""
    return MemoryAccessLog() if store_kind == "memory" else PostgresAccessLog(request.getfixturevalue("pool"))


@pytest.fixture
def identity_store(request: pytest.FixtureRequest, store_kind: str) -> IdentityStore:
    """Give a store without keys, and with the default tenant."""
    return MemoryIdentityStore() if store_kind == "memory" else PostgresIdentityStore(request.getfixturevalue("pool"))


@pytest.fixture
def ledger(request: pytest.FixtureRequest, store_kind: str) -> Ledger:
    """Give an empty ledger."""
    return MemoryLedger() if store_kind == "memory" else PostgresLedger(request.getfixturevalue("pool"))


@pytest.fixture
def lease_store(request: pytest.FixtureRequest, event_store: EventStore) -> LeaseStore:
    """Give a lease store without workers, which the event store obeys."""
    if isinstance(event_store, MemoryEventStore):
        return MemoryLeaseStore(SystemClock(), event_store)
    return PostgresLeaseStore(request.getfixturevalue("pool"))


@pytest.fixture
def suspects(request: pytest.FixtureRequest, lease_store: LeaseStore) -> Suspects:
    """Give the suspects that the lease store counts crashes of."""
    if isinstance(lease_store, MemoryLeaseStore):
        return lease_store.suspects
    return PostgresSuspects(request.getfixturevalue("pool"))


@pytest.fixture
def loans(request: pytest.FixtureRequest, lease_store: LeaseStore) -> Loans:
    """Give the loans between the lease store's workers."""
    return (
        lease_store.loans
        if isinstance(lease_store, MemoryLeaseStore)
        else PostgresLoans(request.getfixturevalue("pool"))
    )


@pytest.fixture
def read_models(request: pytest.FixtureRequest, event_store: EventStore) -> ReadModels:
    """Give read models without projections, over the event store's log."""
    if isinstance(event_store, MemoryEventStore):
        return MemoryReadModels(event_store.head_of, SystemClock())
    return PostgresReadModels(request.getfixturevalue("pool"))


@pytest.fixture(params=[*STORES, "redis"])
def wakeups(request: pytest.FixtureRequest) -> tuple[Wakeups, Wakeups]:
    """Give two ends of a channel, which both listen."""
    if request.param == "memory":
        endpoints: list[MemoryWakeups] = []
        return MemoryWakeups(endpoints), MemoryWakeups(endpoints)
    pair: tuple[Wakeups, Wakeups] = request.getfixturevalue(f"{request.param}_wakeups")
    return pair


@pytest.fixture
async def postgres_wakeups(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[tuple[Wakeups, Wakeups]]:
    """Give two ends of a channel of PostgreSQL."""
    one, other = PostgresWakeups(database_url, pool), PostgresWakeups(database_url, pool)
    await one.listening.wait()
    await other.listening.wait()
    yield one, other
    await one.close()
    await other.close()


@pytest.fixture
async def redis_wakeups(redis_url: str) -> AsyncIterator[tuple[Wakeups, Wakeups]]:
    """Give two ends of a channel of Redis."""
    client = Redis.from_url(redis_url)
    one, other = RedisWakeups(client, "test"), RedisWakeups(client, "test")
    await one.listening.wait()
    await other.listening.wait()
    yield one, other
    await one.close()
    await other.close()
    await client.aclose()


@pytest.fixture
def redis_url(tmp_path: pathlib.Path) -> Iterator[str]:
    """Run a Redis for the test, and give its URL."""
    with RedisServer(tmp_path) as server:
        yield server.url


@contextlib.asynccontextmanager
async def _database(server: str, template: str) -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield url_of(server, name)
    await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _hurry(url: str) -> None:
    for setting in HURRY:
        await _execute(url, f"ALTER SYSTEM SET {setting}")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
