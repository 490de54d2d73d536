"""`generate`: a model continues the conversation. And what the log keeps of an answer that a node does not record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.agents.output import Output
from domain.agents.requested_output import final_output
from domain.application.turns.ask_model import CORRECTION, SCHEMA_HINT
from domain.application.turns.model_calls import AnsweredCall, BuildPrompt, ModelCall, PreparedPrompt
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.prompt_builder import PromptBuilder
from domain.application.turns.provider_data import limit_provider_data
from domain.application.turns.token_counting import count_tokens
from domain.application.turns.tool_texts import unknown_tool
from domain.errors import InvalidInput, TurnIsOver
from domain.models.answers import finish_of
from domain.models.chat import MESSAGE_OVERHEAD, AnswerInvalid, ChatMessage, OnDelta, ToolCall
from domain.thread.codec import to_json
from domain.thread.events import MessageAppended, ModelAnswered, NodeEvent, ToolRequested
from domain.thread.size_limits import cut_to_fit
from domain.thread.state import Running


class GeneratedAnswer(Struct, frozen=True):
    """What one call of `generate` has returned, and the event that keeps it if the node does not record it."""

    events: tuple[NodeEvent, ...]
    called: NodeEvent
    answered: ModelAnswered

    def is_among(self, facts: Sequence[NodeEvent]) -> bool:
        """Return whether a node's events have the answer as it was."""
        return all(map(facts.__contains__, self.events))


@dataclass
class Generation:
    """One call of `generate` by a node. `agent` has the tools that the model may call."""

    node: NodeAttempt
    agent: Agent
    instructions: str
    model: str | None
    on_delta: OnDelta | None
    retract: Callable[[], None]
    made: list[GeneratedAnswer]
    """The answers of the attempt at the node so far. Their number identifies an answer."""

    async def run(self) -> None:
        """Ask, and add each answer to `made`: at most two, if the first does not fit the agent's output.

        Raises `ModelError`.
        """
        run = self.node.run
        thread = run.loaded.state  # not the node's copy of the values, which the node may have changed
        if not isinstance(thread, Running):
            raise TurnIsOver
        output = final_output(self.agent.output, thread.turn.output)
        prompts = PromptBuilder(run.services, self.agent, run.thread_id, thread)
        hint = SCHEMA_HINT.format(schema=to_json(output.format.schema)) if output.format else ""
        system = "\n\n".join(filter(None, (self.instructions, hint)))
        await run.patiently(lambda: prompts.begin(system))
        made = await self._call(prompts.build, output)
        try:
            await self._checked(made, output)
        except AnswerInvalid as error:
            self.retract()
            again = await self._corrected(prompts.build, made, error)
            await self._checked(await self._call(again, output), output)

    async def _call(self, build: BuildPrompt, output: Output[Any]) -> AnsweredCall:
        specs = tuple([tool.spec for tool in self.agent.tools])
        call = ModelCall(
            *(self.node, build, specs, self.on_delta, self.retract), model=self.model, output=output.format
        )
        return await call.answer()

    async def _checked(self, made: AnsweredCall, output: Output[Any]) -> None:
        """Keep an answer. Raises `AnswerInvalid` if it does not fit, and does not request tools."""
        try:
            if not made.answer.tool_calls and output.schema:
                text = output.canonical(made.answer.content or "")
                tokens = await count_tokens(self.node.run.services.tokens, text)
                made = replace(made, answer=replace(made.answer, content=text), tokens=tokens)
        finally:
            self.made.append(await self._kept(made))

    async def _corrected(self, build: BuildPrompt, made: AnsweredCall, error: AnswerInvalid) -> BuildPrompt:
        """Return prompts that show the model its answer, and how it does not fit."""
        correction = CORRECTION.format(error=error.why)
        more = (ChatMessage("assistant", made.answer.content), ChatMessage("user", correction))
        counter = self.node.run.services.tokens
        size = sum([await count_tokens(counter, message.content or "") + MESSAGE_OVERHEAD for message in more])

        async def longer(limit: int) -> PreparedPrompt:
            prompt = (await build(limit - size)).longer_by(size)
            return PreparedPrompt((*prompt.messages, *more), prompt.tokens, prompt.assembled)

        return longer

    async def _kept(self, made: AnsweredCall) -> GeneratedAnswer:
        """Make the events of an answer."""
        services = self.node.run.services
        answer, extra = await limit_provider_data(made.answer, services.context_window, services.tokens)
        calls = tuple(
            ToolRequested(
                *(call.id, call.name, call.arguments, call.written),
                call.fault or unknown_tool(self.agent, call.name),
                call.extra,
            )
            for call in answer.tool_calls
        )
        origin = answer.origin if answer.extra or any(call.extra for call in answer.tool_calls) else ""
        said = MessageAppended(
            "assistant",
            answer.content,
            made.tokens + extra,
            finish=finish_of(answer),
            extra=answer.extra,
            origin=origin,
        )
        assembled = [made.prompt.assembled] if made.prompt.assembled else []
        requested = tuple([ToolCall(c.call_id, c.tool, c.arguments, c.written, c.fault) for c in calls])
        content = None if answer.content is None else cut_to_fit(answer.content)
        answered = ModelAnswered(len(self.made), content, calls=requested, finish=said.finish)
        return GeneratedAnswer((*assembled, made.called, said, *calls), made.called, answered)


def offered(agent: Agent, tools: Sequence[Any] | None) -> tuple[Any, ...]:
    """Return the tools that a call offers: all of the agent's, or some of them by name. Raises `InvalidInput`."""
    if tools is None:
        return tuple(agent.tools)
    names = [tool if isinstance(tool, str) else tool.name for tool in tools]
    for name in names:
        if name not in agent.by_name:
            known = ", ".join(agent.by_name) or "none"
            raise InvalidInput("tools", f"the agent has no tool {name!r}, which could run its calls; it has: {known}")
    return tuple(agent.by_name[name] for name in names)


def with_unrecorded(facts: Sequence[NodeEvent], generated: Sequence[GeneratedAnswer]) -> tuple[NodeEvent, ...]:
    """Add the answers that are not among a node's events as they were. Each follows its `ModelCalled`.

    So a replay can answer every call of `generate`, whatever the node has made of the answers.
    """
    kept, missing = list(facts), []
    for made in generated:
        if made.is_among(facts):
            continue
        if made.called in kept:
            kept.insert(kept.index(made.called) + 1, made.answered)
        else:
            missing += [made.called, made.answered]
    return (*missing, *kept)
