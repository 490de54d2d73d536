"""One call of a model by a node: choose, reserve, ask, fall back and record.

Every call takes this way: those of `generate` and of `compact`, and those of the items of a fan-out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.application.budget.turn_budget import Reserved
from domain.application.turns.model_registry import Candidate, Candidates
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.run import TurnRun
from domain.application.turns.token_counting import count_tokens, estimate_tokens
from domain.budget.limits import SPARING, PlannedCall
from domain.errors import PromptTooLarge, TurnIsOver
from domain.json import storable_text
from domain.models.answers import check_answer, hint_after, with_hint
from domain.models.chat import (
    AnswerCut,
    ChatAnswer,
    ChatMessage,
    ChatRequest,
    Cost,
    ModelError,
    ModelUnreachable,
    OnDelta,
    OutputFormat,
    ToolSpec,
    Usage,
    calls_text,
    cost_of,
    written_of,
)
from domain.models.routing import Choice, ModelSpec, Situation, choose
from domain.models.usage_check import LONGEST, check_usage
from domain.thread.commands import RecordModelFailure
from domain.thread.events import ContextAssembled, ModelCalled, ModelFailed

ANSWER_RESERVE = 0.15
"""The share of the context window that is kept free for the answer."""

MARGIN_S = 1.0
"""Seconds of a node's time that its calls of models leave to it."""

MIN_CALL_TIME_S = 0.5
"""Seconds that a call has at least, counted from when the model is chosen, however little time the node has left."""

MAX_ERROR_CHARS = 1_000
"""Characters of an error that `ModelFailed` keeps."""


class PreparedPrompt(Struct, frozen=True):
    """A prompt and its tokens by our count. `assembled` describes it in the log if it is made of the conversation."""

    messages: tuple[ChatMessage, ...]
    tokens: int
    assembled: ContextAssembled | None = None

    def longer_by(self, tokens: int) -> "PreparedPrompt":
        """Count tokens that are added to its end."""
        if not tokens:
            return self
        fact = self.assembled
        if fact:
            fact = replace(fact, tokens=fact.tokens + tokens, limit=fact.limit + tokens)
        return PreparedPrompt(self.messages, self.tokens + tokens, fact)


BuildPrompt: TypeAlias = Callable[[int], Awaitable[PreparedPrompt]]
"""Makes a prompt of at most so many tokens. Raises `PromptTooLarge`."""


class AnsweredCall(Struct, frozen=True):
    """A call that was answered: the prompt, the answer, and the fact about the call."""

    prompt: PreparedPrompt
    answer: ChatAnswer
    tokens: int
    """Tokens of the answer as prompts show it, by our count."""
    called: ModelCalled


