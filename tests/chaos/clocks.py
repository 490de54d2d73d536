"""Processes whose clocks are hours ahead or behind, which are killed and start again, beside turns that kill them.

Three processes share a database; their clocks differ by up to a day. Some turns kill their process each time that they
run; the others do nothing wrong. Threads and an agent have a budget for the day, which turns try to exceed at all
processes in turn.

Faults are: a poison turn that does not fail after a bounded number of deaths; an innocent turn that failed or did not
end; a tool that ran twice; a budget that is exceeded by more than a call for each day that some clock is in.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from tests.chaos import innocent, villain
from tests.chaos.client import Begun, Client
from tests.chaos.clock import AHEAD
from tests.chaos.counting_model import CountingModel
from tests.chaos.crashes import execute, new_database
from tests.chaos.effects import EFFECTS, read_effects, repeated
from tests.chaos.ends import Ends, described
from tests.chaos.serving import cancelled, keep_running, pace_of, serving
from tests.e2e.server_process import ServerProcess

LEASE = 2.0
PROCESSES = 3
POISONS = 2
INNOCENTS = 12
KILLS = 2
"""Processes that are killed from outside meanwhile."""

BUDGET = 3_000
"""Tokens that a thread, and an agent, may spend in a day."""

ANSWER = 150
"""Tokens that each answer of the model takes. A turn asks twice."""

ATTEMPTS = 16
"""Turns that try to exceed a budget."""

DEATHS = 8
"""How often a process may be lost to a poison turn, at most."""

ACCEPTED_WITHIN = 60.0
"""Seconds within which some process must accept a turn: all of them may be dead for the time of a start."""

POISONS_END = 180.0
INNOCENTS_END = 240.0

CALLS = """
SELECT (payload::jsonb ->> 'prompt_tokens')::int + (payload::jsonb ->> 'completion_tokens')::int AS tokens
  FROM events WHERE type = 'ModelCalled' AND thread_id = ANY($1)
"""


@dataclass
class Report:
    """What was seen in a run."""

    seed: int
    hours: Sequence[float]
    """By how much each clock is ahead."""
    days: int
    """In how many days the clocks are: each is a window of its own."""
    pace: float = 1.0
    """What bounds of time are multiplied by: see `pace_of`."""
    turns: int = 0
    deaths: int = 0
    spent: int = 0
    """Of the thread's budget."""
    spent_by_agent: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """Say how the clocks are."""
        return " and ".join(f"{each:.1f} h" for each in self.hours)


def clocks_of(chance: random.Random, now: datetime) -> Sequence[float]:
    """Draw by how many hours each clock is ahead: within the same day mostly, and a day off in one run of three."""
    if chance.random() < 1 / 3:
        return [chance.choice([-30, -24, 24, 30]), 0, chance.uniform(-2, 2)]
    passed = now - now.replace(hour=0, minute=0, second=0, microsecond=0)
    behind, ahead = passed / timedelta(hours=1), 24 - passed / timedelta(hours=1)
    margin = 0.3  # for the time that the run takes
    return [max(0.0, ahead - margin) * chance.uniform(0.2, 1), 0, -max(0.0, behind - margin) * chance.uniform(0.2, 1)]


async def run(server: str, template: str, directory: Path, seed: int) -> Report:
    """Have the clocks of this seed."""
    chance, now = random.Random(seed), datetime.now(UTC)
    hours = chance.sample(clocks_of(chance, now), PROCESSES)
    report = Report(seed, hours, len({(now + timedelta(hours=each)).date() for each in hours}))
    effects = directory / "effects.jsonl"
    model = CountingModel(random.Random(seed), (0.05, 0.3), tokens=ANSWER)
    async with new_database(server, template) as url, model.server, AsyncExitStack() as stack:
        settings = {
            "DATABASE_URL": url,
            "AGENTS": f"{villain.AGENTS},{innocent.AGENTS}",
            "LEASE_SECONDS": f"{LEASE:g}",
            "MAX_CONNECTIONS": "5",
            "LLM_ENDPOINT": model.endpoint,
            EFFECTS: str(effects),
        }
        processes = []
        for number, each in enumerate(hours):
            own = {**settings, AHEAD: str(each * 3_600)}
            home = directory / str(number)
            processes.append(await stack.enter_async_context(serving(home, faults=report.faults, settings=own)))
        report.pace = pace_of(*processes)
        await _play(report, url, processes, chance)
    report.faults += repeated(read_effects(effects), "pay begins")
    return report


