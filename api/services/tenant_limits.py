"""What tenants may spend: the part of the service that sets limits, and says how they stand."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from api.http.caller import Caller
from api.runtime.composition import Runtime
from api.schemas.limits import LimitsView, Setting, limits_view
from api.schemas.requests import MAX_NAME
from api.services.read_models import ReadModelQueries
from domain.errors import InvalidInput
from domain.json import check_text
from domain.ports.ledger import Amount, Scope
from domain.read_models.queries import Aggregate, Where
from domain.thread.events import Limit
from domain.thread.limits import check_limits
from domain.windows import WINDOWS, Window, start_of
from projections.usage import USAGE

MAX_ATTEMPTS = 10
"""How often it is added up what was spent before limits, if other processes set them at the same time."""


class TenantLimits:
    """Limits what a tenant's agents and models may spend."""

    def __init__(self, runtime: Runtime, reading: ReadModelQueries) -> None:
        """Work with what the composition root has joined."""
        self._runtime = runtime
        self._reading = reading
        self._ledger, self._limits = runtime.accounts.ledger, runtime.accounts.limits

    async def set(self, scope: Scope, limits: tuple[Limit, ...], caller: Caller) -> LimitsView:
        """Limit a scope, instead of what limited it before. Raises `InvalidInput`, `BehindLog`."""
        limits = check_limits(limits)
        for field, name in (("agent", scope.agent), ("model", scope.model)):
            if len(name or "") > MAX_NAME:
                raise InvalidInput(field, f"must have at most {MAX_NAME} characters")
            check_text(name or "", field)
        if limits and scope.agent and scope.agent not in self._runtime.agents:
            known = ", ".join(sorted(self._runtime.agents))
            raise InvalidInput("agent", f"there is none of this name; there are {known}")
        for attempt in range(MAX_ATTEMPTS):
            at, before = await self._limits.now(), await self._holding(scope)
            spent = await self._spent(scope, _new(limits, before), at)
            expected = before if attempt < MAX_ATTEMPTS - 1 else None  # at last, what was counted until now goes on
            if await self._limits.set(scope, limits, at, caller.actor, spent, expected):
                break
        return await self.show(caller)

    async def show(self, caller: Caller) -> LimitsView:
        """Say what limits a tenant, and how the limits stand."""
        at = await self._limits.now()
        limits, standings = await asyncio.gather(
            self._ledger.limits(caller.tenant), self._ledger.limit_usage(caller.tenant, at)
        )
        return limits_view(limits, standings, at)

    async def history(self, caller: Caller, limit: int) -> Sequence[Setting]:
        """List what was set and lifted, the last first."""
        return [Setting.of(given) for given in await self._ledger.history(caller.tenant, limit)]

    async def _holding(self, scope: Scope) -> tuple[Limit, ...]:
        return next((given.limits for given in await self._ledger.limits(scope.tenant) if given.scope == scope), ())

    async def _spent(self, scope: Scope, windows: Collection[Window], at: datetime) -> Mapping[str, Amount]:
        """Add up what was spent in windows. They begin and end with the hours that usage is counted by."""
        if windows:
            await self._reading.fresh("usage")
        return {window: await self._used(scope, start_of(window, at)) for window in windows}

    async def _used(self, scope: Scope, since: datetime) -> Amount:
        where = [Where("tenant", "=", scope.tenant), Where("hour", ">=", since)]
        where += [Where(name, "=", value) for name, value in (("graph", scope.agent), ("model", scope.model)) if value]
        sums = ("prompt_tokens", "completion_tokens", "cost")
        for prompt, completion, cost in await self._runtime.models.aggregate(Aggregate(USAGE, sums, tuple(where))):
            return Amount((prompt or 0) + (completion or 0), cost or 0)
        return Amount()


def _new(limits: Collection[Limit], before: Collection[Limit]) -> Collection[Window]:
    """Name the windows in which nothing has counted until now: only of these is it asked what was spent."""
    asked = {limit.window for limit in limits} - {limit.window for limit in before}
    return [window for window in WINDOWS if window in asked]
