"""The models of a policy with their circuit breakers, and the candidates of one call: which model is asked next."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from msgspec import Struct

from domain.errors import PromptTooLarge
from domain.models.chat import (
    AnswerEmpty,
    AnswerTooLarge,
    ChatModel,
    ModelError,
    ModelRejectedRequest,
    NoAnswer,
    ToolsNotSupported,
)
from domain.models.circuit_breaker import CircuitBreaker
from domain.models.routing import Choice, ModelSpec, Policy

PATIENCE_S = 1.0
"""Seconds that a model may ask to wait before another attempt, where another model can be asked."""

TIME_PER_FALLBACK_S = 60.0
"""Seconds that are kept for each model that could be asked later, if that many are left."""

MIN_TIME_S = 0.05
"""Seconds that a model has at least, even if the time was used up before it was asked."""


@dataclass
class ModelRegistry:
    """The models of a policy, and a circuit breaker for each.

    `providers` are the clients by the names of the providers. `breaker` makes the circuit breakers, which count the
    failures that this process has seen.
    """

    policy: Policy
    providers: Mapping[str, ChatModel]
    breaker: Callable[[], CircuitBreaker] = CircuitBreaker
    patience: float = PATIENCE_S
    clock: Callable[[], float] = time.monotonic
    breakers: dict[str, CircuitBreaker] = field(init=False)
    """By the models' names in the policy."""

    def __post_init__(self) -> None:
        """Give each model a circuit breaker."""
        self.breakers = defaultdict(self.breaker)

    @classmethod
    def alone(cls, model: ChatModel, name: str = "default") -> Self:
        """Make a policy of a single model, of a provider of the same name."""
        return cls(Policy({name: ModelSpec(name, name)}, (name,)), {name: model})

    @property
    def usual(self) -> ChatModel:
        """The client of the policy's first model."""
        return self.providers[self.policy.usual.provider]

    async def close(self) -> None:
        """Close the clients' connections."""
        for provider in self.providers.values():
            await provider.close()


class Candidate(Struct, frozen=True):
    """A model that is asked next, by its name in the policy.

    `because` says why it is this model and not the policy's first; "" if it is the first. `patience` and `needs_tools`
    are those of the `ChatRequest`. `later` is how many models could be asked after it. `after` is the error of its
    first answer if it is asked again because that answer was empty.
    """

    name: str
    spec: ModelSpec
    because: str
    patience: float | None
    needs_tools: bool
    later: int
    after: AnswerEmpty | None = None


@dataclass
class Candidates:
    """The models that one call asks in turn. The caller reports each result before it takes the next candidate.

    - Models whose circuit breaker is open are skipped, unless all are open.
    - A model that stops without an answer is asked again, with a hint: one model, once in a call.
    - A model that takes no tools is asked without them only after all others.
    - There are no more candidates once `time_left` is used up; the first one is there in any case.
    """

    models: ModelRegistry
    choice: Choice
    time_left: Callable[[], float]
    """Returns the seconds that are left for the call."""
    _skipped: list[str] = field(init=False, default_factory=list)
    """Why each model before the next candidate does not answer this call."""
    _errors: list[ModelError | PromptTooLarge] = field(init=False, default_factory=list)
    _toolless: list[str] = field(init=False, default_factory=list)

    def __iter__(self) -> Iterator[Candidate]:
        """Yield candidates until the caller stops: after the first that answers."""
        hinted = False
        for name, others in self._names():
            if self._errors and self.time_left() <= 0:
                return
            yield self._candidate(name, others)
            error = self._errors[-1]
            if isinstance(error, AnswerEmpty) and not hinted and self.time_left() > 0:
                hinted = True
                yield self._candidate(name, others, error)
            self._skip(name, self._judge(name, self._errors[-1]))

    def answered(self, candidate: Candidate) -> None:
        """Close the candidate's circuit breaker."""
        self.models.breakers[candidate.name].succeeded()

    def failed(self, candidate: Candidate, error: ModelError | PromptTooLarge) -> None:
        """Remember why a candidate did not answer."""
        self._errors.append(error)
        if isinstance(error, ToolsNotSupported):
            self._toolless.append(candidate.name)

    def time_limit(self, candidate: Candidate) -> float:
        """Return the seconds that a candidate may take, so that those after it have some as well."""
        left, later = max(0.0, self.time_left()), candidate.later
        return max(left - later * min(TIME_PER_FALLBACK_S, left / (later + 1)), MIN_TIME_S)

    @property
    def decisive_error(self) -> Exception:
        """The error of a call that no model answered: it decides whether another attempt is worth its cost.

        A model that stopped without an answer decides that it is not, even if others failed otherwise after it.
        """
        for kind in (NoAnswer, ModelError):
            if found := [error for error in self._errors if isinstance(error, kind)]:
                return found[-1]
        return self._errors[0]

    def _names(self) -> Iterator[tuple[str, int]]:
        """Yield the name of the next model, and how many could be asked after it."""
        chain, breakers, clock = self.choice.chain, self.models.breakers, self.models.clock
        all_open = True
        for position, name in enumerate(chain, 1):
            if breakers[name].admits(clock()):
                all_open = False
                yield name, sum(not breakers[later].rests(clock()) for later in chain[position:])
            else:
                self._skip(name, "is resting")
        if all_open:
            self._skipped.clear()
            for position, name in enumerate(chain, 1):
                yield name, len(chain) - position
        if self._toolless:  # an answer without tools is better than none
            yield self._toolless[0], 0

    def _candidate(self, name: str, others: int, after: AnswerEmpty | None = None) -> Candidate:
        needs_tools = len(self.choice.chain) > 1 and name not in self._toolless
        return Candidate(
            name,
            self.models.policy.models[name],
            ", ".join(self._skipped) or self.choice.because,
            self.models.patience if others else None,
            needs_tools,
            others or int(needs_tools and bool(self._toolless)),
            after,
        )

    def _skip(self, name: str, why: str) -> None:
        self._skipped.append(f"{name} of {self.models.policy.models[name].provider} {why}")

    def _judge(self, name: str, error: ModelError | PromptTooLarge) -> str:
        """Say in words what an error means, and count it as a failure if it is the model's.

        It is not if it is about the request, or if the model works but its answer cannot be used.
        """
        breaker = self.models.breakers[name]
        if isinstance(error, PromptTooLarge):
            return "takes no prompt of that length"
        if isinstance(error, ModelRejectedRequest | AnswerTooLarge | NoAnswer):
            breaker.succeeded()
        else:
            breaker.failed(self.models.clock())
        if isinstance(error, ToolsNotSupported):
            return "takes no tools"
        return "gave no answer" if isinstance(error, NoAnswer) else "did not answer"
