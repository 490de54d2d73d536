"""Workers that are stopped beyond their lease and wake up again: is anything accepted of what they write then?"""

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from uuid import uuid4

from api.http.caller import Caller
from api.runtime.composition import open_runtime
from api.services.threads import Service
from domain.application.audit.verify import verify_thread
from domain.ids import ThreadId
from domain.thread.codec import Recorded
from domain.thread.events import MessageAppended, TurnCompleted, TurnResumed
from infrastructure.settings import Settings
from tests.chaos import worker
from tests.chaos.steps import COUNT

AGENTS = "tests.chaos.steps:steps"

PATIENCE = 60.0
"""Seconds that a worker may take to begin, and another one to take over."""


async def run(url: str, seed: int) -> list[str]:
    """Freeze a worker in a turn, let another one take over, wake the first one up while that works; list faults."""
    chance = random.Random(seed)
    environment = {"DATABASE_URL": url, "AGENTS": AGENTS, "LEASE_SECONDS": "1", "MAX_CONNECTIONS": "4"}
    settings = Settings(_env_file=None, database_url=url, agents=(AGENTS,), max_connections=4)  # type: ignore[call-arg]
    thread_id = ThreadId(uuid4())
    async with open_runtime(settings) as runtime:
        service = Service(runtime)
        first = worker.start(environment)
        second = None
        try:
            started = await service.start_turn(thread_id, "go", Caller(), open_with="steps")
            await _until(service, thread_id, chance.randint(4, 20))
            os.kill(first.pid or 0, signal.SIGSTOP)
            second = worker.start(environment)
            await _resumed(service, thread_id, first.pid or 0)
            await asyncio.sleep(chance.random() * 0.8)
            os.kill(first.pid or 0, signal.SIGCONT)
            turn = await service.turn_end(started.outcome, started.turn_id, 60)
            await asyncio.sleep(0.5)  # for what the first one may still try
            recorded = [event async for event in runtime.repository.follow(thread_id)]
            problems = [*(await verify_thread(runtime.repository.store, thread_id)).problems]
        finally:
            os.kill(first.pid or 0, signal.SIGCONT)
            for process in filter(None, (first, second)):
                process.kill()
                process.join()
    if turn is None:
        problems.append("the turn is stuck")
    return problems + check(recorded)


def check(recorded: Sequence[Recorded]) -> list[str]:
    """Check that from each resumption on nothing was said but by its worker, and everything once.

    A worker that is slow on a busy machine may be resumed as well, and the turn may then run in a process of its own.
    """
    faults, owner, said = [], None, 0
    for r in recorded:
        if isinstance(r.event, TurnResumed):
            owner = r.event.worker.rpartition(":")[2]
        elif isinstance(r.event, MessageAppended) and r.event.role == "assistant":
            said += 1
            owner = owner or r.event.content
            if r.event.content != owner:
                faults.append(f"accepted of a process that {owner} has resumed the turn of: {r}")
    if said != COUNT:
        faults.append(f"{said} of {COUNT} nodes have spoken")
    if sum(isinstance(r.event, TurnCompleted) for r in recorded) != 1:
        faults.append("the turn has not one end")
    return faults


async def _until(service: Service, thread_id: ThreadId, version: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await service.existing(thread_id, Caller())).head.version < version:
            await asyncio.sleep(0.005)


async def _resumed(service: Service, thread_id: ThreadId, but: int) -> None:
    """Wait until the turn is resumed by another process than the frozen one."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async for recorded in service.runtime.repository.follow(thread_id):
                if isinstance(recorded.event, TurnResumed) and not recorded.event.worker.endswith(f":{but}"):
                    return
            await asyncio.sleep(0.02)
