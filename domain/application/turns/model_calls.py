"""Calls of models that a node makes: which model, how long a prompt and an answer, within which budget; and the record.

Every call goes this way: that of `generate`, that of `compact`, and those about single items.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.application.budget.turn_budget import Reserved
from domain.application.turns.model_fallback import Answered
from domain.application.turns.run import TurnRun
from domain.application.turns.token_counting import count_tokens, estimate_tokens
from domain.budget.limits import SPARING, PlannedCall
from domain.errors import TurnIsOver
from domain.models.answers import hint_after, with_hint
from domain.models.chat import (
    AnswerEmpty,
    ChatAnswer,
    ChatMessage,
    ChatRequest,
    Cost,
    ModelError,
    OnDelta,
    ToolSpec,
    Usage,
    calls_text,
    cost_of,
    written_of,
)
from domain.models.routing import ModelSpec, Situation, choose
from domain.models.usage_check import LONGEST, check_usage
from domain.thread.commands import NoteFailure
from domain.thread.events import ContextAssembled, ModelCalled, ModelFailed
from domain.thread.state import Running

ANSWER_RESERVE = 0.15
"""The share of the context window that is kept free for the answer."""

MARGIN = 1.0
"""Seconds of a node's time that its calls of models leave to it."""

LEAST_TIME = 0.5


class PreparedPrompt(Struct, frozen=True):
    """A prompt, its tokens by our count, and the fact about it if it is made of the conversation."""

    messages: tuple[ChatMessage, ...]
    tokens: int
    assembled: ContextAssembled | None = None

    def longer_by(self, tokens: int) -> "PreparedPrompt":
        """Count tokens that are added to its end."""
        if not tokens:
            return self
        told = self.assembled
        if told:
            told = replace(told, tokens=told.tokens + tokens, limit=told.limit + tokens)
        return PreparedPrompt(self.messages, self.tokens + tokens, told)


Build: TypeAlias = Callable[[int], Awaitable[PreparedPrompt]]
"""Makes a prompt of at most so many tokens. Raises `PromptTooLarge`."""


class AnsweredCall(Struct, frozen=True):
    """A call that was answered: what was asked, what came back, and the fact about it."""

    prompt: PreparedPrompt
    answer: ChatAnswer
    tokens: int
    """Tokens of the answer as prompts show it, by our count."""
    called: ModelCalled


def nothing() -> None:
    """Take nothing back: nobody has heard anything."""


@dataclass
class ModelCalls:
    """The calls of models that one attempt at a node makes, several at once where it works on items."""

    run: TurnRun
    agent: Agent
    state: Callable[[], Running]
    heard: str = field(init=False, default="")
    """What the model has written so far, in the call that runs and is listened to."""

    async def ask(
        self,
        build: Build,
        tools: Sequence[ToolSpec] = (),
        *,
        on_delta: OnDelta | None = None,
        retract: Callable[[], None] = nothing,
        shrinks: bool = True,
    ) -> AnsweredCall:
        """Ask the model that the policy chooses, and the next ones where it does not answer.

        `shrinks`: the prompt can be made shorter, where what is left of a budget is to be used sparingly.

        Raises:
            ModelError: none of them answers.
            BudgetExhausted: too little is left to spend.
            PromptTooLarge: the prompt fits into no model's window.
        """
        state, services, spending, patiently = self.state(), self.run.services, self.run.spending, self.run.patiently
        policy = services.models.policy
        names = {spec.model for spec in policy.models.values()}
        limited = await patiently(lambda: spending.limited(state))
        strained = limited and await patiently(lambda: spending.strained(state, names))
        short = strained and shrinks
        longest = max(self._limit(spec, short=short) for spec in policy.models.values())
        size = (await patiently(lambda: build(longest))).tokens
        situation = Situation(self.agent.name, state.turn.node, size, bool(tools), strained, self.agent.model)
        asked: list[_Asked] = []

        @asynccontextmanager
        async def attempt(_: str, spec: ModelSpec, after: AnswerEmpty | None) -> AsyncIterator[ChatRequest]:
            hint = hint_after(after)
            more = services.tokens.count(hint) if hint else 0
            prompt = (await patiently(lambda: build(self._limit(spec, short=short) - more))).longer_by(more)
            most = self._longest_answer(spec, prompt, after, strained=strained)
            held = await patiently(lambda: self._reserve(spec, prompt, most)) if limited else None
            now = _Asked(self.run, spec, prompt, hint, held, most if after and after.at_limit else spec.max_answer)
            asked.append(now)
            self.heard = "" if on_delta else self.heard
            try:
                yield ChatRequest(
                    with_hint(prompt.messages, hint),
                    tuple(tools),
                    temperature=self.agent.temperature,
                    max_tokens=now.most,
                    thread_id=self.run.thread_id,
                )
            except Exception as error:
                await now.failed(error)
                raise
            except BaseException as error:
                now.interrupted(cost_of(error))
                raise

        def hear(text: str) -> None:
            asked[-1].heard += text
            if on_delta is not None:
                self.heard += text
                on_delta(text)

        choice = choose(policy, situation)
        answered = await services.models.ask(
            choice, attempt, self._failed, within=self._time_left(), on_delta=hear, retract=retract
        )
        return await asked[-1].answered(answered)

    def _limit(self, spec: ModelSpec, *, short: bool) -> int:
        """Return the tokens that a prompt may have."""
        return int(self._window(spec) * (1 - ANSWER_RESERVE) * (SPARING if short else 1))

    def _window(self, spec: ModelSpec) -> int:
        window = self.run.services.context_window
        return window if spec.context_window is None else min(window, spec.context_window)

    def _time_left(self) -> Callable[[], float]:
        """Return a function of the seconds that are left of the node's time: those that the store was away are."""
        now = asyncio.get_running_loop().time
        least = now() + LEAST_TIME
        return lambda: max(self.run.time_left - MARGIN, least - now())

    def _longest_answer(
        self, spec: ModelSpec, prompt: PreparedPrompt, after: AnswerEmpty | None, *, strained: bool
    ) -> int:
        """Return the tokens that an answer may have: after one that was all reasoning, as many as there is room for."""
        most = spec.max_answer or int(self._window(spec) * ANSWER_RESERVE)
        if after is None or not after.at_limit:
            return max(int(most * SPARING), 1) if strained else most
        if spec.max_answer:
            return spec.max_answer
        taken = after.usage.completion_tokens if after.usage else 0
        return max(most, self._window(spec) - self._expected(spec, prompt), min(2 * taken, LONGEST))

    def _expected(self, spec: ModelSpec, prompt: PreparedPrompt) -> int:
        return self.run.spending.account.expected(spec.model, prompt.tokens)

    async def _reserve(self, spec: ModelSpec, prompt: PreparedPrompt, most: int) -> Reserved:
        call = PlannedCall(spec.model, self._expected(spec, prompt), most)
        return await self.run.spending.reserve(self.state, call, self.run.fence(self.run.thread_id))

    async def _failed(self, fact: ModelFailed) -> None:
        """Record that a model did not answer, at once: the next one may take the whole process with it."""
        self.state()  # raises if this attempt is over
        if not await self.run.report(NoteFailure(self.run.turn_id, fact, self.run.number), durable=False):
            raise TurnIsOver