@dataclass
class ModelCall:
    """One call of a model: the policy's choice is asked first, then the rest of the chain until a model answers.

    Before each attempt its worst case is reserved against the budget. After each attempt its cost is recorded, and the
    reservation is settled when that record is stored. An attempt that cost nothing releases its reservation.
    """

    node: NodeAttempt
    build: BuildPrompt
    tools: Sequence[ToolSpec] = ()
    on_delta: OnDelta | None = None
    """Called with each piece of the answer as it arrives."""
    retract: Callable[[], None] | None = None
    """Called when an attempt fails after pieces of its answer have arrived."""
    can_shrink: bool = True
    """Whether `build` can make the prompt shorter, to use what is left of a budget sparingly."""
    model: str | None = None
    """The model to ask instead of the agent's."""
    output: OutputFormat | None = None
    question: str = ""
    """The digest of a question outside of the conversation."""
    _limited: bool = field(init=False, default=False)
    _strained: bool = field(init=False, default=False)
    _earliest_end: float = field(init=False, default=0.0)

    async def answer(self) -> AnsweredCall:
        """Ask one candidate after the other until one answers.

        Raises:
            ModelError: no model answered.
            BudgetExhausted: too little is left to spend.
            PromptTooLarge: the prompt fits into no model's window.
            TurnIsOver: the attempt at the node is over.
        """
        choice = await self._choose()
        self._earliest_end = asyncio.get_running_loop().time() + MIN_CALL_TIME_S
        candidates = Candidates(self.node.run.services.models, choice, self._time_left)
        for candidate in candidates:
            attempt: _Attempt | None = None
            try:
                attempt = await self._prepare(candidate)
                answer = await attempt.ask(candidates.time_limit(candidate))
            except (ModelError, PromptTooLarge) as error:
                candidates.failed(candidate, error)
                await self._record_failure(candidate, attempt, error)
            else:
                candidates.answered(candidate)
                return await attempt.answered(answer)
        raise candidates.decisive_error

    async def _choose(self) -> Choice:
        """Choose the models by the prompt's size and the state of the budgets."""
        state, run, agent = self.node.state, self.node.run, self.node.agent
        policy = run.services.models.policy
        models = {spec.model for spec in policy.models.values()}
        self._limited = await run.patiently(lambda: run.spending.limited(state))
        self._strained = self._limited and await run.patiently(lambda: run.spending.strained(state, models))
        longest = max(map(self._prompt_limit, policy.models.values()))
        size = (await run.patiently(lambda: self.build(longest))).tokens
        node, model = agent.graph.find(state.turn.node), self.model or agent.model
        situation = Situation(
            agent.name, node.name if node else state.turn.node, size, bool(self.tools), self._strained, model
        )
        return choose(policy, situation)

    async def _prepare(self, candidate: Candidate) -> "_Attempt":
        """Make the candidate's prompt, and reserve the most that it can cost."""
        run, spec, after = self.node.run, candidate.spec, candidate.after
        hint = hint_after(after)
        hint_tokens = run.services.tokens.count(hint) if hint else 0
        limit = self._prompt_limit(spec) - hint_tokens
        prompt = (await run.patiently(lambda: self.build(limit))).longer_by(hint_tokens)
        expected = run.spending.account.expected(spec.model, prompt.tokens)
        most = self._max_answer(candidate, expected)
        reserved: Reserved | None = None
        if self._limited:
            reserved = await run.patiently(
                lambda: run.spending.reserve(
                    lambda: self.node.state, PlannedCall(spec.model, expected, most), run.fence(run.thread_id)
                )
            )
            max_tokens: int | None = reserved.answer
        else:
            max_tokens = most if after and after.at_limit else spec.max_answer
        request = ChatRequest(
            with_hint(prompt.messages, hint),
            tuple(self.tools),
            model=spec.model,
            temperature=self.node.agent.temperature,
            max_tokens=max_tokens,
            thread_id=run.thread_id,
            patience=candidate.patience,
            needs_tools=candidate.needs_tools,
            output=self.output,
            question=self.question,
        )
        return _Attempt(run, candidate, prompt, hint, reserved, request, self.on_delta)

    async def _record_failure(self, candidate: Candidate, attempt: "_Attempt | None", error: Exception) -> None:
        """Record that a model did not answer, before the next one is asked: the process may crash meanwhile."""
        if attempt and attempt.streamed and self.retract:
            self.retract()
        run, spec, duration_ms = self.node.run, candidate.spec, attempt.duration_ms if attempt else 0
        text = storable_text(str(error))[:MAX_ERROR_CHARS]
        fact = ModelFailed(spec.model, spec.provider, text, duration_ms, candidate.because)
        if not await self.node.report(RecordModelFailure(run.turn_id, fact, run.number), durable=False):
            raise TurnIsOver

    def _time_left(self) -> float:
        """Return the seconds that are left for this call. Time in which the store was unavailable does not count."""
        return max(self.node.run.time_left - MARGIN_S, self._earliest_end - asyncio.get_running_loop().time())

    def _prompt_limit(self, spec: ModelSpec) -> int:
        """Return the tokens that a prompt may have."""
        sparing = SPARING if self._strained and self.can_shrink else 1
        return int(self._window(spec) * (1 - ANSWER_RESERVE) * sparing)

    def _window(self, spec: ModelSpec) -> int:
        window = self.node.run.services.context_window
        return window if spec.context_window is None else min(window, spec.context_window)

    def _max_answer(self, candidate: Candidate, prompt_tokens: int) -> int:
        """Return the tokens that an answer may have: all that fit after one that was only reasoning."""
        spec, after = candidate.spec, candidate.after
        most = spec.max_answer or int(self._window(spec) * ANSWER_RESERVE)
        if after is None or not after.at_limit:
            return max(int(most * SPARING), 1) if self._strained else most
        if spec.max_answer:
            return spec.max_answer
        used = after.usage.completion_tokens if after.usage else 0
        return max(most, self._window(spec) - prompt_tokens, min(2 * used, LONGEST))


