"""Since when a thread has been over its budget: carried along event by event, or looked up in its past.

What is spent in a window only grows until the window ends or the budget is set again. So an overrun begins with the
event that exceeds a limit and ends with the window, which is known at once. Where no process remembers that event, a
binary search finds it.
"""

from datetime import datetime

from msgspec import Struct

from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.budget.limits import amount_of, exceeded_limit, is_exceeded, used_in
from domain.budget.prices import Prices
from domain.ids import Version
from domain.ports.ledger import LimitUsage
from domain.thread.state import Running, State, Unopened
from domain.windows import end_of


class Overrun(Struct, frozen=True, gc=False):
    """An unbroken time over budget, from an event on. Without `until`, only a new budget ends it."""

    version: Version
    since: datetime
    until: datetime | None

    def lasts(self, at: datetime) -> bool:
        """Say whether it goes on at a later instant, if nothing happens meanwhile."""
        return self.until is None or at < self.until


def overrun(state: State, version: Version, at: datetime, prices: Prices, before: Overrun | None) -> Overrun | None:
    """Return the overrun after an event that leads to `state`; `before` is the one right before the event."""
    exceeded = _exceeded(state, at, prices)
    if exceeded is None:
        return None
    until = end_of(exceeded.window, at)
    return Overrun(before.version, before.since, until) if before else Overrun(version, at, until)


def same_spending(before: State, after: State) -> bool:
    """Say whether an event of a turn changed neither the usage nor the budget: no overrun begins with it.

    No overrun begins by time passing either, which only ends windows.
    """
    if not (isinstance(before, Running) and isinstance(after, Running)):
        return False
    was, now = before.thread, after.thread
    return was is now or (was.budget is now.budget and was.usage is now.usage and was.windows is now.windows)


async def find_overrun(repository: ThreadRepository, loaded: LoadedThread, prices: Prices) -> Overrun | None:
    """Look up the overrun after a thread's last event. Overruns of the thread that it was forked from do not count."""
    at = loaded.head.at
    exceeded = _exceeded(loaded.state, at, prices)
    if exceeded is None:
        return None
    until = end_of(exceeded.window, at)
    origin = await repository.origin(loaded.thread_id)
    first = Version(origin.version + 1 if origin else 1)
    found = None
    while exceeded and loaded.head.version >= first:
        found = await _first_exceeding(repository, loaded, exceeded, at, first, prices)
        at = found.head.at
        if found.head.version == first:
            break
        loaded = await repository.load_at(loaded.thread_id, Version(found.head.version - 1), loaded.tenant)
        exceeded = _exceeded(loaded.state, at, prices)  # before, it may have been another limit or another budget
    return Overrun(found.head.version, found.head.at, until) if found else None


async def _first_exceeding(
    repository: ThreadRepository,
    loaded: LoadedThread,
    exceeded: LimitUsage,
    at: datetime,
    first: Version,
    prices: Prices,
) -> LoadedThread:
    """Find the first version after which a limit was exceeded in the window of `at`, as it is after `loaded`.

    The version is not before the budget was set. Nothing was spent in the window before it began.
    """
    budget = None if isinstance(loaded.state, Unopened) else loaded.state.thread.budget
    low = max(first, budget.version if budget else first)
    while low < loaded.head.version:
        middle = await repository.load_at(loaded.thread_id, Version((low + loaded.head.version) // 2), loaded.tenant)
        if not isinstance(middle.state, Unopened) and is_exceeded(
            exceeded.limit, amount_of(used_in(middle.state.thread, exceeded.window, at), prices)
        ):
            loaded = middle
        else:
            low = Version(middle.head.version + 1)
    return loaded


def _exceeded(state: State, at: datetime, prices: Prices) -> LimitUsage | None:
    return None if isinstance(state, Unopened) or not state.thread.budget else exceeded_limit(state.thread, at, prices)
