"""Ways in which PostgreSQL does not do what it is asked for a while, and does again afterwards.

Most raise an SQLSTATE from a trigger, as a full disk or a cancelled statement would: only some statements fail, and the
connection lives. The others are the real thing: connections cut, statements cancelled, tables locked, sessions that
can only read, a server that is frozen.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from tests.e2e.server_process import postgres_processes

SQLSTATES = (
    *("53000", "53100", "53200", "53300", "53400", "54000", "54001", "54023", "55000", "55006", "55P03", "57000"),
    *("57014", "57P01", "57P02", "57P03", "57P04", "57P05", "58000", "58030", "58P01", "25006", "25P03", "40000"),
    *("40001", "40003", "40P01", "XX000", "XX001", "XX002", "08000", "08001", "08003", "08004", "08006", "08007"),
    *("08P01", "0A000", "28000", "3D000", "42501", "F0000", "HV000", "P0001"),
)
"""Everything but errors of integrity and of data may mean that the store is not available just now."""

TABLES = (
    *("events", "events", "events", "threads", "slices", "commands", "leases", "workers", "snapshots"),
    *("spending", "reservations", "reads", "read_models.positions"),
)

ANY_EVENT = ""
EVENTS = (ANY_EVENT, "ModelCalled", "NodeCompleted", "ToolSucceeded", "ItemCompleted", "ToolStarted", "TurnCompleted")
"""Which events cannot be stored: often small ones still fit where a large one does not."""

REAL = ("terminate", "cancel", "read_only", "lock", "lock_timeout", "statement_timeout", "no_connections", "freeze")

EVERYONE = "SELECT pg_{how}_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'threadfold'"


COUNTER = "CREATE SEQUENCE public.troubles MINVALUE 0 START 0"


@dataclass
class Met:
    """How many statements have met a fault."""

    statements: int = 0


@dataclass(frozen=True)
class Fault:
    """What does not work, and for how many seconds."""

    kind: str
    seconds: float
    table: str = "events"
    event: str = ANY_EVENT
    share: float = 1.0
    """Of the statements that fail."""

    @property
    def told(self) -> str:
        """Name it."""
        of = f" of {self.event}" if self.event else ""
        return f"{self.kind} on {self.table}{of} for {self.seconds:.1f} s, {self.share:.0%} of the statements"


def draw(seed: int, chance: random.Random) -> Fault:
    """Draw a fault. So many seeds in a row have each SQLSTATE once, and each of the real faults."""
    kinds = (*SQLSTATES, *REAL)
    kind, seconds = kinds[seed % len(kinds)], chance.uniform(2, 6)
    if kind in REAL:
        return Fault(kind, seconds, chance.choice(["events", "threads", "slices", "leases", "spending"]))
    table = chance.choice(TABLES)
    event = chance.choice(EVENTS) if table == "events" else ANY_EVENT
    return Fault(kind, seconds, table, event, chance.choice([1.0, 1.0, 0.5]))


@asynccontextmanager
async def injected(fault: Fault, server: str, url: str, directory: Path) -> AsyncIterator[Met]:
    """Have the fault meanwhile. `server` is another database of the same server, whose files are in `directory`."""
    if fault.kind not in REAL:
        async with _raising(fault, url) as met:
            yield met
        return
    async with _real(fault, server, url, directory):
        yield Met(1)


@asynccontextmanager
async def _real(fault: Fault, server: str, url: str, directory: Path) -> AsyncIterator[None]:
    name = urlsplit(url).path.removeprefix("/")
    match fault.kind:
        case "terminate" | "cancel":
            async with _repeating(server, EVERYONE.format(how=fault.kind), name):
                yield
        case "freeze":
            with _frozen(directory):
                yield
        case "no_connections":
            async with _setting(server, name, "ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true"):
                yield
        case "read_only":
            setting = "default_transaction_read_only"
            async with _setting(server, name, f"SET {setting} = on", f"RESET {setting}"):
                yield
        case "lock":
            async with _locked(url, fault.table):
                yield
        case _:
            async with (
                _setting(server, name, f"SET {fault.kind} = '300ms'", f"RESET {fault.kind}"),
                _locked(url, fault.table),
            ):
                yield
    if fault.kind.endswith("_timeout"):  # sessions keep it, as they keep to be read-only: only a new one is as before
        await _execute(server, EVERYONE.format(how="terminate"), name)


@asynccontextmanager
async def _raising(fault: Fault, url: str) -> AsyncIterator[Met]:
    # A sequence keeps its count when a statement is rolled back.
    function = f"""
        CREATE OR REPLACE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF random() < {fault.share} THEN
                PERFORM nextval('public.troubles');
                RAISE EXCEPTION 'trouble' USING ERRCODE = '{fault.kind}';
            END IF;
            RETURN NEW;
        END $$"""
    when = f"WHEN (NEW.type = '{fault.event}')" if fault.event else ""
    trigger = f"""
        CREATE TRIGGER trouble BEFORE INSERT OR UPDATE ON {fault.table}
        FOR EACH ROW {when} EXECUTE FUNCTION public.trouble()"""
    for statement in (
        "DROP SEQUENCE IF EXISTS public.troubles",
        COUNTER,
        "GRANT USAGE ON SEQUENCE public.troubles TO PUBLIC",
        function,
        trigger,
    ):
        await _execute(url, statement)
    met = Met()
    try:
        yield met
    finally:
        await _execute(url, f"DROP TRIGGER trouble ON {fault.table}")
        ((met.statements,),) = await _execute(url, "SELECT last_value + is_called::int FROM public.troubles")


@asynccontextmanager
async def _repeating(server: str, statement: str, database: str) -> AsyncIterator[None]:
    async def repeat() -> None:
        connection = await asyncpg.connect(server)
        try:
            while True:
                await connection.fetch(statement, database)
                await asyncio.sleep(0.1)
        finally:
            connection.terminate()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _setting(server: str, database: str, begin: str, end: str) -> AsyncIterator[None]:
    """Change a database, so that all its sessions begin again with it; and change it back, which they do not notice."""
    await _execute(server, f"ALTER DATABASE {database} {begin}")
    await _execute(server, EVERYONE.format(how="terminate"), database)
    try:
        yield
    finally:
        await _execute(server, f"ALTER DATABASE {database} {end}")


@asynccontextmanager
async def _locked(url: str, table: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(url, server_settings={"lock_timeout": "0", "statement_timeout": "0"})
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        connection.terminate()


@contextmanager
def _frozen(directory: Path) -> Iterator[None]:
    """Stop the server's processes meanwhile, as on a machine that is moved or swaps."""
    pids = postgres_processes(directory)
    try:
        _signal(pids, signal.SIGSTOP)
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: Sequence[int], how: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)


async def _execute(url: str, statement: str, *arguments: object) -> Sequence[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        rows: Sequence[asyncpg.Record] = await connection.fetch(statement, *arguments)
        return rows
    finally:
        await connection.close()
