"""Calls of models that a node makes: which model, how long a prompt and an answer, within which budget; and the record.

Every call goes this way: that of `generate`, that of `compact`, and those about single items.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.agent import Agent
from domain.application.asking import Answered
from domain.application.counting import counted, estimated
from domain.application.run import Run
from domain.application.spending import Held
from domain.budgets import SPARING, Call
from domain.chat import ChatAnswer, ChatMessage, ChatRequest, OnDelta, ToolSpec, Usage
from domain.codec import to_json
from domain.commands import NoteFailure
from domain.errors import TurnIsOver
from domain.events import ContextAssembled, ModelCalled, ModelFailed
from domain.reported import believed
from domain.routing import ModelSpec, Situation, choose
from domain.state import Running

ANSWER_RESERVE = 0.15
"""The share of the context window that is kept free for the answer."""

MARGIN = 1.0
"""Seconds of a node's time that its calls of models leave to it."""

LEAST_TIME = 0.5


class Prompt(Struct, frozen=True):
    """A prompt, its tokens by our count, and the fact about it if it is made of the conversation."""

    messages: tuple[ChatMessage, ...]
    tokens: int
    assembled: ContextAssembled | None = None


Build: TypeAlias = Callable[[int], Awaitable[Prompt]]
"""Makes a prompt of at most so many tokens. Raises `PromptTooLarge`."""


class Made(Struct, frozen=True):
    """A call that was answered: what was asked, what came back, and the fact about it."""

    prompt: Prompt
    answer: ChatAnswer
    tokens: int
    """Tokens of the answer, by our count."""
    called: ModelCalled


def nothing() -> None:
    """Take nothing back: nobody has heard anything."""


@dataclass
class Calls:
    """The calls of models that one attempt at a node makes, several at once where it works on items."""

    run: Run
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
    ) -> Made:
        """Ask the model that the policy chooses, and the next ones where it does not answer.

        `shrinks`: the prompt can be made shorter, where what is left of a budget is to be used sparingly.

        Raises:
            ModelError: none of them answers.
            BudgetExhausted: too little is left to spend.
            PromptTooLarge: the prompt fits into no model's window.
        """
        state, means, spending, patiently = self.state(), self.run.means, self.run.spending, self.run.patiently
        policy = means.models.policy
        names = {spec.model for spec in policy.models.values()}
        limited = await patiently(lambda: spending.limited(state))
        strained = limited and await patiently(lambda: spending.strained(state, names))
        short = strained and shrinks
        longest = max(self._limit(spec, short=short) for spec in policy.models.values())
        size = (await patiently(lambda: build(longest))).tokens
        situation = Situation(self.agent.name, state.turn.node, size, bool(tools), strained, self.agent.model)
        asked: list[_Asked] = []

        @asynccontextmanager
        async def attempt(_: str, spec: ModelSpec) -> AsyncIterator[ChatRequest]:
            prompt = await patiently(lambda: build(self._limit(spec, short=short)))
            held = await patiently(lambda: self._reserve(spec, prompt, strained=strained)) if limited else None
            now = _Asked(self.run, spec, prompt, held)
            asked.append(now)
            self.heard = "" if on_delta else self.heard
            try:
                yield ChatRequest(
                    prompt.messages,
                    tuple(tools),
                    temperature=self.agent.temperature,
                    max_tokens=now.most,
                    thread_id=self.run.thread_id,
                )
            except Exception:
                await now.failed()
                raise
            except BaseException:
                now.interrupted()
                raise

        def hear(text: str) -> None:
            asked[-1].heard += text
            if on_delta is not None:
                self.heard += text
                on_delta(text)

        choice = choose(policy, situation)
        answered = await means.models.ask(
            choice, attempt, self._failed, within=self._time_left(), on_delta=hear, retract=retract
        )
        return await asked[-1].answered(answered)

    def _limit(self, spec: ModelSpec, *, short: bool) -> int:
        """Return the tokens that a prompt may have."""
        return int(self._window(spec) * (1 - ANSWER_RESERVE) * (SPARING if short else 1))

    def _window(self, spec: ModelSpec) -> int:
        window = self.run.means.context_window
        return window if spec.context_window is None else min(window, spec.context_window)

    def _time_left(self) -> Callable[[], float]:
        """Return a function of the seconds that are left of the node's time: those that the store was away are."""
        now = asyncio.get_running_loop().time
        least = now() + LEAST_TIME
        return lambda: max(self.run.time_left - MARGIN, least - now())

    async def _reserve(self, spec: ModelSpec, prompt: Prompt, *, strained: bool) -> Held:
        most = spec.max_answer or int(self._window(spec) * ANSWER_RESERVE)
        most = max(int(most * SPARING), 1) if strained else most
        expected = self.run.spending.account.expected(spec.model, prompt.tokens)
        call = Call(spec.model, expected, most)
        return await self.run.spending.reserve(self.state, call, self.run.fence(self.run.thread_id))

    async def _failed(self, fact: ModelFailed) -> None:
        """Record that a model did not answer, at once: the next one may take the whole process with it."""
        self.state()  # raises if this attempt is over
        if not await self.run.report(NoteFailure(self.run.turn_id, fact, self.run.number), durable=False):
            raise TurnIsOver


