"""The service of tenants' limits: set them, show how they stand, list their history."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from api.http.caller import Caller
from api.runtime.composition import Runtime
from api.schemas.limits import LimitsView, Setting, limits_view
from api.schemas.requests import MAX_NAME
from api.services.read_models import ReadModelQueries
from domain.errors import InvalidInput
from domain.json import check_text
from domain.ports.ledger import Amount, Scope, ScopeLimits
from domain.read_models.queries import Aggregate, Where
from domain.thread.events import Limit
from domain.thread.limits import check_limits
from domain.windows import WINDOWS, start_of
from projections.usage import USAGE

MAX_ATTEMPTS = 10
"""Attempts to set limits while other processes set them, too."""


class TenantLimits:
    """Sets and shows the limits of a tenant's agents and models."""

    def __init__(self, runtime: Runtime, reading: ReadModelQueries) -> None:
        self._runtime = runtime
        self._reading = reading
        self._ledger, self._limits = runtime.reservations.ledger, runtime.reservations.limits

    async def set(self, scope: Scope, limits: tuple[Limit, ...], caller: Caller) -> LimitsView:
        """Replace the limits of a scope; without limits, lift them.

        A new limit begins with what the usage table has for its window. The limits are set with optimistic concurrency,
        as other processes may set them while the sum is computed. The last attempt sets them in any case.

        Raises:
            InvalidInput: a limit, the agent or the model is invalid.
            BehindLog: the usage table is not up to date.
        """
        limits = check_limits(limits)
        for field, name in (("agent", scope.agent), ("model", scope.model)):
            if len(name) > MAX_NAME:
                raise InvalidInput(field, f"must have at most {MAX_NAME} characters")
            check_text(name, field)
        if limits and scope.agent and scope.agent not in self._runtime.agents:
            known = ", ".join(sorted(self._runtime.agents))
            raise InvalidInput("agent", f"unknown agent {scope.agent!r}; known agents: {known}")
        for attempt in range(MAX_ATTEMPTS):
            at, current = await self._limits.now(), await self._ledger.limits(scope.tenant)
            before = next((given.limits for given in current if given.scope == scope), ())
            new = {limit.window for limit in limits} - {limit.window for limit in before}
            if not new.isdisjoint(WINDOWS):
                await self._reading.fresh("usage")
            spent: dict[str, Amount] = {
                window: await self._used(scope, start_of(window, at)) for window in WINDOWS if window in new
            }
            expected = before if attempt < MAX_ATTEMPTS - 1 else None
            if await self._limits.set(ScopeLimits(scope, limits, at, caller.actor), spent, expected):
                break
        return await self.show(caller)

    async def show(self, caller: Caller) -> LimitsView:
        """Return a tenant's limits and how they stand."""
        at = await self._limits.now()
        limits, usage = await asyncio.gather(
            self._ledger.limits(caller.tenant), self._ledger.limit_usage(caller.tenant, at)
        )
        return limits_view(limits, usage, at)

    async def history(self, caller: Caller, limit: int) -> Sequence[Setting]:
        """Return what was set and lifted, newest first."""
        return [Setting.of(given) for given in await self._ledger.history(caller.tenant, limit)]

    async def _used(self, scope: Scope, since: datetime) -> Amount:
        """Return what the usage table has since an hour began. Windows consist of whole hours."""
        where = [Where("tenant", "=", scope.tenant), Where("hour", ">=", since)]
        where += [Where(name, "=", value) for name, value in (("graph", scope.agent), ("model", scope.model)) if value]
        sums = ("prompt_tokens", "completion_tokens", "cost")
        for prompt, completion, cost in await self._runtime.log.models.aggregate(Aggregate(USAGE, sums, tuple(where))):
            return Amount((prompt or 0) + (completion or 0), cost or 0)
        return Amount()
