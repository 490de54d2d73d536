"""Models whose answers have a price in tokens, limits for them, and checks of the log and the ledger."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.agents.agent import Agent, Each, TurnContext
from domain.agents.graph import Graph, Node, RetryPolicy
from domain.agents.tools import Tool
from domain.application.budget.reservations import Recovered
from domain.application.command_handler import CommandRequest, execute
from domain.application.thread_repository import LoadedThread
from domain.errors import StoreUnavailable
from domain.ids import DEFAULT_TENANT, SHARDS, Shard
from domain.models.chat import ChatAnswer, ChatRequest, ModelUnreachable, OnDelta, Usage
from domain.models.routing import ModelSpec, Policy
from domain.ports.ledger import Granted, Refused, Reservation, Scope, ScopeLimits
from domain.thread.commands import OpenThread, SetBudget
from domain.thread.events import END, Limit, ModelCalled, ModelFailed, NodeEvent
from domain.thread.state import Idle
from infrastructure.memory.ledger import MemoryLedger
from tests.support.runtime import Reply, Stage, one_node, stage

MUCH = Limit("lifetime", 10**6)
ONCE = RetryPolicy(1)
WRITTEN = "so far so many words "


@dataclass
class Endpoint:
    """A model whose answers all have the same usage. To a `slow` question it writes a little, and hangs."""

    usage: Usage = field(default_factory=lambda: Usage(100, 50))
    name: str = ""
    """Its name in answers; "": the name that the request has."""
    text: str = "yes"
    asked: list[ChatRequest] = field(default_factory=list)
    answered: int = 0

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        self.asked.append(request)
        await asyncio.sleep(0)
        if "slow" in (request.messages[-1].content or ""):
            if on_delta:
                on_delta(WRITTEN)
            await asyncio.sleep(60)
        self.answered += 1
        return ChatAnswer(self.text, (), "stop", self.name or request.model or "", self.usage)

    async def close(self) -> None:
        return

    @property
    def longest(self) -> list[int | None]:
        """The tokens that each answer was allowed."""
        return [request.max_tokens for request in self.asked]


@dataclass
class Failing:
    """A model that writes something or nothing, and then hangs or is unreachable."""

    writes: str = ""
    hangs: bool = False
    asked: int = 0

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        self.asked += 1
        if self.writes and on_delta:
            on_delta(self.writes)
        await asyncio.sleep(60 if self.hangs else 0)
        raise ModelUnreachable

    async def close(self) -> None:
        return


class Flaky(MemoryLedger):
    """A ledger that is unavailable for the second reservation."""

    reservations = 0

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        self.reservations += 1
        if self.reservations == 2:
            raise StoreUnavailable
        return await super().reserve(reservation)


def policy(**models: ModelSpec) -> Policy:
    """Make a policy that asks models one after the other."""
    return Policy(models, tuple(models))


async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
    return await turn.generate()


def in_a_row(*nodes: Node, tools: Sequence[Tool] = ()) -> Agent:
    """Make an agent of nodes that follow each other."""
    names = [node.name for node in nodes]
    return Agent(Graph("row", names[0], nodes, dict(zip(names, [*names[1:], END], strict=True))), tools=tools)


def fan_out(each: Each, count: int, *, timeout: float = 5, at_once: int = 8) -> Agent:
    """Make an agent that works on `count` items without retries."""

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        await turn.map(list(range(count)), each, at_once=at_once, retry=ONCE)
        return ()

    return one_node(work, retry=ONCE, timeout=timeout)


async def limited(played: Stage, *limits: Limit, agent: str = "", model: str = "") -> None:
    """Limit what the tenant may spend."""
    await played.ledger.set_limits(
        ScopeLimits(Scope(DEFAULT_TENANT, agent, model), limits, played.clock.now(), None), {}
    )


async def budgeted(played: Stage, *limits: Limit) -> None:
    """Limit what the thread may spend."""
    plan = (OpenThread(played.agent.name), SetBudget(limits))
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: plan))


async def accounted(agent: Agent, *lines: Reply, limit: Limit = MUCH, **more: object) -> Stage:
    """Set the stage for a tenant with a limit, so that the ledger counts its calls."""
    played = stage(agent, *lines, **{"ledger": MemoryLedger(), **more})
    played.turns.pause = 0.001
    await limited(played, limit)
    return played


async def finishes(played: Stage) -> Counter[str]:
    """Count the calls on record by how they finished."""
    return Counter(called.finish_reason for called in await recorded(played))


async def recorded(played: Stage) -> list[ModelCalled]:
    return [event for event in await played.events() if isinstance(event, ModelCalled)]


async def failures(played: Stage) -> list[ModelFailed]:
    return [event for event in await played.events() if isinstance(event, ModelFailed)]


async def spent(played: Stage) -> int:
    """Add up the tokens of the calls on record."""
    return sum(called.prompt_tokens + called.completion_tokens for called in await recorded(played))


async def recover(played: Stage) -> Recovered:
    """Recover open reservations, as a worker that has all shards."""
    return await played.account.reservations.recover({Shard(shard): 10**6 for shard in range(SHARDS)})


async def check_ledger(played: Stage) -> None:
    """The ledger has exactly what the log has, and nothing is reserved any more."""
    for usage in await played.ledger.limit_usage(DEFAULT_TENANT, played.clock.now()):
        assert (usage.spent.tokens, usage.reserved.tokens) == (await spent(played), 0)


def outcome(loaded: LoadedThread) -> str:
    """Say how a thread's last turn ended."""
    assert isinstance(loaded.state, Idle)
    last = loaded.state.thread.last_turn
    assert last is not None
    return last.reason or last.outcome
