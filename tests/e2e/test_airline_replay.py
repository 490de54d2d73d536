"""Recorded conversations over HTTP, while the server is killed again and again: nothing is lost, nothing doubled.

Here every fourth one, from the longest on; `make chaos` has all 40 (`REPLAY_EVERY=1`).
"""

import asyncio
import os
import pathlib
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from uuid import uuid4

import asyncpg
import httpx
import pytest
from msgspec.structs import replace

from api.runtime.stores import SystemClock
from domain.application.audit.verify import verify_slices
from domain.application.fork import Fork, fork
from domain.application.replay import Replay
from domain.application.thread_repository import ThreadRepository
from domain.ids import SLICES, START, Slice, ThreadId, Version
from domain.thread.codec import Metadata, decode
from domain.thread.evolve import evolve
from domain.thread.state import INITIAL, State
from examples.airline.agent import airline
from examples.airline.recordings import Conversation, conversations
from infrastructure.embedded.server import EmbeddedPostgres
from infrastructure.fingerprint import fold_fingerprint
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from infrastructure.token_counter import TiktokenCounter
from tests.e2e.airline import Customer, as_recorded, as_served
from tests.e2e.server_process import ServerProcess, kill_postgres, recorded_model, threadfold

AT_ONCE = 8
"""Conversations that go on at the same time."""

EVERY = int(os.environ.get("REPLAY_EVERY", "4"))
"""Of so many conversations, one is played."""

KILLS = 11 if EVERY == 1 else 5
"""One before each of the customers' second to twelfth words, of which only one says more; or to the sixth."""

POSTGRES_TOO = 3
"""At every third kill of the server, PostgreSQL is killed with it."""

AGAIN = 5
"""After a kill, every fifth of the last requests comes again."""

SETTINGS = {"AGENTS": "examples.airline.agent:airline", "CONTEXT_WINDOW_LIMIT": "32000", "SNAPSHOT_EVERY": "20"}

TABLES = ("events", "threads", "commands", "snapshots", "slices")


def chosen() -> Sequence[Conversation]:
    """Choose the conversations: the longest, and every so many after it."""
    return sorted(conversations().values(), key=lambda each: len(customer_says(each)), reverse=True)[::EVERY]


