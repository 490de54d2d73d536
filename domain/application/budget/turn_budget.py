"""What a turn may spend: its thread's own limits, and those of its tenant, reserved before each call of a model.

The thread's limits need no reservation beyond this process, as one worker runs a thread's turn. The tenant's are kept
by the ledger, which all processes share. What was reserved is settled once the call's event is stored; what a killed
process had reserved, whoever takes over its shards finds in the ledger, and settles by the log.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domain.application.budget.reservations import Reservations
from domain.budget.accounts import is_limited, plus, warns
from domain.budget.limits import (
    MIN_COMPLETION_TOKENS,
    PlannedCall,
    Shortage,
    affordable,
    instant_of,
    shortage,
    spent_of,
    strained,
    tokens_of,
    used_in,
    worst_case_of,
)
from domain.budget.prices import Prices
from domain.errors import BudgetExhausted
from domain.ids import Tenant, ThreadId
from domain.ports.clock import Clock
from domain.ports.ledger import Amount, Granted, LimitUsage, Reservation, ScopeLimits
from domain.ports.log import Fence
from domain.thread.codec import Recorded
from domain.thread.describe import amounts_in_words, limit_in_words
from domain.thread.events import BudgetThresholdReached, Limit, ModelCalled
from domain.thread.state import Running, State, Thread, Unopened
from domain.windows import Window, start_of

RESERVE_TIMEOUT_S = 10.0
"""Seconds that a call waits for what others have reserved and may not use."""

RETRY_PAUSE_S = 0.05
"""Seconds until the ledger is asked again; then twice as many, and so on."""

MAX_RETRY_PAUSE_S = 1.0

INITIAL_TOKEN_RATIO = 1.3
"""How many of a model's tokens one of ours may be, before the model has said how many it counts."""

LONG_PROMPT_TOKENS = 1_000
"""Tokens of a prompt from which on it shows a factor: what a template adds weighs little in it."""

RATIO_MARGIN = 1.05
"""How much more than ever before a model may count the next time."""


@dataclass
class BudgetServices:
    """What all turns of this process share: accounts with their tenants' ledger, prices, and how models count."""

    reservations: Reservations
    prices: Prices
    clock: Clock
    new_id: Callable[[], UUID]
    _ratios: dict[str, float] = field(default_factory=dict)
    _more: dict[str, int] = field(default_factory=dict)

    def observe(self, model: str, counted: int, reported: int) -> None:
        """Learn how a model's own count of a prompt compares with ours: by a factor, and in short prompts by more."""
        if counted >= LONG_PROMPT_TOKENS:
            self._ratios[model] = max(self._ratios.get(model, 1.0), reported / counted)
        else:
            more = int(reported - counted * INITIAL_TOKEN_RATIO)
            self._more[model] = max(self._more.get(model, 0), more)

    def expected(self, model: str, counted: int) -> int:
        """Return how many tokens a model may count, where we count so many."""
        ratio = self._ratios.get(model)
        return (
            int(counted * (INITIAL_TOKEN_RATIO if ratio is None else ratio * RATIO_MARGIN))
            + self._more.get(model, 0)
            + 1
        )


@dataclass(frozen=True)
class Reserved:
    """What is set aside for a call: the tokens that its answer may have. `shared`: the ledger knows of it."""

    id: UUID
    answer: int
    shared: bool