@dataclass
class _Attempt:
    """One candidate, asked once, and the record of what that has cost.

    However it ends (answer, error or cancellation), its reservation is either released, or kept with the record in
    `TurnRun.unreported` until the record is stored. Exactly one of the two happens.
    """

    run: TurnRun
    candidate: Candidate
    prompt: PreparedPrompt
    hint: str
    reserved: Reserved | None
    request: ChatRequest
    on_delta: OnDelta | None
    _pieces: list[str] = field(init=False, default_factory=list)
    duration_ms: int = field(init=False, default=0)

    @property
    def streamed(self) -> str:
        """What the model has written so far."""
        return "".join(self._pieces)

    async def ask(self, time_limit: float) -> ChatAnswer:
        """Return an answer that can be used; a call that fails or is cancelled is recorded. Raises `ModelError`."""
        try:
            return await self._completed(time_limit)
        except Exception as error:
            await self._failed(error)
            raise
        except BaseException as error:
            self._interrupted(cost_of(error))
            raise

    async def _completed(self, time_limit: float) -> ChatAnswer:
        """Ask. The answer is always streamed: a model that writes nothing is noticed sooner."""
        spec, now = self.candidate.spec, asyncio.get_running_loop().time
        started = now()
        try:
            async with asyncio.timeout(time_limit) as deadline:
                answer = await self.run.services.models.providers[spec.provider].complete(self.request, self._on_delta)
        except TimeoutError as error:
            if not deadline.expired():
                raise  # not by the deadline, but by `on_delta`
            kind, cost = AnswerCut if self.streamed else ModelUnreachable, cost_of(error)
            late = kind(
                f"{spec.model} of {spec.provider} did not answer within {time_limit:.1f} s, which is what the node's "
                "timeout leaves to it."
            )
            late.accepted, late.usage, late.written = cost.accepted, cost.usage, cost.written
            raise late from error
        finally:
            self.duration_ms = int((now() - started) * 1000)
        check_answer(answer, again=self.candidate.after is not None)
        return answer

    def _on_delta(self, text: str) -> None:
        self._pieces.append(text)
        if self.on_delta is not None:
            self.on_delta(text)

    async def answered(self, answer: ChatAnswer) -> AnsweredCall:
        """Record the call with its answer."""
        text, calls = answer.content or "", answer.tool_calls
        cost = Cost(accepted=True, usage=answer.usage, written=written_of(answer))
        shown = size = await self._counted(text + calls_text(calls, shown=True), cost)
        if any(call.written for call in calls) or (answer.usage is None and answer.thoughts):
            size = await self._counted(cost.written, cost)
        called = self._called(answer.usage, size, answer.model, answer.finish_reason)
        called = replace(called, because=self.candidate.because, omitted=answer.omitted)
        self.run.unreported.keep(called, self.reserved)
        return AnsweredCall(self.prompt, answer, shown, called)

    async def _failed(self, error: Exception) -> None:
        """Record what an attempt has cost that gave no usable answer. If it cost nothing, release its reservation."""
        cost, failure = cost_of(error), error if isinstance(error, ModelError) else ModelError()
        cost = replace(cost, written=max(cost.written, self.streamed, key=len))
        if cost.accepted or cost.usage or cost.written:
            size = await self._counted(cost.written, cost)
            called = self._called(cost.usage, size, failure.model, failure.finish_reason, usable=False)
            self.run.unreported.keep(called, self.reserved)
        elif self.reserved:
            await self.run.spending.release(self.reserved)

    def _interrupted(self, cost: Cost) -> None:
        """Record a call that was cancelled: the prompt and what the model had written by then have been used."""
        size = estimate_tokens(self.run.services.tokens, max(cost.written, self.streamed, key=len))
        called = self._called(cost.usage, size, "", ModelError.finish_reason, usable=False)
        self.run.unreported.keep(called, self.reserved)

    async def _counted(self, text: str, cost: Cost) -> int:
        try:
            return await count_tokens(self.run.services.tokens, text)
        except BaseException:
            self._interrupted(cost)
            raise

    def _called(
        self, usage: Usage | None, size: int, model: str, finish_reason: str, *, usable: bool = True
    ) -> ModelCalled:
        """Make the fact about an answer of so many tokens by our count, and learn from what the endpoint counts."""
        spec, counted = self.candidate.spec, self.prompt.tokens
        usage, is_estimate, reported = check_usage(usage, counted, size, self.request.max_tokens, usable=usable)
        account = self.run.spending.account
        if not is_estimate:
            account.observe(spec.model, counted, usage.prompt_tokens)
        return ModelCalled(
            model=spec.model if account.prices.knows(spec.model) else model or spec.model,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            duration_ms=self.duration_ms,
            finish_reason=finish_reason,
            estimated=is_estimate,
            counted=0 if usage.prompt_tokens == counted else counted,
            reported=reported,
            provider=spec.provider,
            reservation=self.reserved.id if self.reserved and self.reserved.shared else None,
            hint=self.hint,
            cached=usage.cached_tokens,
        )
