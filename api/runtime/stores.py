"""The stores of the log: PostgreSQL (a named server or the embedded one) or memory."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import asyncpg
from pydantic import SecretStr

from domain.application.background_tasks import BackgroundTasks
from domain.ports.access_log import AccessLog
from domain.ports.archive import LogExport, LogImport
from domain.ports.hot import HotStore
from domain.ports.identity import IdentityStore
from domain.ports.leases import LeaseStore
from domain.ports.ledger import Ledger
from domain.ports.loans import Loans
from domain.ports.log import EventStore
from domain.ports.read_models import ReadModels
from domain.ports.recall import Finder, VectorStore
from domain.ports.seals import SealStore
from domain.ports.snapshots import SnapshotStore
from domain.ports.suspects import Suspects
from domain.ports.texts import TextStore
from domain.ports.wakeups import Wakeups
from infrastructure.embedded.server import EmbeddedPostgres
from infrastructure.memory.access_log import MemoryAccessLog
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.identity import MemoryIdentityStore
from infrastructure.memory.leases import MemoryLeaseStore
from infrastructure.memory.ledger import MemoryLedger
from infrastructure.memory.read_models import MemoryReadModels
from infrastructure.memory.recall import MemoryFinder, MemoryVectorStore
from infrastructure.memory.seals import MemorySealStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.memory.texts import MemoryTextStore
from infrastructure.memory.wakeups import MemoryWakeups
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.archive import PostgresArchive
from infrastructure.postgres.identity import PostgresIdentityStore
from infrastructure.postgres.leases import PostgresLeaseStore
from infrastructure.postgres.ledger import PostgresLedger
from infrastructure.postgres.loans import PostgresLoans
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import close_pool, database_name, open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.recall.search import PostgresFinder
from infrastructure.postgres.recall.vectors import PostgresVectorStore
from infrastructure.postgres.requirements import check_sessions
from infrastructure.postgres.seals import PostgresSealStore
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from infrastructure.postgres.suspects import PostgresSuspects
from infrastructure.postgres.texts import PostgresTextStore
from infrastructure.postgres.wakeups import PostgresWakeups
from infrastructure.settings import Settings
from migrations.run import migrate
from projections.messages import MESSAGES

_log = logging.getLogger(__name__)

MEMORY = "memory://"


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)


class LogArchive(LogExport, LogImport, Protocol):
    """Exports and imports the log as a whole."""


@dataclass(frozen=True)
class Database:
    """The log's database. `alone`: this process started its server, and no other process used it."""

    url: str
    alone: bool = False


@asynccontextmanager
async def database(settings: Settings, background: BackgroundTasks | None = None) -> AsyncIterator[Database]:
    """Yield the database that the settings name. Without a name, run the embedded server until the block ends."""
    if settings.database_url is not None:
        yield Database(settings.database_url)
        return
    starting = asyncio.create_task(asyncio.to_thread(EmbeddedPostgres.start, settings.data_dir / "postgres"))
    try:
        server = await asyncio.shield(starting)
    except asyncio.CancelledError:  # a thread cannot be cancelled: it still starts the server, which must be stopped
        await asyncio.to_thread((await starting).stop)
        raise
    try:
        async with (background or BackgroundTasks()).running("embedded_postgres", server.keep_up):
            yield Database(server.url(), server.alone)
    finally:
        await asyncio.to_thread(server.stop)


@dataclass(frozen=True, kw_only=True)
class Log:
    """The stores of the log, and what its processes share it by."""

    events: EventStore
    snapshots: SnapshotStore
    leases: LeaseStore
    wakeups: Wakeups
    seals: SealStore
    models: ReadModels
    archive: LogArchive
    accesses: AccessLog
    texts: TextStore
    ledger: Ledger
    finder: Finder
    suspects: Suspects
    loans: Loans
    identity: IdentityStore
    vectors: VectorStore | None = None
    hot: HotStore | None = None
    url: str | None = None
    """The database's URL; None if everything is in memory."""


