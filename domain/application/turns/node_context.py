"""The `TurnContext` of one attempt at a node: what a node's function is given."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from functools import partial
from typing import Any, Literal

from msgspec.structs import replace

from domain.agents.agent import Agent, Each
from domain.agents.graph import Graph, RetryPolicy
from domain.agents.outcomes import ToolOutcome, outcomes
from domain.agents.output import output_of
from domain.agents.tools import Tool
from domain.agents.values import typed_values
from domain.application.thread_repository import LoadedThread
from domain.application.turns.ask_model import ModelQuestion, ask_model
from domain.application.turns.ask_person import AskedInAttempt, ask_question
from domain.application.turns.calls_under_way import CallsUnderWay
from domain.application.turns.fan_out import run_fan_out
from domain.application.turns.generate import GeneratedAnswer, Generation, offered, with_unrecorded
from domain.application.turns.model_calls import ModelCall, PreparedPrompt
from domain.application.turns.run import TurnRun
from domain.application.turns.services import TurnServices
from domain.application.turns.token_counting import count_tokens, in_thread_if_long
from domain.application.turns.tool_calls import ToolCalls
from domain.application.turns.turn_cause import message_of
from domain.application.turns.user_code import call_user_code
from domain.errors import BudgetExhausted, InvalidInput, PromptTooLarge, TurnIsOver, WaitsForPerson
from domain.ids import ThreadId
from domain.json import Json, copied
from domain.models.chat import MESSAGE_OVERHEAD, ChatMessage, ModelError
from domain.ports.wakeups import Delta, Withdrawn
from domain.prompt.compaction import leaving, remembered
from domain.prompt.summary import INSTRUCTIONS, parse_summary, summary_request
from domain.thread.codec import Recorded, to_json
from domain.thread.commands import RuntimeCommand
from domain.thread.events import MessageAppended, NodeEvent, StateUpdated, ToolRequested
from domain.thread.size_limits import MAX_ARGUMENTS_CHARACTERS, check_is_json, check_json_size, check_message_text
from domain.thread.state import Message, Running

_log = logging.getLogger(__name__)


@dataclass
class NodeContext:
    """One attempt at one node. Implements `domain.agents.agent.TurnContext`."""

    run: TurnRun
    agent: Agent
    written: str = field(init=False, default="")
    """What the model has written so far in the current call of `generate`."""
    last_answer: str = field(init=False, default="")
    """What a model wrote last, for the error of a node that cannot read it."""
    _shown: tuple[LoadedThread, Running] | None = field(init=False, default=None)
    _requests: int = field(init=False, default=0)
    _fan_outs: int = field(init=False, default=0)
    _asked_models: int = field(init=False, default=0)
    _digests: dict[str, int] = field(init=False, default_factory=dict)
    _asked_people: AskedInAttempt = field(init=False, default_factory=AskedInAttempt)
    _calls: CallsUnderWay = field(init=False, default_factory=CallsUnderWay)
    _generating: int = field(init=False, default=0)
    """Calls of `generate` that are under way."""
    _generated: list[GeneratedAnswer] = field(init=False, default_factory=list)
    _kept: bool = field(init=False, default=False)
    """Whether an event records what the model has written."""
    _over: bool = field(init=False, default=False)

    @property
    def services(self) -> TurnServices:
        """What the turn is run with."""
        return self.run.services

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.run.thread_id

    @property
    def state(self) -> Running:
        """The state now, with a copy of the thread's values: changing them has no effect.

        Raises `TurnIsOver` if the attempt is over, the turn has ended, or another worker has resumed it.
        """
        if self._over:
            raise TurnIsOver
        loaded = self.run.loaded
        if self._shown is None or self._shown[0] is not loaded:
            if self.run.turn is None or not isinstance(loaded.state, Running):
                raise TurnIsOver
            thread = replace(loaded.state.thread, values=copied(loaded.state.thread.values))
            self._shown = (loaded, replace(loaded.state, thread=thread))
        return self._shown[1]

    def close(self) -> None:
        """End the attempt: a node that was abandoned and still runs has no effect from now on.

        What a model has written, and no event of the node records, is withdrawn.
        """
        if not self._kept:
            self._retract()
        self._over = True

    def keep_written(self) -> None:
        """Keep what the model has written: a cancelled turn records it."""
        self._kept = True

    async def report(self, command: RuntimeCommand, *, durable: bool = True, soon: bool = False) -> Sequence[Recorded]:
        """Report for the node. Raises `TurnIsOver` if the attempt is over; see `TurnRun.report`."""
        if self._over:
            raise TurnIsOver
        return await self.run.report(command, durable=durable, soon=soon)

    @property
    def values(self) -> Any:
        """The thread's values, typed by the graph's model. Raises `InvalidInput` if they do not fit it."""
        return typed_values(self.agent.graph.values, self.state.thread.values)

    @property
    def subject(self) -> str:
        """The customer that the thread is about."""
        return self.state.thread.subject

    @property
    def user_input(self) -> str:
        """The message that started this turn."""
        return message_of(self.state)

    def say(self, content: str) -> MessageAppended:
        """Return a message of the agent. Raises `InvalidInput` if it is too long."""
        check_message_text(content, "say")
        return MessageAppended("assistant", content, self._count(content))

    def request(self, tool: str, /, **arguments: Json) -> Sequence[NodeEvent]:
        """Return a tool call that the agent makes without a model. Raises `InvalidInput` if it is too large."""
        check_json_size(arguments, "request.arguments", MAX_ARGUMENTS_CHARACTERS)
        call = ToolRequested(f"{tool}-{self.run.loaded.head.version + self._requests}", tool, arguments)
        self._requests += 1
        return (MessageAppended("assistant", None, self._count(to_json(call))), call)

    def update(self, **values: Json) -> StateUpdated:
        """Return a change of the thread's values. Raises `InvalidInput` for what is not JSON."""
        for name, value in values.items():
            check_is_json(value, f"update.{name}")
        return StateUpdated(values)

    async def generate(
        self,
        instructions: str | None = None,
        *,
        tools: Sequence[Tool | str] | None = None,
        model: str | None = None,
        show: bool = True,
    ) -> Sequence[NodeEvent]:
        """Call the model with the conversation so far; return its message and its tool calls."""
        if self.state.turn.calls:
            raise InvalidInput("calls", "run the open calls before the model is asked again")
        self._retract()
        agent = self.agent if tools is None else replace_fields(self.agent, tools=offered(self.agent, tools))
        generation = Generation(
            self,
            agent,
            self._instructions() if instructions is None else instructions,
            model,
            self._hear if show else None,
            self._retract,
            self._generated,
        )
        self._generating += 1
        try:
            await self._calls.call(generation.run)
        finally:
            self._generating -= 1
        self.last_answer = self._generated[-1].answered.content or ""
        return self._generated[-1].events

    def _instructions(self) -> str:
        given = self.agent.instructions
        return given if isinstance(given, str) else call_user_code(given, self.state)

    async def ask(
        self,
        prompt: str,
        instructions: str = "",
        *,
        output: Any = str,
        model: str | None = None,
        show: bool = False,
    ) -> Any:
        """Ask a model something that is not part of the conversation; see `ask_model`."""
        number, self._asked_models = self._asked_models, self._asked_models + 1
        if show:
            self._retract()
        on_delta = self._hear if show else None
        place = (prompt, instructions, output_of(output), number, self._digests)
        question = ModelQuestion(*place, model=model, on_delta=on_delta, retract=self._retract)
        answer, self.last_answer = await self._calls.call(lambda: ask_model(self, question))
        if show:
            self._retract()
        return answer

    async def ask_person(self, question: str, output: Any = str) -> Any:
        """Ask a person; see `ask_question`."""
        return await self._ask_question(question, output, "person")

    async def ask_customer(self, question: str) -> str:
        """Ask the customer; see `ask_question`."""
        return str(await self._ask_question(question, str, "customer"))

    async def _ask_question(self, question: str, output: Any, to: Literal["person", "customer"]) -> Any:
        if self._generated or self._generating:
            raise InvalidInput(
                "question",
                "ask before `generate` or in another node: after the answer the node runs again from its beginning",
            )
        self._calls.check_outside()
        try:
            return await ask_question(self, self._asked_people, question, output_of(output), to)
        except WaitsForPerson:
            await self._calls.end()
            raise

    def complete(self, facts: Sequence[NodeEvent]) -> tuple[NodeEvent, ...]:
        """Return a node's events together with the answers of models that are not among them."""
        if not self._generated:
            return tuple(facts)
        self._kept = self._generated[-1].is_among(facts)
        return with_unrecorded(facts, self._generated)

    async def run_tools(self) -> Sequence[ToolOutcome]:
        """Run all open tool calls at the same time; see `ToolCalls.run`."""
        if self._over:
            raise TurnIsOver
        try:
            await self._calls.call(ToolCalls(self).run)
        except WaitsForPerson:
            await self._calls.end()
            raise
        return outcomes(self.state)

    async def map(
        self,
        items: Sequence[Json],
        each: Each | Tool | Graph,
        *,
        at_once: int = 8,
        retry: RetryPolicy | None = None,
    ) -> Sequence[Json]:
        """Work on a list of items; see `run_fan_out`."""
        number, self._fan_outs = self._fan_outs, self._fan_outs + 1
        work = partial(run_fan_out, self, items, each, at_once=at_once, retry=retry, number=number)
        return await self._calls.call(work)

    async def compact(self) -> Sequence[NodeEvent]:
        """Replace the older messages of the live window by a summary; do nothing if there are none.

        A model writes the summary. If none can, the window stays as it is: prompts are cut until a later turn succeeds.
        """
        window = self.services.context_window
        leaves = leaving(self.state.thread.window, window)
        if not leaves:
            return ()
        covered: dict[str, Sequence[Message]] = {}
        try:
            made = await ModelCall(self, partial(self._summary_prompt, leaves, covered)).answer()
        except (ModelError, BudgetExhausted, PromptTooLarge) as error:
            _log.warning("The history of %s is not summarised; a later turn tries again: %s", self.thread_id, error)
            return ()
        memory = parse_summary(made.answer.content or "")
        leaves = covered[made.prompt.messages[-1].content or ""]
        fact = None
        if memory:
            remember = partial(remembered, leaves, memory, made.called.model, window, self._count)
            fact = await in_thread_if_long(remember, len(made.answer.content or ""))
        if fact is None:
            _log.warning("The summary of %s by %s cannot be read", self.thread_id, made.called.model)
            return (made.called,)
        return (made.called, fact)

    async def _summary_prompt(
        self, leaves: Sequence[Message], covered: dict[str, Sequence[Message]], limit: int
    ) -> PreparedPrompt:
        """Make the prompt that asks for a summary, and remember which messages it covers."""
        summary = self.state.thread.summary
        fixed = self._count(INSTRUCTIONS) + 2 * MESSAGE_OVERHEAD
        ask = partial(summary_request, summary.text if summary else "", leaves, limit - fixed, self._count)
        # Each message is counted, possibly many times.
        text, messages = await in_thread_if_long(ask, sum(len(message.content or "") for message in leaves))
        covered[text] = messages
        prompt = (ChatMessage("system", INSTRUCTIONS), ChatMessage("user", text))
        return PreparedPrompt(prompt, fixed + await count_tokens(self.services.tokens, text))

    def _hear(self, text: str) -> None:
        """Broadcast a piece of the answer."""
        if self._over:
            return
        self.services.broadcast.speak(Delta(self.thread_id, self.run.durable_version, len(self.written), text))
        self.written += text

    def _retract(self) -> None:
        """Withdraw what a model has written: its call failed, or its text is no message of the conversation."""
        if self._over or not self.written:
            return
        self.written = ""
        self.services.broadcast.speak(Withdrawn(self.thread_id, self.run.durable_version))

    def _count(self, text: str) -> int:
        return self.services.tokens.count(text)
