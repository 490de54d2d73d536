"""Replays: run a thread's turns again with the recorded answers of models, tools and people.

Each turn begins in the state that the log has before it, with the current agent or another one. Its events are then
compared with the log: where the turn differs first, what it came to, and how long its prompts are. Tools are never
called. A live model may answer instead of the recorded answers, to see what other instructions would change.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from uuid import uuid5

from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.agents.graph import Graph
from domain.application.budget.null import NullTextStore, null_budget
from domain.application.command_handler import CommandRequest, execute
from domain.application.recall.messages import read_messages
from domain.application.recall.search import MessageSearch
from domain.application.replay.compare import ReplayedTurn, compared
from domain.application.replay.recorded_answers import RecordedAnswers
from domain.application.replay.unlogged import unlogged
from domain.application.streaming.broadcast import Broadcast
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.application.turns.model_registry import ModelRegistry
from domain.application.turns.prompt_parts import PromptParts
from domain.application.turns.runner import TurnRunner
from domain.application.turns.services import TurnServices
from domain.budget.prices import Prices
from domain.ids import DEFAULT_TENANT, Tenant, ThreadId, TurnId, Version
from domain.models.chat import ChatAnswer, ChatModel, ChatRequest, OnDelta
from domain.ports.clock import Clock
from domain.ports.recall import Finder
from domain.ports.tokens import TokenCounter
from domain.recall.bm25 import Hit
from domain.recall.excerpts import Excerpt, part_of
from domain.thread import events
from domain.thread.codec import Metadata, Recorded
from domain.thread.commands import AnswerQuestion, Command, StartTurn
from domain.thread.state import Running, Unopened

FREE = Prices(date.min)
"""A price list without prices."""


@dataclass(frozen=True)
class Replay:
    """Replays turns. `sandbox` makes an empty repository in memory for each turn."""

    repository: ThreadRepository
    sandbox: Callable[[], ThreadRepository]
    tokens: TokenCounter
    context_window: int
    clock: Clock
    models: ModelRegistry | None = None
    """The models that agents may name, and that answer in a live replay."""
    prices: Prices = FREE

    async def thread(
        self, thread_id: ThreadId, agent: Agent, tenant: Tenant = DEFAULT_TENANT, *, live: bool = False
    ) -> list[ReplayedTurn]:
        """Replay every ended turn of a thread; `live` asks the models again. Raises `UnknownThread`."""
        return [turn async for turn in self.turns(thread_id, agent, tenant, live=live)]

    async def turns(
        self, thread_id: ThreadId, agent: Agent, tenant: Tenant = DEFAULT_TENANT, *, live: bool = False
    ) -> AsyncGenerator[ReplayedTurn]:
        """Yield the ended turns of a thread, each when it has been replayed. Raises `UnknownThread`, `CorruptLog`."""
        await self.repository.row(thread_id, tenant)
        turn_events: list[Recorded] = []
        async for recorded in self.repository.follow(thread_id):
            if isinstance(recorded.event, events.TurnStarted):
                turn_events = [recorded]
            elif turn_events:
                turn_events.append(recorded)
                if isinstance(recorded.event, events.TurnEnd):
                    with unlogged():
                        turn = await self._turn(turn_events, agent, thread_id, tenant, live=live)
                    yield turn
                    turn_events = []

    async def _turn(
        self, recorded: Sequence[Recorded], agent: Agent, thread_id: ThreadId, tenant: Tenant, *, live: bool
    ) -> ReplayedTurn:
        started = recorded[0].event
        if not isinstance(started, events.TurnStarted):
            raise TypeError("The first event of a turn must be TurnStarted")
        answers = RecordedAnswers(recorded)
        node = started.node if started.retries else agent.graph.first
        begun = replace(started, node=node, graph=agent.graph.fingerprint, durability="sync")
        said = next((r.event for r in recorded[1:2] if isinstance(r.event, events.MessageAppended)), None)
        repository = self.sandbox()
        before = await self._before(recorded[0], thread_id, tenant)
        chained = repository.chain(before, [begun, *([said] if said else [])], Metadata(), forked=True)
        loaded, _ = await repository.append(chained)

        async def head() -> Version:
            return (await repository.row(thread_id, tenant)).head.version

        answers.head = head
        services = TurnServices(
            repository,
            self._models(answers, live=live),
            self.tokens,
            Broadcast(),
            self.context_window,
            null_budget(repository, self.clock, FREE),
            PromptParts(self.tokens, NullTextStore()),
            item_tool=answers.item_tool,
            recall=ReplayedRecall(log=self.repository, thread_id=thread_id, answers=answers),
        )
        own = loaded.state.thread.graph if not isinstance(loaded.state, Unopened) else agent.name
        runner = TurnRunner(services, {own: answers.acted_by(agent, delays=live)})
        loaded = await runner.run(loaded, Metadata())
        while answered := await _answer_question(repository, loaded, answers, self.tokens):
            loaded = await runner.run(answered, Metadata())
        again = [recorded async for recorded in repository.follow(thread_id, before.head.version)]
        recorded = _with_names_of_today(recorded, agent.graph)
        return compared(recorded, again, said.content or "" if said else "", self.prices, answers)

    def _models(self, answers: RecordedAnswers, *, live: bool) -> ModelRegistry:
        if self.models is None:
            return ModelRegistry.alone(answers)
        providers = self.models.providers
        own = {name: LiveAnswers(model, answers) if live else answers for name, model in providers.items()}
        return ModelRegistry(self.models.policy, own)

    async def _before(self, started: Recorded, thread_id: ThreadId, tenant: Tenant) -> LoadedThread:
        """Load the thread right before a turn, without its queue and its budget: a replay spends nothing."""
        loaded = await self.repository.load_at(thread_id, Version(started.version - 1), tenant)
        state = loaded.state
        if isinstance(state, Unopened):
            return loaded
        return replace(loaded, state=replace(state, thread=replace(state.thread, queue=(), budget=None)))


def _with_names_of_today(turn: Sequence[Recorded], graph: Graph) -> Sequence[Recorded]:
    """Rename the nodes of a recorded turn as the graph's aliases say: a renamed node is no difference."""
    today = graph.aliases
    return [
        replace(
            entry, event=replace(event, node=today.get(event.node, event.node), next=today.get(event.next, event.next))
        )
        if isinstance(event := entry.event, events.NodeCompleted)
        else entry
        for entry in turn
    ]


