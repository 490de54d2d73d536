"""A thread of the agent of `inquiry` in a database of its own, while the workers that run it are killed.

A person and the customer answer what it asks. Was an effect doubled, an answer paid for twice, a question asked twice?
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from uuid import uuid4

from api.http.caller import Caller
from api.runtime.composition import Runtime, open_runtime
from api.schemas.requests import Decide
from api.services.threads import Service
from domain.application.audit.verify import verify_slices
from domain.errors import ApprovalChanged, UnknownApproval
from domain.ids import DEFAULT_TENANT, SLICES, Slice, ThreadId
from domain.json import Json
from domain.ports.ledger import Scope, ScopeLimits
from domain.thread.events import Durability, Limit, TurnResumed
from domain.thread.questions import question_for_customer
from domain.thread.state import Running
from infrastructure.settings import Settings
from tests.chaos import worker
from tests.chaos.asked_model import AskedModel
from tests.chaos.crashes import LEASE, PATIENCE, PLENTY, cancelled, check_events, check_ledger, end_of, new_database
from tests.chaos.crashing import CRASH, QUESTION_POINTS
from tests.chaos.effects import EFFECTS, read_effects
from tests.chaos.inquiry import decision_on, mark
from tests.chaos.inquiry_checks import Faults, check

AGENT = "tests.chaos.inquiry:inquiry"

TURNS = 2

TURN_TIMEOUT_S = 4 * PATIENCE
"""Seconds after which a turn counts as stuck. A turn of this agent is long: on a busy machine it took 50 s."""

CRASHES = 3
"""Workers that are to die, one after the other, before one that may live."""

TIMES = {
    "an ask": 30,
    "ModelAnswered": 25,
    "ItemCompleted": 10,
    "item started": 12,
    "item had its effect": 10,
    "FanOutStarted": 7,
    "ItemAdvanced": 5,
    "tool of an item started": 7,
    "tool of an item done": 7,
    "node of an item started": 12,
    "node of an item had its effect": 10,
    "QuestionAsked": 8,
    "QuestionAnswered": 8,
    "in the subgraph": 4,
    "TurnResumed": 6,
}
"""How often a point is reached at least in a run of one worker; 2 if it is not here."""


@dataclass
class Report:
    """What was seen in a run."""

    seed: int
    points: list[str]
    died_at: list[str] = field(default_factory=list)
    turns: int = 0
    events: int = 0
    resumed: int = 0
    paid: int = 0
    answered: int = 0
    found: Faults = field(default_factory=Faults)

    @property
    def faults(self) -> list[str]:
        """Every fault."""
        return self.found.all


async def run(
    server: str,
    template: str,
    directory: Path,
    seed: int,
    durability: Durability = "sync",
    *,
    turns: int = TURNS,
    crashes: int = CRASHES,
) -> Report:
    """Play the conversation with the crashes of this seed. `template` names a migrated database."""
    chance = random.Random(seed)
    report = Report(seed, [_point(seed + 9 * number, chance) for number in range(crashes)])
    effects, model = directory / f"effects-{seed}-{durability}.jsonl", AskedModel(random.Random(seed))
    async with new_database(server, template) as url, model.server:
        environment = {
            "DATABASE_URL": url,
            "LLM_ENDPOINT": model.server.endpoint,
            "AGENTS": AGENT,
            "LEASE_SECONDS": LEASE,
            "SNAPSHOT_EVERY": "20",
            "MAX_CONNECTIONS": "4",
            "DURABILITY": durability,
            EFFECTS: str(effects),
        }
        await Run(report, environment, durability, model, chance).play(turns)
    return report


def _point(number: int, chance: random.Random) -> str:
    point = QUESTION_POINTS[number % len(QUESTION_POINTS)]
    return f"{point}:{chance.randint(1, next((most for name, most in TIMES.items() if name in point), 2))}"


@dataclass
class Run:
    """A thread under way. `given` are the answers of people, by the version of their question."""

    report: Report
    environment: Mapping[str, str]
    durability: Durability
    model: AskedModel
    chance: random.Random
    given: dict[int, Json] = field(default_factory=dict)
    deaths: list[float] = field(default_factory=list)
    thread_id: ThreadId = field(default_factory=lambda: ThreadId(uuid4()))
    _worker: ForkServerProcess | None = None
    _point: str = ""

    async def play(self, turns: int) -> None:
        """Let the turns run, with a worker alive at any time, and check what is there then."""
        settings = Settings(  # type: ignore[call-arg]
            _env_file=None,
            database_url=self.environment["DATABASE_URL"],
            agents=(AGENT,),
            max_connections=4,
            snapshot_every=10**6,
            durability=self.durability,
        )
        async with AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(settings))
            plenty = (Limit("lifetime", PLENTY),)
            limits = ScopeLimits(Scope(DEFAULT_TENANT), plenty, runtime.clock.now(), None)
            await runtime.reservations.limits.set(limits, {})
            service = Service(runtime)
            for task in (self._keep_a_worker(), self._answer(service)):
                stack.push_async_callback(cancelled, asyncio.create_task(task))
            for number in range(1, turns + 1):
                if not await self._turn(service, number):
                    break
            await self._check(runtime)

    async def _turn(self, service: Service, number: int) -> bool:
        text = f"Turn {number} please"
        started = await service.start_turn(self.thread_id, text, Caller(key=text), open_with="inquiry")
        self.report.turns += 1
        turn = await end_of(service, started, TURN_TIMEOUT_S)
        if turn is None or turn.status != "completed":
            self.report.found.stuck.append(f"turn {number} is {turn.status if turn else 'stuck'}: {turn}")
            return False
        return True

    async def _answer(self, service: Service) -> None:
        """Be the customer and the person who are asked."""
        while True:
            try:
                await self._answer_open(service)
            except Exception as error:  # noqa: BLE001  (an answer that the service refuses is a fault of the run)
                self.report.found.others.append(f"an answer was refused: {error!r}")
            await asyncio.sleep(0.03)

    async def _answer_open(self, service: Service) -> None:
        state = (await service.runtime.repository.load(self.thread_id, DEFAULT_TENANT)).state
        if not isinstance(state, Running):
            return
        if question := question_for_customer(state):
            text, caller = mark(question.text), Caller(key=f"answer {question.version}")
            await self._give(question.version, text, lambda: service.start_turn(self.thread_id, text, caller))
        for asked in await service.history.approvals(self.thread_id, Caller()):
            shown = asked.question or ""
            answer: Json = decision_on(shown) if asked.answer_schema else mark(shown)
            decided = Decide(hash=asked.hash, decision="answer", answer=answer)
            decide = partial(service.decide_approval, self.thread_id, asked.approval_id, decided, Caller())
            await self._give(asked.approval_id, answer, decide)

    async def _give(self, question: int, answer: Json, give: Callable[[], Awaitable[object]]) -> None:
        """Give an answer, sometimes twice at a time: the second is refused, or, with the customer's key, repeated."""
        self.given[question] = answer
        self._kill_at(f"before QuestionAnswered:{len(self.given)}")
        told = await asyncio.gather(*[give() for _ in range(self.chance.choice((1, 2)))], return_exceptions=True)
        self._kill_at(f"after QuestionAnswered:{len(self.given)}")
        refused = [each for each in told if isinstance(each, BaseException)]
        if len(refused) == len(told):
            raise refused[0]
        for error in refused:
            if not isinstance(error, UnknownApproval | ApprovalChanged):
                raise error

    def _kill_at(self, point: str) -> None:
        if self._worker and self._point == point:
            self._worker.kill()

    async def _keep_a_worker(self) -> None:
        """Start the workers that are to die, and then one that is not; the next comes when the one before is gone."""
        for point in (*self.report.points, ""):
            process = self._worker = worker.start({**self.environment, CRASH: point})
            self._point = point
            try:
                while process.is_alive():
                    await asyncio.sleep(0.02)
                self.deaths.append(time.time())
                self.report.died_at.append(point.rpartition(":")[0])
            finally:
                process.kill()
                process.join()

    async def _check(self, runtime: Runtime) -> None:
        recorded = [event async for event in runtime.repository.follow(self.thread_id)]
        report, effects = self.report, read_effects(Path(self.environment[EFFECTS]))
        report.events, report.paid, report.answered = len(recorded), len(self.model.paid), len(self.given)
        report.resumed = sum(isinstance(each.event, TurnResumed) for each in recorded)
        found = check(recorded, self.model.paid, effects, self.given, self.deaths)
        verified = await verify_slices(runtime.repository.store, map(Slice, range(SLICES)))
        found.stuck += report.found.stuck
        found.others += [*report.found.others, *verified.problems, *check_events(recorded)]
        found.others += await check_ledger(runtime, self.thread_id)
        report.found = found
