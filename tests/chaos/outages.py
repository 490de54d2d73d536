"""Errors of every kind from PostgreSQL, while turns call models that are paid and tools that must not be repeated.

A seed is a fault (see `database_faults`) of some seconds, with turns that begin before it and during it, in each
durability. No process dies and no lease runs out, so there is no reason to do anything twice, or to give up anything.

Faults are: an answer of a model that was paid twice; a tool or an item that ran twice, was cancelled, or whose outcome
is not in the log; a turn that failed or did not end; an answer 500; afterwards a process that is not ready, a read
model that does not catch up, or a log that does not verify.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.chaos import innocent
from tests.chaos.client import Begun, Client
from tests.chaos.counting_model import CountingModel
from tests.chaos.crashes import new_database
from tests.chaos.database_faults import Fault, draw, injected
from tests.chaos.effects import EFFECTS, Effect, read_effects, repeated
from tests.chaos.ends import Ends, Recorded, described, stories
from tests.chaos.serving import cancelled, serving

LEASE = 20
"""Seconds: longer than any fault, so that no turn changes hands."""

PER_SERVER = 12
"""Seeds that share a server, one after the other."""

ENDS_WITHIN = 60.0
"""Seconds after a fault within which its turns must have ended."""

READY_WITHIN = 30.0
"""Seconds after a fault within which the process must be ready, and its read models up to date."""

TURNS = 8
GRAPHS = ("asker", "mapasker", "payer", "mapper")
"""Of each of these agents, a turn at least begins during the fault."""

PLENTY = 10**12
"""Tokens that the tenant may spend: each call has to be reserved and settled."""

READS = ("/v1/threads", "/v1/usage", "/v1/budgets", "/v1/limits", "/v1/projections", "/v1/workers", "/health/ready")


@dataclass
class Report:
    """What was seen in a run."""

    seed: int
    fault: Fault
    turns: int = 0
    met: int = 0
    """Statements that met the fault; of the real ones, that is not counted."""
    paid_twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Outcomes that were known and are not in the log, and work that was done twice or broken off."""
    failed: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Answers 500."""
    others: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def faults(self) -> Sequence[str]:
        """List everything that must not happen."""
        return [*self.paid_twice, *self.lost, *self.failed, *self.stuck, *self.errors, *self.others]


@dataclass
class Service:
    """A server that some seeds share, and what it works with."""

    server: str
    directory: Path
    url: str
    process: str
    model: CountingModel
    effects: Path


@asynccontextmanager
async def service(server: str, directory: Path, url: str, seed: int, faults: list[str]) -> AsyncIterator[Service]:
    """Serve, with a model that counts. `directory` is where the files of the PostgreSQL are."""
    home = directory / f"from-{seed}"
    model, effects = CountingModel(random.Random(seed)), home / "effects.jsonl"
    settings = {
        "DATABASE_URL": url,
        "AGENTS": innocent.AGENTS,
        "LEASE_SECONDS": str(LEASE),
        "MAX_CONNECTIONS": "6",
        "SNAPSHOT_EVERY": "4",
        EFFECTS: str(effects),
    }
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(model.server)
        settings["LLM_ENDPOINT"] = model.endpoint
        process = await stack.enter_async_context(serving(home, faults=faults, settings=settings))
        body = {"limits": [{"window": "lifetime", "tokens": PLENTY}]}
        answer = await Client([process.url]).request("PUT", "/v1/limits", json=body)
        assert answer is not None, "the limits were not set"
        assert answer.is_success, answer.text
        yield Service(server, directory, url, process.url, model, effects)


async def run(service: Service, seed: int) -> Report:
    """Have the fault of this seed while turns run, and check what became of them."""
    chance = random.Random(seed)
    fault = draw(seed, chance)
    report, client, ends = Report(seed, fault), Client([service.process]), Ends(service.url)
    beside = [asyncio.create_task(ends.watch()), asyncio.create_task(_read(client, chance))]
    try:
        begun, report.met = await _during(service, fault, chance, client, seed)
        turns = [turn for turn in begun if turn is not None]
        report.turns = len(turns)
        report.stuck += [f"a turn was not accepted within {ENDS_WITHIN:g} s"] * (len(begun) - len(turns))
        late = await ends.wait(turns, ENDS_WITHIN)
        report.stuck += [f"{described(turn)} has not ended {ENDS_WITHIN:g} s after the fault" for turn in late]
        beside[1].cancel()
        report.failed += ends.not_completed(turns)
        report.others += await _recovers(client, ends)
        told = await stories(service.url, turns)
        report.lost += lost(read_effects(service.effects), [event for events in told.values() for event in events])
        report.errors += client.errors
        report.paid_twice += service.model.paid_twice()
        report.statuses = dict(client.statuses)
    finally:
        await cancelled(*beside)
        service.effects.unlink(missing_ok=True)  # what this seed did is not the next one's fault
        service.model.asked.clear()
    return report


async def _during(
    service: Service, fault: Fault, chance: random.Random, client: Client, seed: int
) -> tuple[Sequence[Begun | None], int]:
    async def one(after: float, graph: str, text: str, durability: str) -> Begun | None:
        await asyncio.sleep(after)
        return await client.begin(graph, text, ENDS_WITHIN, durability)

    turns, before = [], min(1.0, fault.seconds / 3)
    for number, graph in enumerate([*GRAPHS, *chance.choices(GRAPHS, k=TURNS - len(GRAPHS))]):
        text = f"{chance.uniform(0.5, fault.seconds + 1):.1f} seed {seed} turn {number}"
        durability = chance.choice(["sync", "sync", "turn", "async"])
        begins = chance.uniform(before, fault.seconds / 2) if number < len(GRAPHS) else chance.uniform(0, fault.seconds)
        turns.append(asyncio.create_task(one(begins, graph, text, durability)))
    await asyncio.sleep(before)
    async with injected(fault, service.server, service.url, service.directory) as met:
        await asyncio.sleep(fault.seconds)
    return await asyncio.gather(*turns), met.statements


async def _read(client: Client, chance: random.Random) -> None:
    """Read this and that all the time. What is answered with 500, the client keeps."""
    while True:
        await client.request("GET", chance.choice(READS))
        await asyncio.sleep(0.1)


async def _recovers(client: Client, ends: Ends) -> list[str]:
    """Check that everything is as before: turns run at once, the process is ready, and read models catch up."""
    faults = []
    begun = [await client.begin("quick", "afterwards", READY_WITHIN) for _ in range(6)]
    late = await ends.wait([turn for turn in begun if turn], READY_WITHIN)
    if late or None in begun:
        faults.append(f"{len(late) + begun.count(None)} of 6 quick turns after the fault have not run")
    for what, path, good in (
        ("is not ready", "/health/ready", lambda _: True),
        ("has read models that do not catch up", "/v1/projections", _up_to_date),
    ):
        last = await _until_good(client, path, good)
        if last is not None:
            faults.append(f"{READY_WITHIN:g} s after the fault the process {what}: {last}")
    return faults


async def _until_good(client: Client, path: str, good: Any) -> str | None:
    """Ask until the answer is good; return the last one if it never was."""
    deadline = time.monotonic() + READY_WITHIN
    while True:
        response = await client.request("GET", path)
        if response is not None and response.status_code == httpx.codes.OK and good(response.json()):
            return None
        if time.monotonic() > deadline:
            return "no answer" if response is None else f"{response.status_code} {response.text[:300]}"
        await asyncio.sleep(0.2)


def _up_to_date(answer: Any) -> bool:
    items = answer["items"] if isinstance(answer, dict) else answer
    return all(one["lag"] == 0 and one["parked"] == 0 for one in items)


def lost(effects: Sequence[Effect], events: Sequence[Recorded]) -> list[str]:
    """Compare what was done with what the log says: everything is done once, to its end, and its outcome is stored."""
    faults = [fault for kind in ("pay begins", "item") for fault in repeated(effects, kind)]
    faults += [f"{one.key}: the tool was cancelled while it ran" for one in effects if one.kind == "pay is cancelled"]
    done, stored = (
        sum(one.kind == "pay" for one in effects),
        sum(event.type == "ToolSucceeded" and str(event.data["content"]).startswith("paid") for event in events),
    )
    if done != stored:
        faults.append(f"{done} tools have paid, and {stored} outcomes are in the log")
    unknown = [event for event in events if event.type in {"ToolOutcomeUnknown", "ToolFailed"}]
    return faults + [f"{event.type}: {dict(event.data)}" for event in unknown]


async def run_some(
    server: str, template: str, directory: Path, seeds: Sequence[int], tell: Callable[[Report], None]
) -> None:
    """Have the faults of some seeds one after the other, with one process that serves. The last report has the end."""
    stopping = list[str]()
    async with new_database(server, template) as url:
        async with service(server, directory, url, seeds[0], stopping) as shared:
            for seed in seeds[:-1]:
                tell(await run(shared, seed))
            last = await run(shared, seeds[-1])
            response = await Client([shared.process], timeout=60).request("POST", "/v1/verify")
            problems = None if response is None else response.json().get("problems")
        last.others += [f"verify: {problems}"] * (problems != []) + stopping
    tell(last)


def batches(seed: int, runs: int) -> Sequence[Sequence[int]]:
    """Share seeds among processes."""
    seeds = range(seed, seed + runs)
    return [seeds[at : at + PER_SERVER] for at in range(0, runs, PER_SERVER)]
