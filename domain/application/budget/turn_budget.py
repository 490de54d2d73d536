"""A turn's budget: its thread's own limits and those of its tenant and its subject, reserved before each model call.

One worker runs a thread's turn, so the thread's limits need no reservation beyond this process, and neither do limits
for each turn. Other limits of a tenant are in the ledger, which all processes share. A reservation is settled once the
call's event is stored. What a killed process had reserved, the next owner of its shards settles by the log.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from uuid import UUID

from msgspec.structs import replace

from domain.application.budget.reservations import Reservations
from domain.budget import limits as rules
from domain.budget.limits import PlannedCall
from domain.budget.prices import Prices
from domain.errors import BudgetExhausted
from domain.ids import Tenant, ThreadId
from domain.ports.clock import Clock
from domain.ports.ledger import NOTHING, Amount, Granted, LimitUsage, Reservation, ScopeLimits
from domain.ports.log import Fence
from domain.thread.codec import Recorded
from domain.thread.describe import amounts_in_words, limit_in_words
from domain.thread.events import BudgetThresholdReached, ModelCalled
from domain.thread.state import Running, State, Unopened

RESERVE_TIMEOUT_S = 10.0
"""How long a call waits for what other calls have reserved and may not use."""

RETRY_PAUSE_S = 0.05
"""The pause before the second attempt to reserve; it doubles with each attempt."""

MAX_RETRY_PAUSE_S = 1.0

INITIAL_TOKEN_RATIO = 1.3
"""How many of a model's tokens one of ours may be, before the model has reported a count."""

LONG_PROMPT_TOKENS = 1_000
"""From this length on a prompt shows the ratio: the tokens that a chat template adds weigh little in it."""

RATIO_MARGIN = 1.05
"""How much the ratio of the next prompt may exceed the highest so far."""


@dataclass
class BudgetServices:
    """What all turns of this process share: reservations in the ledger, prices, and how models count tokens."""

    reservations: Reservations
    prices: Prices
    clock: Clock
    new_id: Callable[[], UUID]
    _ratios: dict[str, float] = field(default_factory=dict)
    _more: dict[str, int] = field(default_factory=dict)

    def observe(self, model: str, counted: int, reported: int) -> None:
        """Learn how a model's count of a prompt compares with ours: by a ratio; in short prompts, by extra tokens."""
        if counted >= LONG_PROMPT_TOKENS:
            self._ratios[model] = max(self._ratios.get(model, 1.0), reported / counted)
        else:
            more = int(reported - counted * INITIAL_TOKEN_RATIO)
            self._more[model] = max(self._more.get(model, 0), more)

    def expected(self, model: str, counted: int) -> int:
        """Return how many tokens a model may count in a prompt that has `counted` by our count."""
        ratio = self._ratios[model] * RATIO_MARGIN if model in self._ratios else INITIAL_TOKEN_RATIO
        return int(counted * ratio) + self._more.get(model, 0) + 1


@dataclass(frozen=True)
class Reserved:
    """A call's reservation, and the tokens that its answer may have. `shared`: the ledger has it, too."""

    id: UUID
    answer: int
    shared: bool