@dataclass(frozen=True)
class LiveAnswers:
    """A model that really answers in a replay. Is a `ChatModel`."""

    model: ChatModel
    answers: RecordedAnswers

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Ask the model. The recorded answer of this call is not used."""
        self.answers.skip(request)
        return await self.model.complete(request, on_delta)

    async def close(self) -> None:
        """Do nothing: the model's owner closes it."""


async def _answer_question(
    repository: ThreadRepository, loaded: LoadedThread, answers: RecordedAnswers, tokens: TokenCounter
) -> LoadedThread | None:
    """Give the recorded answer to the question that a replayed turn waits for; None if there is none."""
    state = loaded.state
    question = next(iter(state.turn.open_questions), None) if isinstance(state, Running) else None
    answer = await answers.answer_to(question.text) if question else None
    if question is None or answer is None or not isinstance(state, Running):
        return None
    if question.to == "customer":
        turn, text = state.turn, str(answer[0])
        answering: Command = StartTurn(
            TurnId(uuid5(turn.turn_id, "answer")), text, tokens.count(text), turn.node, turn.graph
        )
    else:
        answering = AnswerQuestion(question.version, question.hash, answer[0])
    result = await execute(repository, CommandRequest(loaded.thread_id, lambda _: (answering,), known=loaded))
    return result.loaded


class EmptyFinder:
    """A `Finder` that finds nothing."""

    async def find(self, *_: object) -> Sequence[Hit]:
        """Return no hits."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ReplayedRecall(MessageSearch):
    """Recalls what the prompts of a recorded turn recalled: a search may have other results today."""

    log: ThreadRepository
    thread_id: ThreadId
    answers: RecordedAnswers
    finder: Finder = field(default_factory=EmptyFinder)

    async def recall(self, *_: object) -> Sequence[Excerpt]:
        """Read from the log what the next prompt recalled."""
        parts = self.answers.recalled[0] if self.answers.recalled else ()
        said = await read_messages(self.log, self.thread_id, [Version(part.message) for part in parts])
        return [part_of(said[part.message], part) for part in parts if part.message in said]

    async def again(self, *_: object) -> Sequence[Excerpt]:
        """Return the same."""
        return await self.recall()