async def open_log(settings: Settings, stack: AsyncExitStack, clock: SystemClock, background: BackgroundTasks) -> Log:
    """Open the stores that the settings name; the stack closes them. Raises asyncpg's errors without a database."""
    if settings.database_url == MEMORY:
        return _memory_log(clock)
    found = await stack.enter_async_context(database(settings, background))
    await migrate(found.url)
    pool = await open_pool(found.url, max_size=settings.max_connections)
    stack.push_async_callback(close_pool, pool)
    await check_sessions(pool)
    events, accesses, ledger = PostgresEventStore(pool), PostgresAccessLog(pool), PostgresLedger(pool)
    for store in (events, accesses, ledger):
        stack.push_async_callback(store.close)
    leases, hot = PostgresLeaseStore(pool), None
    if found.alone:  # every process that held a lease is dead: no worker needs to wait until its lease expires
        await leases.expire_all()
    wakeups: Wakeups
    if settings.redis_url is None:
        wakeups = PostgresWakeups(found.url, pool, background)
        stack.push_async_callback(wakeups.close)
    else:
        wakeups, hot = _over_redis(settings.redis_url, await database_name(pool), stack, background)
    return Log(
        events=events,
        snapshots=PostgresSnapshotStore(pool),
        leases=leases,
        wakeups=wakeups,
        seals=PostgresSealStore(pool),
        models=PostgresReadModels(pool),
        archive=PostgresArchive(pool),
        accesses=accesses,
        texts=PostgresTextStore(pool),
        ledger=ledger,
        finder=PostgresFinder(pool),
        suspects=PostgresSuspects(pool),
        loans=PostgresLoans(pool),
        identity=PostgresIdentityStore(pool),
        vectors=await _vectors(settings, found.url, pool),
        hot=hot,
        url=found.url,
    )


def _memory_log(clock: SystemClock) -> Log:
    events = MemoryEventStore()
    leases = MemoryLeaseStore(clock, events)
    models = MemoryReadModels(events.head_of, clock)
    return Log(
        events=events,
        snapshots=MemorySnapshotStore(),
        leases=leases,
        wakeups=MemoryWakeups(),
        seals=MemorySealStore(),
        models=models,
        archive=MemoryArchive(events),
        accesses=MemoryAccessLog(),
        texts=MemoryTextStore(),
        ledger=MemoryLedger(),
        finder=MemoryFinder(models, MESSAGES),
        suspects=leases.suspects,
        loans=leases.loans,
        identity=MemoryIdentityStore(clock.now),
        vectors=MemoryVectorStore(),
    )


def _over_redis(
    url: SecretStr, database_name: str, stack: AsyncExitStack, background: BackgroundTasks
) -> tuple[Wakeups, HotStore]:
    """Connect to Redis. Its client takes a tenth of a second to import, so that is done only where it is used."""
    from redis.asyncio import Redis  # noqa: PLC0415

    from infrastructure.redis.hot import RedisHotStore  # noqa: PLC0415
    from infrastructure.redis.wakeups import RedisWakeups  # noqa: PLC0415

    redis = Redis.from_url(url.get_secret_value())
    stack.push_async_callback(redis.aclose)
    wakeups = RedisWakeups(redis, database_name, background)
    stack.push_async_callback(wakeups.close)
    return wakeups, RedisHotStore(redis, database_name)


async def _vectors(settings: Settings, url: str, pool: asyncpg.Pool) -> VectorStore | None:
    """Prepare the store of vectors if embeddings are configured. Without pgvector, recall works by words only."""
    if settings.embedding_endpoint is None:
        return None
    vectors = PostgresVectorStore(pool)
    try:
        await vectors.prepare(url)
    except asyncpg.PostgresError as error:
        _log.warning("EMBEDDING_ENDPOINT is not used: PostgreSQL needs the extension vector (pgvector): %s", error)
        return None
    return vectors
