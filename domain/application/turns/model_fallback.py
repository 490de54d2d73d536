"""Asking a model, and the next one where it does not answer."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.errors import PromptTooLarge
from domain.json import storable_text
from domain.models.answers import check_answer
from domain.models.chat import (
    AnswerCut,
    AnswerEmpty,
    AnswerTooLarge,
    ChatAnswer,
    ChatModel,
    ChatRequest,
    ModelError,
    ModelRejectedRequest,
    ModelUnreachable,
    NoAnswer,
    OnDelta,
    ToolsNotTaken,
    cost_of,
)
from domain.models.circuit_breaker import CircuitBreaker
from domain.models.routing import Choice, ModelSpec, Policy
from domain.thread.events import ModelFailed

PATIENCE = 1.0
"""Seconds that a model may ask to wait before another attempt, where another model can be asked."""

SPARED = 60.0
"""Seconds that are spared for each model that could be asked later, if there are as many."""

LEAST = 0.05
"""Seconds that a model has at least: what was waited for before is not its fault."""

ERROR_LENGTH = 1_000

Attempt: TypeAlias = Callable[[str, ModelSpec, AnswerEmpty | None], AbstractAsyncContextManager[ChatRequest]]
"""Is entered before a model is asked, by its name in the policy, and gives what to ask it. The error is that of its
first answer, where it is asked again since that was none.

