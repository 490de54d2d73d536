"""Calls of models as a node makes them, and what happens meanwhile, in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

from domain.agents.agent import Agent
from domain.application.budget.turn_budget import Reserved, TurnBudget
from domain.application.turns.model_calls import MARGIN_S, ModelCall, PreparedPrompt
from domain.application.turns.model_registry import ModelRegistry
from domain.application.turns.run import TurnRun
from domain.application.turns.unreported_calls import UnreportedCalls
from domain.application.turns.user_code import Deadline
from domain.budget.limits import PlannedCall
from domain.errors import TurnIsOver
from domain.models.chat import ChatAnswer, ChatMessage, OnDelta
from domain.models.routing import Choice
from domain.ports.log import Fence
from domain.thread.codec import Recorded
from domain.thread.commands import RecordModelFailure, RuntimeCommand
from domain.thread.events import ModelFailed
from domain.thread.state import Running
from tests.support.runtime import one_node, stage
from tests.support.spending import ask

ASK = (ChatMessage("user", "Hello?"),)


class Answered(NamedTuple):
    """An answer, and which model of the policy gave it."""

    name: str
    provider: str
    because: str
    answer: ChatAnswer
    duration_ms: int


@dataclass
class WatchedBudget(TurnBudget):
    """A budget that notes each reservation, and how it ends: it is released, or charged with what the call has cost."""

    caller: "Caller" = field(kw_only=True)
    unsettled: dict[UUID, str] = field(default_factory=dict)
    """Models by reservations that have not ended yet. To end one twice is a `KeyError`."""

    async def limited(self, state: Running) -> bool:
        return True

    async def reserve(self, state: Callable[[], Running], call: PlannedCall, fence: Fence | None) -> Reserved:
        name = self.caller.name_of(call.model)
        if name in self.caller.refuse:
            raise self.caller.refuse[name]
        reserved = await super().reserve(state, call, fence)
        if self.caller.room is not None:
            reserved = replace(reserved, answer=min(reserved.answer, self.caller.room))
        self.unsettled[reserved.id] = name
        self.caller.seen.append(f"reserve {name}")
        return reserved

    async def release(self, held: Reserved) -> None:
        self.caller.seen.append(f"release {self.unsettled.pop(held.id)}")
        await super().release(held)

    def took(self, held: Reserved, called: object) -> None:
        self.caller.seen.append(f"charge {self.unsettled.pop(held.id)}")
        super().took(held, called)  # type: ignore[arg-type]


@dataclass
class CallingTestNode:
    """A node that calls models. Implements `NodeAttempt`."""

    run: TurnRun
    agent: Agent
    caller: "Caller"

    @property
    def state(self) -> Running:
        assert isinstance(self.run.loaded.state, Running)
        return self.run.loaded.state

    async def report(self, command: RuntimeCommand, *, durable: bool = True, soon: bool = False) -> Sequence[Recorded]:
        if self.caller.lost:
            raise TurnIsOver
        assert isinstance(command, RecordModelFailure)
        self.caller.seen.append(command.fact)
        return await self.run.report(command, durable=durable, soon=soon)


@dataclass
class ChosenCall(ModelCall):
    """A call of models that the test chooses."""

    choice: Choice = field(kw_only=True)

    async def _choose(self) -> Choice:
        await super()._choose()
        return self.choice


@dataclass
class Caller:
    """Asks models, each time within a turn of its own, and keeps what it sees. Checks that reservations end."""

    models: ModelRegistry
    seen: list[object] = field(default_factory=list)
    """`reserve`, `release` or `charge` with the model's name, what the model shows, `retract`, and `ModelFailed`."""
    refuse: dict[str, Exception] = field(default_factory=dict)
    """What making the prompt or reserving raises, by the model's name."""
    room: int | None = None
    """Tokens of an answer that the budget has room for."""
    lost: bool = False
    """Whether another process has the turn: nothing can be reported."""

    def name_of(self, model: str) -> str:
        return next(name for name, spec in self.models.policy.models.items() if spec.model == model)

    @property
    def failures(self) -> list[ModelFailed]:
        return [each for each in self.seen if isinstance(each, ModelFailed)]

    async def ask(
        self, *chain: str, because: str = "", within: float = 5.0, on_delta: OnDelta | None = None
    ) -> Answered:
        played = stage(one_node(ask), models=self.models)
        run = played.run((await played.begin("go")).loaded)
        spending = run.spending
        budget = WatchedBudget(spending.account, spending.tenant, spending.thread_id, spending.agent, caller=self)
        run.spending, run.unreported = budget, UnreportedCalls(budget)

        async def build(_: int) -> PreparedPrompt:
            return PreparedPrompt(ASK, 1)

        call = ChosenCall(
            CallingTestNode(run, played.agent, self),
            build,
            on_delta=on_delta or self.seen.append,
            retract=lambda: self.seen.append("retract"),
            choice=Choice(chain or self.models.policy.chain, because),
        )
        try:
            with run.interruptible(Deadline(within + MARGIN_S)):
                made = await call.answer()
        finally:
            assert not budget.unsettled, "each reservation ends with its attempt, whatever ends that"
        called = made.called
        name = next(name for name, spec in self.models.policy.models.items() if spec.provider == called.provider)
        return Answered(name, called.provider, called.because, made.answer, called.duration_ms)