@dataclass
class Played:
    """What the customers saw, and what was done to the server meanwhile."""

    turns: int = 0
    kills: int = 0
    kills_of_postgres: int = 0
    seconds: float = 0.0
    checkpoints: defaultdict[ThreadId, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Every checkpoint that was handed out after a turn: from then on the turn is durable."""


@pytest.mark.timeout(600)
async def test_recorded_conversations_survive_a_server_that_is_killed_between_turns(tmp_path: pathlib.Path) -> None:
    data_dir = tmp_path / "data"
    async with (
        recorded_model(tmp_path) as model,
        threadfold(tmp_path, LLM_ENDPOINT=f"{model.url}/v1", **SETTINGS) as server,
        embedded(data_dir) as url,
    ):
        async with await open_pool(url, max_size=1) as pool:
            empty = await sizes(pool)
        played = await play(server, data_dir)
        assert (played.kills, played.kills_of_postgres) == (KILLS, KILLS // POSTGRES_TOO)
        await check_transcripts(server)
        await check_each_answer_was_asked_for_once(model)
        async with await open_pool(url, max_size=1) as pool:
            await check_places(pool)
            await check_turns(pool)
            await check_acknowledged(pool, played.checkpoints)
            verified = await verify_slices(PostgresEventStore(pool), map(Slice, range(SLICES)))
            assert (verified.threads, verified.problems) == (len(chosen()), ())
            assert await check_every_version(pool) > 0
            await check_recorded_replay(pool)
            await check_forks(pool)
            full = await sizes(pool)
    report(played, verified.events, {table: full[table] - empty[table] for table in TABLES})


async def play(server: ServerProcess, data_dir: pathlib.Path) -> Played:
    """Let all customers say their first words, then all their second ones, and so on; with a kill in between."""
    played = Played()
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        customers = [Customer(client, c, waits=i % 3 > 0) for i, c in enumerate(chosen())]
        for number in range(max(len(customer.says) for customer in customers)):
            talking = [customer for customer in customers if number < len(customer.says)]
            if 0 < number <= KILLS:
                await crash(server, data_dir, played)
                await repeat(talking[::AGAIN], number - 1, played)
            await say(talking, number, played)
    played.seconds = time.monotonic() - began
    return played


async def say(customers: Sequence[Customer], number: int, played: Played) -> None:
    """Let each customer say the message of this number, some at the same time, and wait for all answers."""
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(customer: Customer) -> None:
        async with at_once:
            checkpoint = await customer.say(number)
        played.checkpoints[ThreadId(customer.conversation.thread_id)].append(checkpoint)
        played.turns += 1

    async with asyncio.TaskGroup() as group:
        for customer in customers:
            group.create_task(one(customer))


async def repeat(customers: Iterable[Customer], number: int, played: Played) -> None:
    """Ask once more for what was done before the crash, as a client does that never saw the answer."""
    for customer in customers:
        checkpoint = await customer.say(number)
        assert checkpoint == played.checkpoints[ThreadId(customer.conversation.thread_id)][-1]


async def crash(server: ServerProcess, data_dir: pathlib.Path, played: Played) -> None:
    """Kill the server, now and then PostgreSQL as well, and start again."""
    await server.kill()
    played.kills += 1
    if played.kills % POSTGRES_TOO == 0:
        kill_postgres(data_dir)
        played.kills_of_postgres += 1
    await server.start()


async def check_transcripts(server: ServerProcess) -> None:
    """What the API serves is what was recorded."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        for conversation in chosen():
            served = await Customer(client, conversation).messages()
            assert [*map(as_served, served)] == [*map(as_recorded, conversation.messages)], conversation.id


async def check_each_answer_was_asked_for_once(model: ServerProcess) -> None:
    """No crash made the model say something again."""
    async with httpx.AsyncClient(base_url=model.url, trust_env=False) as client:
        answered = (await client.get("/answered")).raise_for_status().json()
    recorded = {str(c.thread_id): sum(m["role"] == "assistant" for m in c.messages) for c in chosen()}
    assert answered == recorded


async def check_places(pool: asyncpg.Pool) -> None:
    """Versions have no gap in their thread, positions none in their slice, and the heads are where these end."""
    threads = await pool.fetch("""
        SELECT thread_id
          FROM threads LEFT JOIN events USING (slice, thread_id)
         GROUP BY slice, thread_id, threads.version
        HAVING min(events.version) <> 1 OR max(events.version) <> count(*) OR threads.version <> count(*)
    """)
    slices = await pool.fetch("""
        SELECT slice
          FROM slices LEFT JOIN events USING (slice)
         GROUP BY slice, head
        HAVING min(position) <> 1 OR max(position) <> count(position) OR head <> count(position)
    """)
    assert (threads, slices) == ([], [])


async def check_turns(pool: asyncpg.Pool) -> None:
    """Each message of a customer is there once, in its order; each began one turn, which has ended once, and well."""
    for conversation in chosen():
        thread_id, says = conversation.thread_id, [m["content"] for m in conversation.messages if m["role"] == "user"]
        said = await pool.fetch(
            """
            SELECT payload ->> 'content' AS content
              FROM events
             WHERE thread_id = $1 AND type = 'MessageAppended' AND payload ->> 'role' = 'user'
             ORDER BY version
            """,
            thread_id,
        )
        turns = await pool.fetch(
            """
            SELECT array_agg(type ORDER BY version) AS events
              FROM events
             WHERE thread_id = $1 AND type IN ('TurnStarted', 'TurnCompleted', 'TurnFailed')
             GROUP BY payload ->> 'turn_id'
            """,
            thread_id,
        )
        assert [row["content"] for row in said] == says
        assert [row["events"] for row in turns] == [["TurnStarted", "TurnCompleted"]] * len(says)


async def check_acknowledged(pool: asyncpg.Pool, checkpoints: Mapping[ThreadId, Sequence[str]]) -> None:
    """What a customer was told is done, is still there, with the same hash."""
    for thread_id, given in checkpoints.items():
        rows = await pool.fetch("SELECT version, hash FROM events WHERE thread_id = $1", thread_id)
        assert {*given} <= {f"{row['version']}-{row['hash'].hex()[:8]}" for row in rows}


async def check_recorded_replay(pool: asyncpg.Pool) -> None:
    """Replayed with what was recorded, every turn is as the log has it, and neither a model nor a tool is asked."""

    async def never(_: object, __: object) -> str:
        raise AssertionError("a replay calls no tool")

    idle = replace_fields(airline, tools=[replace(tool, run=never) for tool in airline.tools])
    repository = journal_on(pool)
    replay = Replay(
        repository, sandbox, TiktokenCounter("default"), int(SETTINGS["CONTEXT_WINDOW_LIMIT"]), SystemClock()
    )
    turns = [turn for c in chosen() for turn in await replay.thread(ThreadId(c.thread_id), idle)]
    assert len(turns) == sum(len(customer_says(c)) for c in chosen())
    assert [turn for turn in turns if turn.parted is not None or turn.prompts_then != turn.prompts_now] == []


async def check_forks(pool: asyncpg.Pool) -> None:
    """Forked at each of its versions, a conversation's fork is what its parent was there; it stores one event."""
    repository = journal_on(pool)
    parent = ThreadId(min(chosen(), key=lambda c: len(c.messages)).thread_id)
    last = (await repository.load(parent)).head.version
    for version in range(1, last + 1):
        fork_id = ThreadId(uuid4())
        await fork(repository, fork_id, Fork(parent, Version(version), resume=True), Metadata())
        left = await repository.load_at(parent, Version(version))
        forked = await journal_on(pool).load_at(fork_id, Version(version + 1))
        assert replace(forked.state, version=left.state.version) == left.state
        assert len(await repository.store.read(fork_id, START)) == 1
    verified = await verify_slices(repository.store, map(Slice, range(SLICES)))
    assert (verified.threads, verified.problems) == (len(chosen()) + last, ())


def journal_on(pool: asyncpg.Pool) -> ThreadRepository:
    stores = PostgresEventStore(pool), PostgresSnapshotStore(pool)
    return ThreadRepository(*stores, SystemClock(), fingerprint=fold_fingerprint())


def sandbox() -> ThreadRepository:
    return ThreadRepository(MemoryEventStore(), MemorySnapshotStore(), SystemClock(), fingerprint="sandbox")


def customer_says(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages if message["role"] == "user"]


async def check_every_version(pool: asyncpg.Pool) -> int:
    """Folding all events gives the state that a snapshot and the tail give. Returns how often a snapshot was used."""
    store, snapshots = PostgresEventStore(pool), PostgresSnapshotStore(pool)
    repository = ThreadRepository(store, snapshots, SystemClock(), fingerprint=fold_fingerprint())
    used = 0
    for thread_id in [ThreadId(conversation.thread_id) for conversation in chosen()]:
        state: State = INITIAL
        for record in await store.read(thread_id, START):
            state = evolve(state, decode(record).event, record.recorded_at)
            loaded = await repository.load_at(thread_id, record.version)
            assert (loaded.state, loaded.head.hash) == (state, record.hash)
            used += await snapshots.nearest(thread_id, record.version, fold_fingerprint()) is not None
    return used


@asynccontextmanager
async def embedded(data_dir: pathlib.Path) -> AsyncIterator[str]:
    """Share the server's PostgreSQL, and stop it at the end if the server cannot."""
    assert (data_dir / "postgres").is_dir(), "The server uses another database. Does .env name one?"
    postgres = await asyncio.to_thread(EmbeddedPostgres.start, data_dir / "postgres")
    try:
        yield postgres.url()
    finally:
        await asyncio.to_thread(postgres.stop)


async def sizes(pool: asyncpg.Pool) -> Mapping[str, int]:
    """Measure tables with their indexes, in bytes."""
    return {table: await pool.fetchval("SELECT pg_total_relation_size($1::regclass)", table) for table in TABLES}


def report(played: Played, events: int, grown: Mapping[str, int]) -> None:
    """Say what was measured; also in the file that REPLAY_REPORT names."""
    turns = played.turns
    each = ", ".join(f"{table} {size / turns:,.0f}" for table, size in grown.items())
    text = (
        f"{turns} turns, {events} events, {events / turns:.1f} events a turn, "
        f"{sum(grown.values()) / turns:,.0f} bytes a turn ({each}); "
        f"{played.kills} kills, {played.kills_of_postgres} with PostgreSQL; {played.seconds:.0f} s\n"
    )
    sys.stdout.write(text)
    if path := os.environ.get("REPLAY_REPORT"):
        pathlib.Path(path).write_text(text)