async def _play(report: Report, url: str, processes: Sequence[ServerProcess], chance: random.Random) -> None:
    client, ends = Client([process.url for process in processes]), Ends(url)

    def count() -> None:
        report.deaths += 1

    beside = [asyncio.create_task(ends.watch()), *[asyncio.create_task(keep_running(one, count)) for one in processes]]
    try:
        await _spend(report, url, client)
        within = report.pace * ACCEPTED_WITHIN
        poisons = [
            await client.begin("villain", f"sigkill@{place} {n}", within) for n, place in enumerate(_places(chance))
        ]
        beginning = [asyncio.create_task(_begin(client, chance, within)) for _ in range(INNOCENTS)]
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(1, 6))
            await chance.choice(processes).kill()
        innocents = await asyncio.gather(*beginning)
        report.faults += ["a turn was not accepted"] * (innocents.count(None) + poisons.count(None))
        report.turns = len(innocents)
        await _check_ends(report, ends, [one for one in poisons if one], [one for one in innocents if one])
        report.faults += client.errors
    finally:
        await cancelled(*beside)


def _places(chance: random.Random) -> Sequence[str]:
    return chance.choices(["node", "item", "branch", "task"], k=POISONS)


async def _begin(client: Client, chance: random.Random, within: float) -> Begun | None:
    await asyncio.sleep(chance.uniform(0, 8))
    graph = chance.choice(["quick", "sleeper", "payer", "mapper", "teller"])
    return await client.begin(graph, f"{chance.uniform(0.5, 5):.1f}", within)


async def _check_ends(report: Report, ends: Ends, poisons: Sequence[Begun], innocents: Sequence[Begun]) -> None:
    late = await ends.wait(poisons, report.pace * POISONS_END)
    report.faults += [f"{described(turn)} has not failed after {report.pace * POISONS_END:.0f} s" for turn in late]
    late = await ends.wait(innocents, report.pace * INNOCENTS_END if not late else LEASE)
    report.faults += [f"{described(turn)} is innocent and has not ended" for turn in late]
    report.faults += ends.not_completed(innocents)
    report.faults += [f"{described(turn)} has completed" for turn in poisons if _completed(ends, turn)]
    if report.deaths > KILLS + POISONS * DEATHS:
        report.faults.append(f"{report.deaths} processes died of {POISONS} turns and {KILLS} kills")


def _completed(ends: Ends, turn: Begun) -> bool:
    end = ends.ends.get(turn.turn_id)
    return end is not None and end.type == "TurnCompleted"


async def _spend(report: Report, url: str, client: Client) -> None:
    """Try to exceed the budget of a thread, and of an agent with many threads, at one process after the other."""
    thread, limits = str(uuid4()), [{"window": "day", "tokens": BUDGET}]
    opened = await client.request("POST", "/v1/threads", json={"thread_id": thread, "graph": "asker"})
    limited = await client.request("PUT", f"/v1/threads/{thread}/budget", json={"limits": limits})
    agents = await client.request("PUT", "/v1/limits", json={"agent": "mapasker", "limits": limits})
    if not all(answer is not None and answer.is_success for answer in (opened, limited, agents)):
        report.faults.append(f"the budgets could not be set: {opened}, {limited}, {agents}")
        return
    await asyncio.sleep(5)  # until the other processes know, which ask each second
    others = [str(uuid4()) for _ in range(ATTEMPTS)]
    for other in others:
        await _turn(report, client, thread, "asker")
        await _turn(report, client, other, "mapasker")
    report.spent = await _spent(report, url, [thread], "the thread")
    report.spent_by_agent = await _spent(report, url, others, "the agent")


async def _turn(report: Report, client: Client, thread: str, graph: str) -> None:
    """Have a turn, and wait for its end, whatever it is."""
    await client.request("POST", "/v1/threads", json={"thread_id": thread, "graph": graph})
    path, deadline = f"/v1/threads/{thread}/turns?wait=true", time.monotonic() + 60
    how = {"json": {"user_input": f"hello {uuid4()}"}, "headers": {"Idempotency-Key": str(uuid4())}, "timeout": 60}
    while time.monotonic() < deadline:
        response = await client.request("POST", path, **how)
        if response is not None and response.status_code in {200, 402}:
            return
        await asyncio.sleep(0.2)
    report.faults.append(f"a turn of {graph} in {thread} did not end within 60 s")


async def _spent(report: Report, url: str, threads: Sequence[str], whose: str) -> int:
    """Add up the calls in the log; hold them against the budget, and a call more for each day."""
    calls = [int(row["tokens"]) for row in await execute(url, CALLS, threads)]
    spent, allowed = sum(calls), report.days * (BUDGET + max(calls, default=0))
    if spent > allowed:
        report.faults.append(f"{whose} has spent {spent} of {BUDGET} tokens a day, with clocks in {report.days} days")
    if not calls:
        report.faults.append(f"no model was called for {whose}: nothing was measured")
    return spent
