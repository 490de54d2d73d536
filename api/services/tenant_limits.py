"""The service of tenants' limits: set them, show how they stand, list their history."""

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
from domain.read_models.tables import Table
from domain.thread.events import Limit
from domain.thread.limits import check_limits
from domain.thread.subject import check_subject
from domain.windows import WINDOWS, Window, start_of
from projections.budgets import BUDGETS
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

        A new limit begins with what the usage table has for its window, or the table of budgets for a subject's. The
        limits are set with optimistic concurrency, as other processes may set them while the sum is computed. The last
        attempt sets them in any case.

        Raises:
            InvalidInput: a limit, the subject, the agent or the model is invalid.
            BehindLog: the table is not up to date, or is being built again for subjects.
        """
        limits = check_limits(limits)
        if scope.subject:
            check_subject(scope.subject)
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
                await self._reading.fresh("budgets" if scope.subject else "usage", current=bool(scope.subject))
            used = self._used_by_subject if scope.subject else self._used
            spent: dict[str, Amount] = {window: await used(scope, window, at) for window in WINDOWS if window in new}
            expected = before if attempt < MAX_ATTEMPTS - 1 else None
            if await self._limits.set(ScopeLimits(scope, limits, at, caller.actor), spent, expected):
                break
        return await self.show(caller, scope.subject or None)

    async def show(self, caller: Caller, subject: str | None = None) -> LimitsView:
        """Return a tenant's limits, or those of one subject, and how they stand."""
        at = await self._limits.now()
        limits = await self._ledger.limits(caller.tenant, None if subject is None else {subject})
        scopes = None if subject is None else {given.scope for given in limits}
        return limits_view(limits, await self._ledger.limit_usage(caller.tenant, at, scopes), at)

    async def history(self, caller: Caller, limit: int, subject: str | None = None) -> Sequence[Setting]:
        """Return what was set and lifted, of all limits or of one subject's, newest first."""
        return [Setting.of(given) for given in await self._ledger.history(caller.tenant, limit, subject)]

    async def _used(self, scope: Scope, window: Window, at: datetime) -> Amount:
        """Return what the usage table has of a window. Windows consist of whole hours."""
        return await self._sum(USAGE, scope, Where("hour", ">=", start_of(window, at)))

    async def _used_by_subject(self, scope: Scope, window: Window, at: datetime) -> Amount:
        """Return what the table of budgets has of a window in threads about a subject."""
        start = Where("start", "=", start_of(window, at))
        return await self._sum(
            BUDGETS, scope, Where("window", "=", window), start, Where("subject", "=", scope.subject)
        )

    async def _sum(self, table: Table, scope: Scope, *conditions: Where) -> Amount:
        """Return what a table has of an agent and a model in the rows that fit the conditions."""
        where = [Where("tenant", "=", scope.tenant), *conditions]
        where += [Where(name, "=", value) for name, value in (("graph", scope.agent), ("model", scope.model)) if value]
        sums = ("prompt_tokens", "completion_tokens", "cost")
        for prompt, completion, cost in await self._runtime.log.models.aggregate(Aggregate(table, sums, tuple(where))):
            return Amount((prompt or 0) + (completion or 0), cost or 0)
        return Amount()
