"""Where the log is kept, and what its processes share: PostgreSQL, the embedded one or another, or memory."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import asyncpg
from redis.asyncio import Redis

from domain.application.background_tasks import BackgroundTasks
from domain.ports.access_log import AccessLog
from domain.ports.archive import LogExport, LogImport
from domain.ports.hot import HotStore
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
from infrastructure.embedded import EmbeddedPostgres
from infrastructure.memory.access_log import MemoryAccessLog
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
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
from infrastructure.postgres.wakeups import open_wakeups
from infrastructure.redis.hot import RedisHotStore
from infrastructure.redis.wakeups import RedisWakeups
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
    """The log as a whole, to take it out of its store or to put it in."""


@dataclass(frozen=True)
class Database:
    """Where the log is kept. `alone`: this process started the server, and no other one was there."""

    url: str
    alone: bool = False


@asynccontextmanager
async def database(settings: Settings, background: BackgroundTasks | None = None) -> AsyncIterator[Database]:
    """Name the database of the settings. If none is named, start the embedded server, and keep it up meanwhile."""
    if settings.database_url is not None:
        yield Database(settings.database_url)
        return
    starting = asyncio.create_task(asyncio.to_thread(EmbeddedPostgres.start, settings.data_dir / "postgres"))
    try:
        server = await asyncio.shield(starting)
    except asyncio.CancelledError:  # a thread cannot be cancelled: the server comes up, and nobody would stop it
        await asyncio.to_thread((await starting).stop)
        raise
    try:
        async with (background or BackgroundTasks()).running("embedded_postgres", server.keep_up):
            yield Database(server.url(), server.alone)
    finally:
        await asyncio.to_thread(server.stop)


@dataclass(frozen=True)
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
    vectors: VectorStore | None = None
    hot: HotStore | None = None
    url: str | None = None


async def open_log(settings: Settings, stack: AsyncExitStack, clock: SystemClock, background: BackgroundTasks) -> Log:
    """Open what the settings ask for; the stack lets it go. Raises asyncpg's errors where there is no database."""
    if settings.database_url == MEMORY:
        memory = MemoryEventStore()
        memory_leases = MemoryLeaseStore(clock, memory)
        memory_models = MemoryReadModels(memory.head_of, clock)
        return Log(
            memory,
            MemorySnapshotStore(),
            memory_leases,
            MemoryWakeups(),
            MemorySealStore(),
            memory_models,
            MemoryArchive(memory),
            MemoryAccessLog(),
            MemoryTextStore(),
            MemoryLedger(),
            MemoryFinder(memory_models, MESSAGES),
            memory_leases.suspects,
            memory_leases.loans,
            MemoryVectorStore(),
        )
    found = await stack.enter_async_context(database(settings, background))
    await migrate(found.url)
    pool = await open_pool(found.url, max_size=settings.max_connections)
    stack.push_async_callback(close_pool, pool)
    await check_sessions(pool)
    events, leases, archive = PostgresEventStore(pool), PostgresLeaseStore(pool), PostgresArchive(pool)
    accesses, texts, ledger = PostgresAccessLog(pool), PostgresTextStore(pool), PostgresLedger(pool)
    stack.push_async_callback(events.close)
    stack.push_async_callback(accesses.close)
    stack.push_async_callback(ledger.close)
    if found.alone:  # every process that held a lease is dead: no worker needs to wait until it runs out
        await leases.expire_all()
    snapshots, seals, models = PostgresSnapshotStore(pool), PostgresSealStore(pool), PostgresReadModels(pool)
    finder, suspects, loans = PostgresFinder(pool), PostgresSuspects(pool), PostgresLoans(pool)
    vectors = await _vectors(settings, found.url, pool)
    if settings.redis_url is None:
        wakeups = await stack.enter_async_context(open_wakeups(found.url, pool, background))
        return Log(
            *(events, snapshots, leases, wakeups, seals, models, archive, accesses, texts, ledger, finder),
            *(suspects, loans, vectors),
            url=found.url,
        )
    redis = Redis.from_url(settings.redis_url.get_secret_value())
    stack.push_async_callback(redis.aclose)
    name = await database_name(pool)
    over_redis = RedisWakeups(redis, name, background)
    stack.push_async_callback(over_redis.close)
    hot = RedisHotStore(redis, name)
    return Log(
        *(events, snapshots, leases, over_redis, seals, models, archive, accesses, texts, ledger, finder),
        *(suspects, loans, vectors, hot),
        url=found.url,
    )


async def _vectors(settings: Settings, url: str, pool: asyncpg.Pool) -> VectorStore | None:
    """Prepare the store of vectors, if anybody makes some. Without pgvector, messages are found by their words."""
    if settings.embedding_endpoint is None:
        return None
    vectors = PostgresVectorStore(pool)
    try:
        await vectors.prepare(url)
    except asyncpg.PostgresError as error:
        _log.warning("EMBEDDING_ENDPOINT is not used: PostgreSQL needs the extension vector (pgvector): %s", error)
        return None
    return vectors
