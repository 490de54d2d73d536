"""One conversation in a database of its own, while the workers that run it are killed: was anything lost or doubled?"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import msgspec

from api.http.caller import Caller
from api.runtime.composition import Runtime, open_runtime
from api.schemas.approvals import ApprovalView
from api.schemas.requests import Decide
from api.schemas.turns import TurnView
from api.services.threads import Service, StartedTurn
from domain.application.audit.verify import verify_slices
from domain.application.queries.transcript import Transcript
from domain.application.thread_repository import ThreadRepository
from domain.ids import DEFAULT_TENANT, SLICES, Slice, ThreadId
from domain.ports.ledger import Scope, ScopeLimits
from domain.thread.codec import Recorded
from domain.thread.events import (
    ApprovalDenied,
    Durability,
    Limit,
    ModelCalled,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnEnd,
    TurnResumed,
    TurnStarted,
)
from examples.airline.recordings import Conversation, conversations, recorded_calls
from infrastructure.settings import Settings
from tests.chaos import worker
from tests.chaos.crashing import CRASH, POINTS
from tests.chaos.desk import COUNTS, TABLE
from tests.e2e.airline import as_recorded, as_served

PATIENCE = 60.0
"""Seconds that a turn may take before it counts as stuck; a lease takes one to run out."""

PLENTY = 10**12
"""Tokens that the tenant may spend: enough for all, but each call has to be reserved and settled."""

LEASE = "1"
CRASHES = 2
"""Workers that are told to die, one after the other, before one that may live."""


@dataclass
class Report:
    """What was seen in a run."""

    seed: int
    conversation: str
    points: Sequence[str]
    died_at: list[str] = field(default_factory=list)
    turns: int = 0
    events: int = 0
    resumed: int = 0
    settled: int = 0
    faults: list[str] = field(default_factory=list)


async def run(server: str, template: str, model: str, seed: int, durability: Durability = "sync") -> Report:
    """Play the conversation of this seed, with the crashes of this seed. `template` names a migrated database."""
    chance = random.Random(seed)
    conversation = chance.choice(list(conversations().values()))
    points = [f"{POINTS[(seed + n) % len(POINTS)]}:{chance.randint(1, 4)}" for n in range(CRASHES)]
    report = Report(seed, conversation.id, points)
    async with new_database(server, template) as url, new_database(server) as counts:
        await execute(counts, TABLE)
        environment = {
            "DATABASE_URL": url,
            "LLM_ENDPOINT": f"{model}/v1",
            "AGENTS": "tests.chaos.desk:desk",
            "LEASE_SECONDS": LEASE,
            "SNAPSHOT_EVERY": "20",
            "CONTEXT_WINDOW_LIMIT": "32000",
            "MAX_CONNECTIONS": "4",
            "DURABILITY": durability,
            COUNTS: counts,
        }
        await Run(report, conversation, environment, durability).play()
    return report


@dataclass
class Run:
    """A conversation under way."""

    report: Report
    conversation: Conversation
    environment: Mapping[str, str]
    durability: Durability

    async def play(self) -> None:
        """Let the customer say everything, with a worker alive at any time, and check what is there then."""
        settings = Settings(  # type: ignore[call-arg]
            _env_file=None,
            database_url=self.environment["DATABASE_URL"],
            agents=("tests.chaos.desk:desk",),
            max_connections=4,
            snapshot_every=10**6,
            durability=self.durability,
        )
        async with AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(settings))
            plenty = (Limit("lifetime", PLENTY),)
            await runtime.reservations.limits.set(
                ScopeLimits(Scope(DEFAULT_TENANT), plenty, runtime.clock.now(), None), {}
            )
            keeping = asyncio.create_task(self._keep_a_worker())
            stack.push_async_callback(cancelled, keeping)
            service = Service(runtime)
            await self._talk(service)
            await self._check(runtime.repository)
            self.report.faults += await check_ledger(runtime, ThreadId(self.conversation.thread_id))

    async def _talk(self, service: Service) -> None:
        thread_id = ThreadId(self.conversation.thread_id)
        for message in self.conversation.messages:
            if message["role"] != "user":
                continue
            started = await service.start_turn(thread_id, message["content"], Caller(), open_with="airline")
            self.report.turns += 1
            deciding = asyncio.create_task(self._decide(service, thread_id))
            try:
                turn = await end_of(service, started)
            finally:
                deciding.cancel()
            if turn is None or turn.status != "completed":
                self.report.faults.append(f"turn {self.report.turns} is {turn.status if turn else 'stuck'}: {turn}")
                return

    async def _decide(self, service: Service, thread_id: ThreadId) -> None:
        """Be the person who is asked: grants what did not happen yet, and says what came of what did."""
        while True:
            for approval in await service.history.approvals(thread_id, Caller()):
                decided = Decide(hash=approval.hash, decision="grant")
                if approval.because == "outcome_unknown" and await self._happened(approval):
                    self.report.settled += 1
                    decided = Decide(hash=approval.hash, decision="settle", result=self._result(approval))
                await service.decide_approval(thread_id, approval.approval_id, decided, Caller())
            await asyncio.sleep(0.05)

    async def _happened(self, approval: ApprovalView) -> bool:
        key = f"{self.conversation.thread_id}:{approval.approval_id}"
        rows = await execute(self.environment[COUNTS], "SELECT FROM effects WHERE idempotency_key = $1", key)
        return bool(rows)

    def _result(self, approval: ApprovalView) -> str:
        return next(
            call.content
            for call in recorded_calls()
            if (call.thread_id, call.call_id, call.name)
            == (self.conversation.thread_id, approval.call_id, approval.tool)
        )

    async def _keep_a_worker(self) -> None:
        """Start the workers that are to die, and then one that is not; the next comes when the one before is gone."""
        for point in (*self.report.points, ""):
            process = worker.start({**self.environment, CRASH: point})
            try:
                while process.is_alive():
                    await asyncio.sleep(0.02)
                self.report.died_at.append(point.rpartition(":")[0])
            finally:
                process.kill()
                process.join()

    async def _check(self, repository: ThreadRepository) -> None:
        faults, thread_id = self.report.faults, ThreadId(self.conversation.thread_id)
        recorded = [event async for event in repository.follow(thread_id)]
        self.report.events = len(recorded)
        self.report.resumed = sum(isinstance(r.event, TurnResumed) for r in recorded)
        verified = await verify_slices(repository.store, map(Slice, range(SLICES)))
        faults += verified.problems
        faults += check_events(recorded)
        said = [as_served(msgspec.to_builtins(m)) async for m in Transcript(repository, thread_id).read()]
        if said != [as_recorded(message) for message in self.conversation.messages]:
            faults.append("the transcript is not what was recorded")
        effects = await execute(self.environment[COUNTS], "SELECT idempotency_key, write FROM effects")
        times = Counter(row["idempotency_key"] for row in effects if row["write"])
        faults += [f"{key} had its effect {count} times" for key, count in times.items() if count > 1]


def check_events(recorded: Sequence[Recorded]) -> list[str]:
    """Check that every turn has one end, and every call one outcome, in the state that the log describes."""
    events = [r.event for r in recorded]
    faults = []
    begun = Counter(event.turn_id for event in events if isinstance(event, TurnStarted))
    ended = Counter(event.turn_id for event in events if isinstance(event, TurnEnd))
    if begun != ended or set(begun.values()) - {1}:
        faults.append(f"turns began {begun} and ended {ended}")
    faults += [f"{event}" for event in events if isinstance(event, TurnEnd) and not isinstance(event, TurnCompleted)]
    asked = Counter(r.version for r in recorded if isinstance(r.event, ToolRequested))
    outcomes = Counter(
        event.approval if isinstance(event, ApprovalDenied) else event.call
        for event in events
        if isinstance(event, ToolSucceeded | ToolFailed | ToolOutcomeUnknown | ApprovalDenied)
    )
    if asked != outcomes:
        faults.append(f"calls were asked for {asked} and had outcomes {outcomes}")
    starts = Counter((event.call, event.attempt) for event in events if isinstance(event, ToolStarted))
    faults += [f"call {call} was started {n} times as attempt {at}" for (call, at), n in starts.items() if n > 1]
    return faults


async def check_ledger(runtime: Runtime, thread_id: ThreadId) -> list[str]:
    """Wait until nothing is reserved any more, and compare what is settled with the log of the only thread."""
    calls = [r.event async for r in runtime.repository.follow(thread_id)]
    spent = sum(c.prompt_tokens + c.completion_tokens for c in calls if isinstance(c, ModelCalled))
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while True:
        (usage,) = await runtime.reservations.ledger.limit_usage(DEFAULT_TENANT, runtime.clock.now())
        if not usage.reserved.tokens or loop.time() > until:
            break
        await asyncio.sleep(0.1)
    faults = []
    if usage.reserved.tokens:
        faults.append(f"{usage.reserved} stays reserved")
    if usage.spent.tokens != spent:
        faults.append(f"{usage.spent} is settled, {spent} tokens are in the log")
    return faults


@asynccontextmanager
async def new_database(server: str, template: str = "template0") -> AsyncIterator[str]:
    """Create a database for a while, and give its URL."""
    name = f"chaos_{uuid4().hex}"
    await execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        await execute(server, f"DROP DATABASE {name} WITH (FORCE)")


async def execute(url: str, statement: str, *arguments: object) -> Sequence[asyncpg.Record]:
    """Run one statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        rows: Sequence[asyncpg.Record] = await connection.fetch(statement, *arguments)
        return rows
    finally:
        await connection.close()


async def end_of(service: Service, started: StartedTurn, patience: float = PATIENCE) -> TurnView | None:
    """Wait for the end of a turn, even while it waits for a person, of which the service tells at once."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    while (left := until - loop.time()) > 0:
        if turn := await service.turn_end(started.outcome, started.turn_id, left):
            return turn
        await asyncio.sleep(0.05)
    return None


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