@dataclass
class TurnBudget:
    """What one run of a turn spends."""

    account: BudgetServices
    tenant: Tenant
    thread_id: ThreadId
    agent: str
    _held: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    """What calls take that the thread's state does not have yet."""
    _over: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    """What calls have taken beyond their reservations, which the ledger does not know before they are settled."""
    _open: set[UUID] = field(default_factory=set)
    """Reservations in the ledger that are neither settled nor given back."""

    async def limited(self, state: Running) -> bool:
        """Say whether anything limits what the turn may spend."""
        return bool(state.thread.limits or await self._of_tenant())

    async def strained(self, state: Running, models: Collection[str]) -> bool:
        """Say whether most of a budget is spent that calls of some models count in: then the rest is used sparingly."""
        now, prices = self.account.clock.now(), self.account.prices
        for limit, model in (*_own(state), *await self._for_turns(models)):
            if strained(limit, *spent_of(state, limit, model, now, prices)):
                return True
        if not await self._of_tenant():
            return False
        return any(
            warns(one.limit, plus(one.spent, one.reserved))
            for one in await self.account.reservations.limit_usage(self.tenant)
            if one.scope.agent in {"", self.agent} and one.scope.model in {"", *models}
        )

    async def reserve(self, state: Callable[[], Running], call: PlannedCall, fence: Fence | None) -> Reserved:
        """Set the most aside that a call can take; whoever asks gives it back if the call fails.

        Raises:
            BudgetExhausted: too little is left for the prompt and a short answer.
        """
        id_ = self.account.new_id()
        call = await self._within_own(id_, state, call)
        try:
            shared = is_limited(await self._of_tenant(), self.agent, call.model)
            if shared:
                self._open.add(id_)
                call = await self._reserve(id_, call, fence)
        except BaseException:
            self._held.pop(id_, None)
            self._open.discard(id_)
            raise
        self._held[id_] = worst_case_of(call, self.account.prices)
        return Reserved(id_, call.max_completion_tokens, shared)

    async def _within_own(self, id_: UUID, state: Callable[[], Running], call: PlannedCall) -> PlannedCall:
        """Cut an answer to what the thread's own limits leave; wait a while for what calls beside may not use."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + RESERVE_TIMEOUT_S, RETRY_PAUSE_S
        while True:
            now, prices = self.account.clock.now(), self.account.prices
            limits = (*_own(state()), *await self._for_turns([call.model]))
            answer, short = shortage(state(), limits, now, call, prices, _amounts(self._held.values()))
            if short is None:
                call = PlannedCall(call.model, call.prompt_tokens, answer)
                self._held[id_] = worst_case_of(call, prices)  # before anybody else of this turn can ask
                return call
            passing = shortage(state(), limits, now, call, prices, (0, 0))[1] is None
            if not passing or loop.time() >= until:
                raise _exhausted("The thread" if short.limit in state().thread.limits else "A turn", call, short)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_PAUSE_S)

    async def release(self, held: Reserved) -> None:
        """Give back what was set aside. Where the store is away, it is given back later."""
        self._held.pop(held.id, None)
        self._open.discard(held.id)
        if held.shared:
            await self.account.reservations.release(held.id)

    def took(self, held: Reserved, called: ModelCalled) -> None:
        """Hold for a call what it has taken, until it is recorded."""
        cost = self.account.prices.of_call(called)
        taken = called.prompt_tokens + called.completion_tokens, cost
        if held.shared and held.id in self._held:
            tokens, money = self._held[held.id]
            self._over[held.id] = max(taken[0] - tokens, 0), max(taken[1] - money, 0)
        self._held[held.id] = taken

    def recorded(self, held: Iterable[Reserved]) -> None:
        """Hold nothing any more for calls that are recorded: the thread's state has them."""
        for one in held:
            self._held.pop(one.id, None)
            self._over.pop(one.id, None)

    async def settle(self, events: Sequence[Recorded]) -> Sequence[BudgetThresholdReached]:
        """Settle what stored calls have taken, and return which thresholds were reached by that."""
        told: list[BudgetThresholdReached] = []
        for recorded in events:
            event = recorded.event
            if isinstance(event, ModelCalled) and event.reservation is not None:
                self._open.discard(event.reservation)
                used = event.model, event.prompt_tokens, event.completion_tokens, event.cached
                told += map(_reached, await self.account.reservations.settle(event.reservation, *used))
        return told

    def close(self) -> None:
        """Leave what is still reserved to whoever looks after calls that nobody settles."""
        self.account.reservations.abandon(self._open)
        self._open.clear()

    async def _of_tenant(self) -> Sequence[ScopeLimits]:
        return await self.account.reservations.limits.of(self.tenant)

    async def _for_turns(self, models: Collection[str]) -> Sequence[tuple[Limit, str]]:
        """Return the tenant's limits for each turn, and the model that each is about: the thread's state is enough."""
        return [
            (limit, given.scope.model)
            for given in await self._of_tenant()
            if given.scope.agent in {"", self.agent} and given.scope.model in {"", *models}
            for limit in given.limits
            if limit.window == "turn"
        ]

    async def _reserve(self, id_: UUID, call: PlannedCall, fence: Fence | None) -> PlannedCall:
        """Reserve in the ledger, for a shorter answer if need be; wait a while for what others may not use."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + RESERVE_TIMEOUT_S, RETRY_PAUSE_S
        while True:
            now, prices, over = self.account.clock.now(), self.account.prices, Amount(*_amounts(self._over.values()))
            most, counted_at = (
                plus(Amount(*worst_case_of(call, prices)), over),
                await self.account.reservations.limits.now(),
            )
            reservation = Reservation(
                id_, self.tenant, self.thread_id, self.agent, call.model, most, now, fence, counted_at
            )
            answer = await self.account.reservations.reserve(reservation)
            if isinstance(answer, Granted):
                return call
            limit, spent = answer.usage.limit, answer.usage.spent
            taken = plus(plus(spent, answer.usage.reserved), over)
            left = affordable(limit, taken.tokens, taken.cost, call, prices)
            if MIN_COMPLETION_TOKENS <= left < call.max_completion_tokens:
                call = PlannedCall(call.model, call.prompt_tokens, left)
            elif answer.temporary and loop.time() < until:
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_RETRY_PAUSE_S)
            else:
                scope = answer.usage.scope
                only = "".join(f" with {name}" for name in (scope.agent, scope.model) if name)
                raise _exhausted(f"The tenant{only}", call, Shortage(limit, spent.tokens, spent.cost))


def _amounts(amounts: Collection[tuple[int, int]]) -> tuple[int, int]:
    return sum(tokens for tokens, _ in amounts), sum(cost for _, cost in amounts)


def _own(state: Running) -> Sequence[tuple[Limit, str]]:
    return [(limit, "") for limit in state.thread.limits]


def crossed(before: State, after: State, at: datetime, prices: Prices) -> Sequence[BudgetThresholdReached]:
    """Return which thresholds of a thread's own limits were reached between two of its states."""
    if isinstance(before, Unopened) or isinstance(after, Unopened) or before.thread.usage is after.thread.usage:
        return ()
    found = []
    for limit in after.thread.limits:
        if limit.window == "turn" or strained(limit, *_spent(before.thread, limit.window, at, prices)):
            continue
        tokens, cost = _spent(after.thread, limit.window, at, prices)
        if strained(limit, tokens, cost):
            start = start_of(limit.window, instant_of(after.thread, at))
            found.append(BudgetThresholdReached("thread", limit, start, tokens, cost))
    return found


def _spent(thread: Thread, window: Window, at: datetime, prices: Prices) -> tuple[int, int]:
    usage = used_in(thread, window, at)
    return tokens_of(usage), prices.of_all(usage)


def _exhausted(who: str, call: PlannedCall, short: Shortage) -> BudgetExhausted:
    spent = amounts_in_words(short.tokens, short.cost)
    return BudgetExhausted(
        f"{who} may spend {limit_in_words(short.limit)}, and has spent {spent}: too little is left for a prompt of "
        f"{call.prompt_tokens:,} tokens and its answer. Raise the limit, or wait until its window ends; then retry."
    )


def _reached(standing: LimitUsage) -> BudgetThresholdReached:
    scope, spent = standing.scope, standing.spent
    return BudgetThresholdReached(
        "tenant", standing.limit, standing.start, spent.tokens, spent.cost, scope.agent, scope.model
    )
