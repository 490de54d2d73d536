"""Processes with different `AGENTS` that replace each other, as in a deployment, while turns of all agents run.

Old processes know `payer` and `sleeper`, new ones `payer` and `mapper`. They come and go one at a time, each with
SIGTERM; turns are begun at whichever process knows their agent. Every fourth seed instead restarts processes twenty
times in a row under one long turn.

Faults are: a turn that failed, did not end, or took longer than some leases of the time in which a living process
knew its agent; a tool that ran twice; a process that does not stop.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import innocent
from tests.chaos.client import Begun, Client
from tests.chaos.crashes import new_database
from tests.chaos.effects import EFFECTS, read_effects, repeated
from tests.chaos.ends import Ends, described
from tests.chaos.serving import cancelled, pace_of, stop_all
from tests.e2e.server_process import ServerProcess, threadfold

LEASE = 2.0
OLD, NEW = ("payer", "sleeper", "quick"), ("payer", "mapper", "quick")
GRAPHS = ("payer", "sleeper", "mapper")

TURNS = 80
"""Turns that are begun during a deployment, at most."""

LONGEST = 4.0
"""Seconds that a turn's node takes, at most. A process that stops gives it five to end."""

HANGS = 12 * LEASE
"""Seconds that a turn may take while a living process knows its agent: its node may begin again several times."""

ENDS_WITHIN = 90.0
RESTARTS = 20
LONG_TURN = "25"
"""Seconds of a turn that no restart lets end."""

EVERY = 4
"""Of so many seeds, one restarts processes under a long turn."""


@dataclass
class Report:
    """What was seen in a run."""

    seed: int
    what: str
    restarts: int = 0
    turns: int = 0
    pace: float = 1.0
    """What bounds of time are multiplied by: see `pace_of`."""
    slowest: float = 0.0
    """Seconds that a turn took while a process knew its agent, at most."""
    faults: list[str] = field(default_factory=list)


@dataclass
class Deployment:
    """The processes that serve now, and when which agents were known."""

    directory: Path
    settings: dict[str, str]
    report: Report
    live: list[tuple[ServerProcess, Sequence[str], float]] = field(default_factory=list)
    past: list[tuple[Sequence[str], float, float]] = field(default_factory=list)

    async def start(self, names: Sequence[str]) -> None:
        """Add a process that knows these agents."""
        home = self.directory / f"process-{len(self.live) + len(self.past)}"
        await asyncio.to_thread(home.mkdir, parents=True)
        agents = ",".join(f"{innocent.MODULE}:{name}" for name in names)
        server = threadfold(home, **self.settings, AGENTS=agents)
        await server.start()
        self.report.pace = max(self.report.pace, pace_of(server))
        self.live.append((server, names, time.monotonic()))

    async def stop_first(self, names: Sequence[str]) -> None:
        """Send SIGTERM to the oldest process that knows these agents, and wait for its end."""
        server, known, since = found = next(each for each in self.live if each[1] == names)
        self.live.remove(found)
        self.past.append((known, since, time.monotonic()))
        self.report.faults += await stop_all([server])
        self.report.restarts += 1

    async def stop(self) -> None:
        """Stop all at once."""
        self.report.faults += await stop_all([server for server, _, _ in self.live])

    def urls(self, graph: str) -> list[str]:
        """Say which processes know an agent."""
        return [server.url for server, names, _ in self.live if graph in names]

    def known(self, graph: str, begin: float, end: float) -> float:
        """Return for how many seconds between two instants a living process knew an agent."""
        now = time.monotonic()
        times = [*self.past, *[(names, since, now) for _, names, since in self.live]]
        total, last = 0.0, begin
        for names, since, until in sorted(times, key=lambda each: each[1]):
            if graph in names and until > last:
                total += max(0.0, min(until, end) - max(since, last))
                last = max(last, min(until, end))
        return total