@dataclass
class TurnBudget:
    """What one run of a turn may spend."""

    account: BudgetServices
    tenant: Tenant
    thread_id: ThreadId
    agent: str
    subject: str = ""
    _held: dict[UUID, Amount] = field(default_factory=dict)
    """What calls take that are not recorded in the thread yet: the worst case, and then what they took."""
    _excess: dict[UUID, Amount] = field(default_factory=dict)
    """What unrecorded calls took beyond their worst case: the ledger does not know of it before they are settled."""
    _open: set[UUID] = field(default_factory=set)
    """Reservations in the ledger that are neither settled nor released."""

    async def limited(self, state: Running) -> bool:
        """Say whether anything limits what the turn may spend."""
        return bool(state.thread.limits or await self._tenant_limits())

    async def strained(self, state: Running, models: Collection[str]) -> bool:
        """Say whether a limit's warning threshold is reached that counts calls of some models: then spend sparingly."""
        tenant_limits = await self._tenant_limits()
        if any(rules.is_warned(one.limit, one.spent) for one in self._own_usage(state, tenant_limits, models)):
            return True
        if not tenant_limits:
            return False
        ledger, limits = self.account.reservations.ledger, self.account.reservations.limits
        scopes = {given.scope for given in self._counting(tenant_limits, models)}
        usage = await ledger.limit_usage(self.tenant, await limits.now(), scopes)
        return any(rules.is_warned(one.limit, one.spent + one.reserved) for one in usage)

    async def reserve(self, state: Callable[[], Running], call: PlannedCall, fence: Fence | None) -> Reserved:
        """Reserve the worst case of a call, with a shorter answer if need be. The caller releases it if the call fails.

        Raises:
            BudgetExhausted: too little is left for the prompt and a short answer.
        """
        id_ = self.account.new_id()
        call = await self._reserve_here(id_, state, call)
        try:
            shared = rules.is_limited(await self._tenant_limits(), self.agent, call.model, self.subject)
            if shared:
                self._open.add(id_)
                call = await self._reserve_in_ledger(id_, call, fence)
        except BaseException:
            self._held.pop(id_, None)
            self._open.discard(id_)
            raise
        self._held[id_] = rules.worst_case(call, self.account.prices)
        return Reserved(id_, call.max_completion_tokens, shared)

    async def release(self, held: Reserved) -> None:
        """Give back what was reserved. While the store is away, the release waits for the next recovery."""
        self._held.pop(held.id, None)
        self._open.discard(held.id)
        if held.shared:
            await self.account.reservations.settle(held.id, None)

    def took(self, held: Reserved, called: ModelCalled) -> None:
        """Hold what a call has taken, instead of its worst case, until it is recorded."""
        spent = rules.spent_by(called, self.account.prices)
        if held.shared and held.id in self._held:
            more = spent - self._held[held.id]
            self._excess[held.id] = Amount(max(more.tokens, 0), max(more.cost, 0))
        self._held[held.id] = spent

    def recorded(self, held: Iterable[Reserved]) -> None:
        """Hold nothing any more for calls that are recorded: the thread's state counts them."""
        for one in held:
            self._held.pop(one.id, None)
            self._excess.pop(one.id, None)

    async def settle(self, events: Sequence[Recorded]) -> Sequence[BudgetThresholdReached]:
        """Settle what stored calls have taken, and return the warning thresholds that are reached by that."""
        reached: list[BudgetThresholdReached] = []
        for recorded in events:
            event = recorded.event
            if isinstance(event, ModelCalled) and event.reservation is not None:
                self._open.discard(event.reservation)
                spent = rules.spent_by(event, self.account.prices)
                reached += map(_threshold, await self.account.reservations.settle(event.reservation, spent))
        return reached

    def close(self) -> None:
        """Leave open reservations to the next recovery."""
        self.account.reservations.abandon(self._open)
        self._open.clear()

    async def _tenant_limits(self) -> Sequence[ScopeLimits]:
        return await self.account.reservations.limits.of(self.tenant, self.subject)

    def _counting(self, tenant_limits: Sequence[ScopeLimits], models: Collection[str]) -> Sequence[ScopeLimits]:
        return [given for given in tenant_limits if given.scope.counts(self.agent, *models, subject=self.subject)]

    def _own_usage(
        self, state: Running, tenant_limits: Sequence[ScopeLimits], models: Collection[str]
    ) -> Sequence[LimitUsage]:
        """Return how the limits stand that need no ledger: the thread's own, and those for each turn."""
        prices, thread = self.account.prices, state.thread
        counting = self._counting(tenant_limits, models)
        return [
            *rules.turn_limit_usage(None, thread.limits, state.turn, prices),
            *rules.limit_usage(thread.limits, thread, self.account.clock.now(), prices),
            *chain(*[rules.turn_limit_usage(each.scope, each.limits, state.turn, prices) for each in counting]),
        ]

    async def _reserve_here(self, id_: UUID, state: Callable[[], Running], call: PlannedCall) -> PlannedCall:
        """Hold the worst case of a call against the limits that need no ledger, with a shorter answer if need be."""
        attempts, prices = _Attempts(), self.account.prices
        enough = min(rules.MIN_COMPLETION_TOKENS, call.max_completion_tokens)
        while True:
            tenant_limits = await self._tenant_limits()
            usage = self._own_usage(state(), tenant_limits, [call.model])
            held = sum(self._held.values(), NOTHING)
            left = [rules.affordable(one.limit, one.spent + held, call, prices) for one in usage]
            short = [one for one, tokens in zip(usage, left, strict=True) if tokens < enough]
            if not short:
                call = replace(call, max_completion_tokens=min([call.max_completion_tokens, *left]))
                # No other call of this turn runs between the sum and this.
                self._held[id_] = rules.worst_case(call, prices)
                return call
            temporary = all(rules.affordable(one.limit, one.spent, call, prices) >= enough for one in short)
            if not temporary or not await attempts.pause():
                raise _exhausted(short[0], call)

    async def _reserve_in_ledger(self, id_: UUID, call: PlannedCall, fence: Fence | None) -> PlannedCall:
        """Reserve the worst case of a call in the ledger, with a shorter answer if need be."""
        attempts, prices, reservations = _Attempts(), self.account.prices, self.account.reservations
        while True:
            excess = sum(self._excess.values(), NOTHING)
            whose = id_, self.tenant, self.thread_id, self.agent, call.model
            at, counted_at = self.account.clock.now(), await reservations.limits.now()
            reservation = Reservation(
                *whose, rules.worst_case(call, prices) + excess, at, fence, counted_at, self.subject
            )
            answer = await reservations.reserve(reservation)
            if isinstance(answer, Granted):
                return call
            usage = answer.usage
            left = rules.affordable(usage.limit, usage.spent + usage.reserved + excess, call, prices)
            if rules.MIN_COMPLETION_TOKENS <= left < call.max_completion_tokens:
                call = replace(call, max_completion_tokens=left)
            elif not answer.temporary or not await attempts.pause():
                raise _exhausted(usage, call)


