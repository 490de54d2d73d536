"""Redis killed, hanging, or started again with nothing in it, while turns of each durability run in two processes.

In some runs a process is killed as well. PostgreSQL is there all the time, so every turn must go on within a bounded
time. An answer of durability `async` that was given may be lost only where Redis and the process were killed, as
docs/http.md says.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

from tests.chaos import innocent
from tests.chaos.client import Begun, Client
from tests.chaos.crashes import new_database
from tests.chaos.effects import EFFECTS, read_effects, repeated
from tests.chaos.ends import Ends, described, stories
from tests.chaos.serving import cancelled, keep_running, pace_of, serving
from tests.e2e.server_process import ServerProcess
from tests.support.redis_server import RedisServer

How = Literal["killed", "gone", "frozen", "emptied"]
HOWS: Sequence[How] = ("killed", "frozen", "emptied", "gone")

LEASE = 3
AGENTS = innocent.AGENTS
TURNS = 24
LASTS = (25.0, 35.0)
"""Seconds that Redis is away."""

TURNS_TAKE = 20.0
"""Seconds within which a turn must have ended: it sleeps for some, and a bounded wait for Redis goes by. That is less
than Redis is away: it must not be waited for."""

HANDED_OVER = 40.0
"""The same, where a process was killed: a lease runs out, and the turn begins its node again."""

BEGINNING = 12.0
"""Seconds within which turns are begun, two of them before Redis goes."""

ANSWERED_WITHIN = 120.0


@dataclass
class Report:
    """What was seen in a run."""

    seed: int
    how: How
    process_killed: bool
    pace: float = 1.0
    """What bounds of time are multiplied by: see `pace_of`."""
    turns: int = 0
    answers: int = 0
    """Answers that were waited for and given."""
    lost: int = 0
    """Of these, those that are not in the log, where that may be."""
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def may_lose(self) -> bool:
        """Say whether an answer may be lost that only Redis had."""
        return self.how != "frozen" and self.process_killed


async def run(server: str, template: str, directory: Path, seed: int) -> Report:
    """Have the outage of this seed."""
    chance = random.Random(seed)
    report = Report(seed, HOWS[seed % len(HOWS)], process_killed=chance.random() < 0.5)
    effects = directory / "effects.jsonl"
    async with new_database(server, template) as url, AsyncExitStack() as stack:
        await asyncio.to_thread(directory.mkdir)
        redis = stack.enter_context(RedisServer(directory))
        settings = {
            "DATABASE_URL": url,
            "REDIS_URL": redis.url,
            "AGENTS": AGENTS,
            "LEASE_SECONDS": str(LEASE),
            "MAX_CONNECTIONS": "5",
            EFFECTS: str(effects),
        }
        processes = [
            await stack.enter_async_context(serving(directory / name, faults=report.faults, settings=settings))
            for name in ("one", "other")
        ]
        report.pace = pace_of(*processes)
        await _play(report, url, redis, processes, chance)
    report.faults += repeated(read_effects(effects), "pay begins")
    return report


async def _play(
    report: Report, url: str, redis: RedisServer, processes: Sequence[ServerProcess], chance: random.Random
) -> None:
    client, ends = Client([process.url for process in processes]), Ends(url)
    beside = [asyncio.create_task(ends.watch()), *[asyncio.create_task(keep_running(each)) for each in processes]]
    try:
        lasts = report.pace * chance.uniform(*LASTS)
        beginning = [asyncio.create_task(_begin(client, chance)) for _ in range(TURNS)]
        answering = [asyncio.create_task(_ask(client, chance)) for _ in range(TURNS // 2)]
        await asyncio.sleep(2)
        await _outage(report, redis, processes, lasts, chance)
        begun, given = await asyncio.gather(*beginning), await asyncio.gather(*answering)
        answers = [(turn, answer) for turn, answer in filter(None, given) if answer is not None]
        turns = [turn for turn in begun if turn] + [turn for turn, _ in filter(None, given)]
        report.turns, report.answers = len(turns), len(answers)
        report.faults += ["a turn was not accepted"] * (begun.count(None) + given.count(None))
        report.faults += [
            f"{described(turn)} has not ended" for turn in await ends.wait(turns, report.pace * HANDED_OVER)
        ]
        report.faults += ends.not_completed(turns)
        _check_times(report, turns, ends)
        await _check_answers(report, url, answers)
        after = [await client.begin("quick", "afterwards", report.pace * 10) for _ in processes]
        late = await ends.wait([turn for turn in after if turn], report.pace * 10)
        report.faults += ["a new turn does not run afterwards"] * (len(late) + after.count(None))
        report.faults += client.errors
    finally:
        await cancelled(*beside)


async def _outage(
    report: Report, redis: RedisServer, processes: Sequence[ServerProcess], lasts: float, chance: random.Random
) -> None:
    dies_after = chance.uniform(0, BEGINNING)
    if report.how == "frozen":
        redis.freeze()
    else:
        await asyncio.to_thread(redis.kill)
    if report.how == "emptied":
        await asyncio.to_thread(redis.start_again)
    await asyncio.sleep(dies_after)
    if report.process_killed:
        await chance.choice(processes).kill()
    await asyncio.sleep(lasts - dies_after)
    if report.how == "frozen":
        redis.thaw()
    elif report.how == "killed":
        await asyncio.to_thread(redis.start_again)


async def _begin(client: Client, chance: random.Random) -> Begun | None:
    graph = chance.choice(["quick", "sleeper", "payer", "mapper", "asker"])
    text, durability = f"{chance.uniform(0.2, 4):.1f}", chance.choice(["sync", "turn", "async"])
    await asyncio.sleep(chance.uniform(0, BEGINNING))
    return await client.begin(graph, text, ANSWERED_WITHIN, durability)


async def _ask(client: Client, chance: random.Random) -> tuple[Begun, str | None] | None:
    """Ask, and wait for the answer, which is given before it is stored. None for an answer: it was not given."""
    await asyncio.sleep(chance.uniform(0, BEGINNING))
    loop = asyncio.get_running_loop()
    asked, thread_id = loop.time(), uuid4()
    opened = None
    while opened is None or not opened.is_success:
        if loop.time() - asked > ANSWERED_WITHIN:
            return None
        body = {"thread_id": str(thread_id), "graph": "teller"}
        opened = await client.request("POST", "/v1/threads", json=body)
        await asyncio.sleep(0.1)
    said = {"user_input": "tell", "durability": "async"}
    how = {"json": said, "headers": {"Idempotency-Key": "ask"}, "timeout": 30}
    while loop.time() - asked < ANSWERED_WITHIN:
        response = await client.request("POST", f"/v1/threads/{thread_id}/turns?wait=true", **how)
        if response is not None and response.is_success:
            answered = response.json()
            turn = Begun(thread_id, answered["turn_id"], "teller", "tell", asked, "async")
            return turn, answered.get("answer")
        await asyncio.sleep(0.2)
    return None


def _check_times(report: Report, turns: Sequence[Begun], ends: Ends) -> None:
    bound = report.pace * (HANDED_OVER if report.process_killed else TURNS_TAKE)
    for turn in turns:
        took = ends.took(turn) or 0.0
        report.slowest = max(report.slowest, took)
        if took > bound:
            report.faults.append(f"{described(turn)} took {took:.0f} s")


async def _check_answers(report: Report, url: str, answers: Sequence[tuple[Begun, str]]) -> None:
    told = await stories(url, [turn for turn, _ in answers])
    for turn, answer in answers:
        if answer in {event.data.get("content") for event in told[turn.thread_id]}:
            continue
        report.lost += 1
        if not report.may_lose:
            report.faults.append(f"{described(turn)} was answered with {answer!r}, which is not in the log")