async def run(server: str, template: str, directory: Path, seed: int) -> Report:
    """Have the deployment of this seed."""
    chance = random.Random(seed)
    restarting = seed % EVERY == 0
    report = Report(seed, "restarts under a long turn" if restarting else "rolling deployment")
    async with new_database(server, template) as url:
        effects = directory / "effects.jsonl"
        settings = {"DATABASE_URL": url, "LEASE_SECONDS": f"{LEASE:g}", "MAX_CONNECTIONS": "5", EFFECTS: str(effects)}
        deployment, ends = Deployment(directory, settings, report), Ends(url)
        watching = asyncio.create_task(ends.watch())
        try:
            await (_restart(deployment, ends) if restarting else _roll(deployment, ends, chance))
        finally:
            await cancelled(watching)
            await deployment.stop()
    report.faults += repeated(read_effects(effects), "pay begins")
    return report


async def _restart(deployment: Deployment, ends: Ends) -> None:
    """Replace the process again and again under two long turns; then let them end."""
    report = deployment.report
    await deployment.start(OLD)
    client = Client(deployment.urls("sleeper"))
    begun = [turn for graph in ("sleeper", "payer") if (turn := await client.begin(graph, LONG_TURN, 30))]
    for _ in range(RESTARTS):
        await deployment.start(OLD)
        await deployment.stop_first(OLD)
    _check(report, deployment, begun, ends, await ends.wait(begun, report.pace * ENDS_WITHIN))


async def _roll(deployment: Deployment, ends: Ends, chance: random.Random) -> None:
    """Roll new processes out and old ones back in, while turns of all agents are begun."""
    await deployment.start(OLD)
    await deployment.start(OLD)
    done, begun = asyncio.Event(), list[Begun]()
    beginning = asyncio.create_task(_begin_turns(deployment, chance, done, begun))
    try:
        for before, after in ((OLD, NEW), (OLD, NEW), (NEW, OLD), (NEW, NEW), (OLD, NEW)):
            await deployment.start(after)
            await asyncio.sleep(chance.uniform(0, 3))
            await deployment.stop_first(before)
            await asyncio.sleep(chance.uniform(0, 4))
        await deployment.start(OLD)  # what only old ones know must be able to end
    finally:
        done.set()
        await asyncio.gather(beginning, return_exceptions=True)
    beginning.result()
    late = await ends.wait(begun, deployment.report.pace * ENDS_WITHIN)
    _check(deployment.report, deployment, begun, ends, late)


async def _begin_turns(deployment: Deployment, chance: random.Random, done: asyncio.Event, begun: list[Begun]) -> None:
    """Begin turns at whichever process takes them."""

    async def one(graph: str, text: str) -> None:
        turn = None
        while turn is None and (urls := deployment.urls(graph)):  # a process may stop while it is asked
            client = Client(urls)
            turn = await client.begin(graph, text, 1)
            deployment.report.faults += client.errors
        if turn:
            begun.append(turn)

    async with asyncio.TaskGroup() as group:
        while not done.is_set() and len(begun) < TURNS:
            graph, text = chance.choice(GRAPHS), f"{chance.uniform(0.2, LONGEST):.1f}"
            group.create_task(one(graph, text))
            await asyncio.sleep(0.5)


def _check(report: Report, deployment: Deployment, turns: Sequence[Begun], ends: Ends, late: Sequence[Begun]) -> None:
    report.turns = len(turns)
    report.faults += [f"{described(turn)} has not ended" for turn in late]
    report.faults += ends.not_completed(turns)
    for turn in turns:
        seen = ends.seen.get(turn.turn_id, time.monotonic())
        took = deployment.known(turn.graph, turn.asked_at, seen)
        report.slowest = max(report.slowest, took)
        if turn.text != LONG_TURN and took > report.pace * HANGS:
            report.faults.append(f"{described(turn)} took {took:.0f} s while a process knew its agent")