class _Attempts:
    """Attempts to reserve while other calls hold what is needed: with growing pauses, for `RESERVE_TIMEOUT_S`."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._until, self._pause_s = self._now() + RESERVE_TIMEOUT_S, RETRY_PAUSE_S

    async def pause(self) -> bool:
        """Wait before the next attempt. False: the time is over."""
        if self._now() >= self._until:
            return False
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, MAX_RETRY_PAUSE_S)
        return True


def crossed(before: State, after: State, at: datetime, prices: Prices) -> Sequence[BudgetThresholdReached]:
    """Return which warning thresholds of a thread's own limits were reached between two of its states."""
    if isinstance(before, Unopened) or isinstance(after, Unopened) or before.thread.usage is after.thread.usage:
        return ()
    limits = after.thread.limits
    if not limits:
        return ()
    was, now = (rules.limit_usage(limits, state.thread, at, prices) for state in (before, after))
    return [
        _threshold(new)
        for old, new in zip(was, now, strict=True)
        if rules.is_warned(new.limit, new.spent) and not rules.is_warned(old.limit, old.spent)
    ]


def _threshold(usage: LimitUsage) -> BudgetThresholdReached:
    spent, scope = (usage.spent.tokens, usage.spent.cost), usage.scope
    if scope is None:
        return BudgetThresholdReached("thread", usage.limit, usage.start, *spent)
    return BudgetThresholdReached("tenant", usage.limit, usage.start, *spent, scope.agent, scope.model, scope.subject)


def _exhausted(usage: LimitUsage, call: PlannedCall) -> BudgetExhausted:
    if usage.scope is None:
        who = "The thread"
    else:
        who = f"The subject {usage.scope.subject!r}" if usage.scope.subject else "The tenant"
        who += "".join(f" with {name}" for name in (usage.scope.agent, usage.scope.model) if name)
    if usage.limit.window == "turn":
        who = "A turn"
    spent = amounts_in_words(usage.spent.tokens, usage.spent.cost)
    return BudgetExhausted(
        f"{who} may spend {limit_in_words(usage.limit)}, and has spent {spent}: too little is left for a prompt of "
        f"{call.prompt_tokens:,} tokens and its answer. Raise the limit, or wait until its window ends; then retry."
    )