@dataclass
class _Asked:
    """A model that was asked, and what becomes of that."""

    run: TurnRun
    spec: ModelSpec
    prompt: PreparedPrompt
    hint: str
    held: Reserved | None
    longest: int | None
    heard: str = field(init=False, default="")
    _begun: float = field(init=False, default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def most(self) -> int | None:
        """Return the tokens that the answer may have."""
        return self.held.answer if self.held else self.longest

    async def answered(self, answered: Answered) -> AnsweredCall:
        """Keep the record of the answer."""
        answer = answered.answer
        text, calls = answer.content or "", answer.tool_calls
        cost = Cost(accepted=True, usage=answer.usage, written=written_of(answer))
        shown = size = await self._counted(text + calls_text(calls, shown=True), cost)
        if any(call.written for call in calls) or (answer.usage is None and answer.thoughts):
            size = await self._counted(cost.written, cost)
        called = self._called(answer.usage, size, answer.model, answer.finish_reason, answered.duration_ms)
        called = replace(called, because=answered.because, omitted=answer.omitted)
        self.run.unreported.keep(called, self.held)
        return AnsweredCall(self.prompt, answer, shown, called)

    async def failed(self, error: Exception) -> None:
        """Keep the record of an answer that cannot be used, by what is known of its cost.

        Where no answer had begun, what was set aside is given back.
        """
        cost, failure = cost_of(error), error if isinstance(error, ModelError) else ModelError()
        cost = replace(cost, written=max(cost.written, self.heard, key=len))
        if cost.accepted or cost.usage or cost.written:
            size = await self._counted(cost.written, cost)
            called = self._called(
                cost.usage, size, failure.model, failure.finish_reason, self._duration_ms, usable=False
            )
            self.run.unreported.keep(called, self.held)
        elif self.held:
            await self.run.spending.release(self.held)

    def interrupted(self, cost: Cost) -> None:
        """Keep the record of a call that was cut off from outside: what had gone to and fro by then was used."""
        size = estimate_tokens(self.run.services.tokens, max(cost.written, self.heard, key=len))
        called = self._called(cost.usage, size, "", ModelError.finish_reason, self._duration_ms, usable=False)
        self.run.unreported.keep(called, self.held)

    async def _counted(self, text: str, cost: Cost) -> int:
        try:
            return await count_tokens(self.run.services.tokens, text)
        except BaseException:
            self.interrupted(cost)
            raise

    def _called(
        self,
        usage: Usage | None,
        size: int,
        model: str,
        finish_reason: str,
        duration_ms: int,
        *,
        usable: bool = True,
    ) -> ModelCalled:
        """Make the fact about an answer of so many tokens by our count, and learn from what the endpoint counts."""
        usage, is_estimate, reported = check_usage(usage, self.prompt.tokens, size, self.most, usable=usable)
        account = self.run.spending.account
        if not is_estimate:
            account.observe(self.spec.model, self.prompt.tokens, usage.prompt_tokens)
        return ModelCalled(
            model=self.spec.model if account.prices.knows(self.spec.model) else model or self.spec.model,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            duration_ms=duration_ms,
            finish_reason=finish_reason,
            estimated=is_estimate,
            counted=0 if usage.prompt_tokens == self.prompt.tokens else self.prompt.tokens,
            reported=reported,
            provider=self.spec.provider,
            reservation=self.held.id if self.held and self.held.shared else None,
            hint=self.hint,
            cached=usage.cached_tokens,
        )

    @property
    def _duration_ms(self) -> int:
        return int((asyncio.get_running_loop().time() - self._begun) * 1000)