@dataclass
class _Asked:
    """A model that was asked, and what becomes of that."""

    run: Run
    spec: ModelSpec
    prompt: Prompt
    held: Held | None
    heard: str = field(init=False, default="")
    _begun: float = field(init=False, default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def most(self) -> int | None:
        """Return the tokens that the answer may have."""
        return self.held.answer if self.held else self.spec.max_answer

    async def answered(self, answered: Answered) -> Made:
        """Keep the record of the answer."""
        answer = answered.answer
        written = (answer.content or "") + (to_json(answer.tool_calls) if answer.tool_calls else "")
        try:
            size = await counted(self.run.means.tokens, written)
        except BaseException:
            self.interrupted(answer.usage)
            raise
        usage, estimated, reported = believed(answer.usage, self.prompt.tokens, size, self.most)
        account = self.run.spending.account
        if not estimated:
            account.observe(self.spec.model, self.prompt.tokens, usage.prompt_tokens)
        called = ModelCalled(
            model=self._name(answer.model),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            duration_ms=answered.duration_ms,
            finish_reason=answer.finish_reason,
            estimated=estimated,
            counted=0 if usage.prompt_tokens == self.prompt.tokens else self.prompt.tokens,
            reported=reported,
            provider=answered.provider,
            because=answered.because,
            reservation=self._reservation,
            cached=usage.cached_tokens,
        )
        self.run.unsaid.keep(called, self.held)
        return Made(self.prompt, answer, size, called)

    async def failed(self) -> None:
        """Give back what was set aside; but what a model had written when it broke off was used."""
        if self.heard:
            self.interrupted()
        elif self.held:
            await self.run.spending.release(self.held)

    def interrupted(self, usage: Usage | None = None) -> None:
        """Count a call that was cut off: what had gone to and fro by then was used."""
        usage = usage or Usage(self.prompt.tokens, estimated(self.run.means.tokens, self.heard))
        called = ModelCalled(
            self.spec.model,
            usage.prompt_tokens,
            usage.completion_tokens,
            int((asyncio.get_running_loop().time() - self._begun) * 1000),
            "interrupted",
            estimated=True,
            provider=self.spec.provider,
            reservation=self._reservation,
            cached=min(usage.cached_tokens, usage.prompt_tokens),
        )
        self.run.unsaid.keep(called, self.held)

    @property
    def _reservation(self) -> UUID | None:
        return self.held.id if self.held and self.held.shared else None

    def _name(self, said: str) -> str:
        """Name the model as it was asked for where that has a price: an endpoint may call it anything."""
        return self.spec.model if self.run.spending.account.prices.knows(self.spec.model) else said
