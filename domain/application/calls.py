"""Calls of models that a node makes: which model, how long a prompt and an answer, within which budget; and the record.

Every call goes this way: that of `generate`, that of `compact`, and those about single items.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Struct

from domain.agent import Agent
from domain.application.asking import Answered
from domain.application.counting import counted
from domain.application.run import Run
from domain.application.spending import Held
from domain.budgets import SPARING, Call
from domain.chat import ChatAnswer, ChatMessage, ChatRequest, OnDelta, ToolSpec
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
    """The calls of one attempt at a node, or at an item of its list. Those that it `made` count, whatever follows."""

    run: Run
    agent: Agent
    state: Callable[[], Running]
    made: list[ModelCalled] = field(default_factory=list)
    heard: str = field(init=False, default="")
    """What the model has written so far, in the call that runs."""
    _held: list[Held] = field(init=False, default_factory=list)
    _begun: float = field(init=False, default_factory=lambda: asyncio.get_running_loop().time())

    async def ask(
        self,
        build: Build,
        tools: Sequence[ToolSpec] = (),
        *,
        on_delta: OnDelta | None = None,
        retract: Callable[[], None] = nothing,
    ) -> Made:
        """Ask the model that the policy chooses, and the next ones where it does not answer.

        Raises:
            ModelError: none of them answers.
            BudgetExhausted: too little is left to spend.
            PromptTooLarge: the prompt fits into no model's window.
        """
        state, means, spending = self.state(), self.run.means, self.run.spending
        limited, strained = await spending.limited(state), await spending.strained(state)
        policy = means.models.policy
        first = policy.models[policy.chain[0]]
        size = (await build(self._limit(first, strained=strained))).tokens
        situation = Situation(self.agent.name, state.turn.node, size, bool(tools), strained, self.agent.model)
        current: list[tuple[Prompt, Held | None, int | None]] = []

        @asynccontextmanager
        async def attempt(_: str, spec: ModelSpec) -> AsyncIterator[ChatRequest]:
            prompt = await build(self._limit(spec, strained=strained))
            held = await self._reserve(spec, prompt, strained=strained) if limited else None
            most = held.answer if held else spec.max_answer
            current[:] = [(prompt, held, most)]
            self.heard = ""
            try:
                yield ChatRequest(
                    prompt.messages,
                    tuple(tools),
                    temperature=self.agent.temperature,
                    max_tokens=most,
                    thread_id=self.run.thread_id,
                )
            except Exception:
                if held:
                    await spending.release(held)
                raise
            except BaseException:
                await self._interrupted(spec, prompt, held)
                raise

        def hear(text: str) -> None:
            self.heard += text
            if on_delta is not None:
                on_delta(text)

        answered = await means.models.ask(
            choose(policy, situation), attempt, self._failed, within=self._time(), on_delta=hear, retract=retract
        )
        (prompt, held, most) = current[0]
        return await self._made(answered, prompt, held, most)

    def recorded(self) -> None:
        """Hold nothing any more for these calls: they are recorded, and the thread's state has them."""
        self.run.spending.recorded(self._held)
        self._held.clear()
        self.made.clear()

    def _limit(self, spec: ModelSpec, *, strained: bool) -> int:
        """Return the tokens that a prompt may have."""
        return int(self._window(spec) * (1 - ANSWER_RESERVE) * (SPARING if strained else 1))

    def _window(self, spec: ModelSpec) -> int:
        window = self.run.means.context_window
        return window if spec.context_window is None else min(window, spec.context_window)

    def _time(self) -> float:
        """Return the seconds that are left of the node's time."""
        node = self.agent.graph.by_name[self.state().turn.node]
        passed = asyncio.get_running_loop().time() - self._begun
        return max(node.timeout - passed - MARGIN, LEAST_TIME)

    async def _reserve(self, spec: ModelSpec, prompt: Prompt, *, strained: bool) -> Held:
        most = spec.max_answer or int(self._window(spec) * ANSWER_RESERVE)
        most = max(int(most * SPARING), 1) if strained else most
        expected = self.run.spending.account.expected(spec.model, prompt.tokens)
        call = Call(spec.model, expected, most)
        return await self.run.spending.reserve(self.state(), call, self.run.fence(self.run.thread_id))

    async def _made(self, answered: Answered, prompt: Prompt, held: Held | None, most: int | None) -> Made:
        answer = answered.answer
        asked = to_json(answer.tool_calls) if answer.tool_calls else ""
        size = await counted(self.run.means.tokens, (answer.content or "") + asked)
        usage, estimated, reported = believed(answer.usage, prompt.tokens, size, most)
        if not estimated:
            self.run.spending.account.observe(answered.spec.model, prompt.tokens, usage.prompt_tokens)
        called = ModelCalled(
            model=answer.model,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            duration_ms=answered.duration_ms,
            finish_reason=answer.finish_reason,
            estimated=estimated,
            counted=0 if usage.prompt_tokens == prompt.tokens else prompt.tokens,
            reported=reported,
            provider=answered.provider,
            because=answered.because,
            reservation=held.id if held and held.shared else None,
        )
        self._keep(called, held)
        return Made(prompt, answer, size, called)

    async def _interrupted(self, spec: ModelSpec, prompt: Prompt, held: Held | None) -> None:
        """Count a call that was cut off from outside: what had gone to and fro by then was used."""
        size = self.run.means.tokens.count(self.heard)
        reservation = held.id if held and held.shared else None
        called = ModelCalled(
            spec.model,
            prompt.tokens,
            size,
            0,
            "interrupted",
            estimated=True,
            provider=spec.provider,
            reservation=reservation,
        )
        self._keep(called, held)

    def _keep(self, called: ModelCalled, held: Held | None) -> None:
        self.made.append(called)
        if held:
            self._held.append(held)
            self.run.spending.took(held, called)

    async def _failed(self, fact: ModelFailed) -> None:
        """Record that a model did not answer, at once: the next one may take the whole process with it."""
        if not await self.run.report(NoteFailure(self.run.turn_id, fact, self.run.number), durable=False):
            raise TurnIsOver
