"""PostgreSQL killed again and again while four workers run turns: is anything lost or doubled that was acknowledged?"""

import asyncio
import pathlib
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

from api.http.caller import Caller
from api.runtime.composition import open_runtime
from api.services.threads import Service
from domain.application.audit.verify import verify_slices
from domain.errors import StoreUnavailable
from domain.ids import SLICES, Slice, ThreadId
from domain.thread.events import MessageAppended, TurnCompleted, TurnEnd, TurnStarted
from infrastructure.embedded.server import EmbeddedPostgres
from infrastructure.settings import Settings
from tests.chaos import worker
from tests.e2e.server_process import kill_postgres

WORKERS = 4
THREADS = 50
AGENTS = "tests.support.agents:slow"
PACE = (0.5, 6.0)
"""Seconds between a customer's messages."""


@dataclass
class Report:
    """What was done and seen."""

    turns: int = 0
    kills: int = 0
    seconds: float = 0.0
    acknowledged: dict[ThreadId, list[tuple[str, str, int]]] = field(default_factory=dict)
    """For each thread: the turn, what was said, and the version that was handed out for it."""
    faults: list[str] = field(default_factory=list)


async def run(directory: pathlib.Path, turns: int, seed: int, between: tuple[float, float] = (5, 20)) -> Report:
    """Have so many turns, and kill PostgreSQL at random times."""
    chance, report, began = random.Random(seed), Report(), time.monotonic()
    server = await asyncio.to_thread(EmbeddedPostgres.start, directory / "postgres")
    environment = {"DATABASE_URL": server.url(), "AGENTS": AGENTS, "LEASE_SECONDS": "2", "MAX_CONNECTIONS": "5"}
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None, database_url=server.url(), agents=(AGENTS,), max_connections=10
    )
    processes = []
    try:
        async with open_runtime(settings) as runtime:
            processes = [worker.start(environment) for _ in range(WORKERS)]
            service = Service(runtime)
            done = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                killing = group.create_task(_kill(directory, chance, between, report, done))
                await asyncio.gather(*[_converse(service, turns // THREADS, chance, report) for _ in range(THREADS)])
                done.set()
            server = killing.result() or server
            await _check(service, report)
    finally:
        for process in processes:
            process.kill()
            process.join()
        await asyncio.to_thread(server.stop)
    report.seconds = time.monotonic() - began
    return report


async def _kill(
    directory: pathlib.Path, chance: random.Random, between: tuple[float, float], report: Report, done: asyncio.Event
) -> EmbeddedPostgres | None:
    """Kill the server and start it anew, until all is done; return the last one."""
    server = None
    while not done.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.uniform(*between)):
                await done.wait()
        if not done.is_set():
            kill_postgres(directory)
            report.kills += 1
            server = await asyncio.to_thread(EmbeddedPostgres.start, directory / "postgres")
    return server


async def _converse(service: Service, turns: int, chance: random.Random, report: Report) -> None:
    """Say one thing after the other, each with a key, and ask again until it is taken."""
    thread_id = ThreadId(uuid4())
    said = report.acknowledged.setdefault(thread_id, [])
    for number in range(turns):
        caller = Caller(key=f"message-{number}")
        while True:
            try:
                started = await service.start_turn(
                    thread_id, f"message {number}", caller, open_with="slow", graph="slow"
                )
                break
            except StoreUnavailable:
                await asyncio.sleep(0.2)
        said.append((str(started.turn_id), f"message {number}", started.outcome.loaded.head.version))
        while True:
            try:
                turn = await service.turn_end(started.outcome, started.turn_id, 120)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.2)
        if turn is None or turn.status != "completed":
            report.faults.append(f"{thread_id}: turn {number} is {turn.status if turn else 'stuck'}")
            return
        report.turns += 1
        await asyncio.sleep(chance.uniform(*PACE))


async def _check(service: Service, report: Report) -> None:
    store = service.runtime.repository.store
    report.faults += (await verify_slices(store, map(Slice, range(SLICES)))).problems
    for thread_id, acknowledged in report.acknowledged.items():
        recorded = [r async for r in service.runtime.repository.follow(thread_id)]
        events = [r.event for r in recorded]
        begun = Counter(str(event.turn_id) for event in events if isinstance(event, TurnStarted))
        ended = Counter(str(event.turn_id) for event in events if isinstance(event, TurnEnd))
        completed = sum(isinstance(event, TurnCompleted) for event in events)
        ours = {turn for turn, _, _ in acknowledged}
        if set(begun) != ours or begun != ended or set(begun.values()) - {1} or completed != len(ours):
            report.faults.append(f"{thread_id}: acknowledged {len(ours)}, began {begun.total()}, ended {ended.total()}")
        by_version = {r.version: r.event for r in recorded}
        for _, text, version in acknowledged:
            event = by_version.get(version)  # type: ignore[call-overload]
            if not (isinstance(event, MessageAppended) and event.content == text):
                report.faults.append(f"{thread_id}: {text!r} was acknowledged at version {version}, where {event} is")
        spoken = sum(isinstance(event, MessageAppended) and event.role == "assistant" for event in events)
        if spoken != 2 * len(ours):
            report.faults.append(f"{thread_id}: {spoken} answers to {len(ours)} messages")