It leaves with the model's error if that does not answer: the place to reserve tokens, and to release them. What it
raises itself ends the call; but for a `PromptTooLarge`, since another model may take longer prompts.
"""

Failed: TypeAlias = Callable[[ModelFailed], Awaitable[object]]
"""Is told of each model that did not answer, before the next one is asked."""


class Answered(Struct, frozen=True):
    """An answer, and the model that gave it; `name` is its name in the policy.

    `because` says why it was this model and not the policy's first; "" if it was. The duration is of this model alone.
    """

    answer: ChatAnswer
    name: str
    spec: ModelSpec
    because: str
    duration_ms: int

    @property
    def provider(self) -> str:
        """Name the provider."""
        return self.spec.provider


@dataclass
class ModelFallback:
    """The models of a policy, ready to be asked.

    `providers` are the clients by the names of the providers. A model that fails again and again rests for a while,
    as `breaker` makes it, as far as this process is concerned.
    """

    policy: Policy
    providers: Mapping[str, ChatModel]
    breaker: Callable[[], CircuitBreaker] = CircuitBreaker
    patience: float = PATIENCE
    clock: Callable[[], float] = time.monotonic
    _breakers: dict[str, CircuitBreaker] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with everybody awake."""
        self._breakers = defaultdict(self.breaker)

    @classmethod
    def alone(cls, model: ChatModel, name: str = "default") -> Self:
        """Make a policy of a single model, of a provider of the same name."""
        return cls(Policy({name: ModelSpec(name, name)}, (name,)), {name: model})

    @property
    def usual(self) -> ChatModel:
        """The client of the policy's first model."""
        return self.providers[self.policy.usual.provider]

    async def close(self) -> None:
        """Let connections go."""
        for provider in self.providers.values():
            await provider.close()

    async def ask(
        self,
        choice: Choice,
        attempt: Attempt,
        failed: Failed,
        *,
        within: float | Callable[[], float],
        on_delta: OnDelta | None = None,
        retract: Callable[[], None] = lambda: None,
    ) -> Answered:
        """Ask one model after the other until one answers, all of them `within` so many seconds.

        A function says how many seconds are left by now: it may leave out time in which nothing could be asked.

        `on_delta` hears the answer as it comes, and `retract` is called if half of one was heard and the rest does
        not come. A model that stops without an answer is asked again, with a hint: one of them, once. A model that
        takes no tools answers without them only once all others have been asked. Raises the error of the last that was
        asked, or that one did not answer though it was asked so, and whatever the caller's own functions raise.
        """
        left = within if callable(within) else _left_of(within)
        passed: list[str] = []
        errors: list[ModelError | PromptTooLarge] = []
        toolless: list[str] = []
        corrected = False

        async def once(name: str, others: int, after: AnswerEmpty | None = None) -> Answered | None:
            spec, because = self.policy.models[name], ", ".join(passed) or choice.because
            needs_tools = len(choice.chain) > 1 and name not in toolless
            patience = self.patience if others else None
            asked = _Asked(self.providers[spec.provider], spec, on_delta, patience, after, needs_tools)
            later = others or int(needs_tools and bool(toolless))
            try:
                async with attempt(name, spec, after) as request:
                    answer = await asked.answer(request, _share(max(0.0, left()), later))
            except (ModelError, PromptTooLarge) as error:
                errors.append(error)
                if isinstance(error, ToolsNotTaken):
                    toolless.append(name)
            else:
                self._breakers[name].succeeded()
                return Answered(answer, name, spec, because, asked.duration_ms)
            if asked.heard:
                retract()
            await failed(asked.failure(errors[-1], because))
            return None

        for name, others in self._in_turn(choice.chain, passed, toolless):
            if errors and left() <= 0:
                break
            answered = await once(name, others)
            if answered is None and isinstance(errors[-1], AnswerEmpty) and not corrected and left() > 0:
                corrected = True
                answered = await once(name, others, errors[-1])
            if answered is not None:
                return answered
            passed.append(f"{name} of {self.policy.models[name].provider} {self._learn(name, errors[-1])}")
        raise _most_telling(errors)

    def _in_turn(self, chain: tuple[str, ...], passed: list[str], toolless: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Yield whom to ask, and how many could be asked after that. Those who rest only if all do.

        At last, the first one that took no tools is asked again: better an answer without them than none.
        """
        nobody = True
        for position, name in enumerate(chain, 1):
            if self._breakers[name].admits(self.clock()):
                nobody = False
                yield name, sum(not self._breakers[later].rests(self.clock()) for later in chain[position:])
            else:
                passed.append(f"{name} of {self.policy.models[name].provider} is resting")
        if nobody:
            passed.clear()
            for position, name in enumerate(chain, 1):
                yield name, len(chain) - position
        if toolless:
            yield toolless[0], 0

    def _learn(self, name: str, error: ModelError | PromptTooLarge) -> str:
        """Count an error, unless it is the request's, or shows a model that works, though not well. Say what it is."""
        if isinstance(error, PromptTooLarge):
            return "takes no prompt of that length"
        if isinstance(error, ToolsNotTaken):
            self._breakers[name].succeeded()
            return "takes no tools"
        if isinstance(error, ModelRejectedRequest | AnswerTooLarge | NoAnswer):
            self._breakers[name].succeeded()
        else:
            self._breakers[name].failed(self.clock())
        return "gave no answer" if isinstance(error, NoAnswer) else "did not answer"


@dataclass
class _Asked:
    """One model, asked once."""

    model: ChatModel
    spec: ModelSpec
    on_delta: OnDelta | None
    patience: float | None
    after: AnswerEmpty | None
    needs_tools: bool
    heard: bool = field(init=False, default=False)
    duration_ms: int = field(init=False, default=0)

    async def answer(self, request: ChatRequest, limit: float) -> ChatAnswer:
        """Ask. The answer is streamed even if nobody listens: a model that says nothing is noticed sooner."""
        spec, now = self.spec, asyncio.get_running_loop().time
        started = now()
        longest = min((most for most in (request.max_tokens, spec.max_answer) if most is not None), default=None)
        whole = replace(
            request, model=spec.model, max_tokens=longest, patience=self.patience, needs_tools=self.needs_tools
        )
        try:
            async with asyncio.timeout(limit) as deadline:
                answer = await self.model.complete(whole, self._hear)
        except TimeoutError as error:
            if not deadline.expired():
                raise  # the caller's own, out of `on_delta`
            kind, cost = AnswerCut if self.heard else ModelUnreachable, cost_of(error)
            said = f"{spec.model} of {spec.provider} did not answer within {limit:.1f} s"
            late = kind(f"{said}, which is what the node's timeout leaves to it.")
            late.accepted, late.usage, late.written = cost.accepted, cost.usage, cost.written
            raise late from error
        finally:
            self.duration_ms = int((now() - started) * 1000)
        check_answer(answer, again=self.after is not None)
        return answer

    def failure(self, error: Exception, because: str) -> ModelFailed:
        """Make the fact that the model did not answer."""
        told = storable_text(str(error))[:ERROR_LENGTH]
        return ModelFailed(self.spec.model, self.spec.provider, told, self.duration_ms, because)

    def _hear(self, text: str) -> None:
        if self.on_delta is not None:
            self.heard = True
            self.on_delta(text)


def _most_telling(errors: Sequence[ModelError | PromptTooLarge]) -> Exception:
    """Choose the error of a call that no model answered: it says whether another attempt is worth its cost.

    After a model that stopped without an answer none is, whatever became of those that were asked instead.
    """
    told = [error for error in errors if isinstance(error, ModelError)]
    final = [error for error in told if isinstance(error, NoAnswer)]
    return next((found[-1] for found in (final, told) if found), next(iter(errors), None)) or ModelUnreachable(
        "There is no model to ask."
    )


def _left_of(seconds: float) -> Callable[[], float]:
    now = asyncio.get_running_loop().time
    ends_at = now() + seconds
    return lambda: ends_at - now()


def _share(left: float, others: int) -> float:
    """Return how much of the time that is left one model may take, so that the others have some as well."""
    return max(left - others * min(SPARED, left / (others + 1)), LEAST)
