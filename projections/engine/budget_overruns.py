"""Since when a thread is over its budget: told event by event, or looked up in its past.

What is spent in a window only grows until the window ends or the budget is set anew. So it is over from the event by
which a limit is reached until the window's end, which is known at once; and where nobody remembers the event, halving
finds it.
"""

from datetime import datetime

from msgspec import Struct

from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.budget.limits import ReachedLimit, is_reached, reached_limit, used_in
from domain.budget.prices import Prices
from domain.ids import Version
from domain.thread.state import Running, State, Unopened
from domain.windows import end_of


class Overrun(Struct, frozen=True, gc=False):
    """A time over budget, without a break, from an event on. Without `until`, only a new budget ends it."""

    version: Version
    since: datetime
    until: datetime | None

    def lasts(self, at: datetime) -> bool:
        """Say whether it goes on at a later instant, if nothing happens meanwhile."""
        return self.until is None or at < self.until


def overrun(state: State, version: Version, at: datetime, prices: Prices, before: Overrun | None) -> Overrun | None:
    """Say what an event comes to, after which the thread is in `state`; `before` lasted right before it."""
    limit = _reached(state, at, prices)
    if limit is None:
        return None
    until = end_of(limit.window, at)
    return Overrun(before.version, before.since, until) if before else Overrun(version, at, until)


def spent_alike(before: State, after: State) -> bool:
    """Say whether an event of a turn changed neither what is spent nor what may be: nobody gets over a budget by it.

    Nor does anybody by time passing, which only ends windows.
    """
    if not (isinstance(before, Running) and isinstance(after, Running)):
        return False
    was, now = before.thread, after.thread
    return was is now or (was.budget is now.budget and was.usage is now.usage and was.windows is now.windows)


async def overrun_of(repository: ThreadRepository, loaded: LoadedThread, prices: Prices) -> Overrun | None:
    """Look up since when a thread is over its budget, after its last event. What its parent was does not count."""
    at = loaded.head.at
    limit = _reached(loaded.state, at, prices)
    if limit is None:
        return None
    until = end_of(limit.window, at)
    origin = await repository.origin(loaded.thread_id)
    first = Version(origin.version + 1 if origin else 1)
    found = None
    while limit and loaded.head.version >= first:
        found = await _begin(repository, loaded, limit, at, first, prices)
        at = found.head.at
        if found.head.version == first:
            break
        loaded = await repository.load_at(loaded.thread_id, Version(found.head.version - 1), loaded.tenant)
        limit = _reached(loaded.state, at, prices)  # it may have been over another limit before, or another budget
    return Overrun(found.head.version, found.head.at, until) if found else None


async def _begin(
    repository: ThreadRepository,
    loaded: LoadedThread,
    limit: ReachedLimit,
    at: datetime,
    first: Version,
    prices: Prices,
) -> LoadedThread:
    """Find the first version after which a limit was reached, which it is after `loaded` and at an instant.

    That is a version since the budget was set; before the window began, none of it was spent.
    """
    low = max(first, _set_at(loaded.state))
    while low < loaded.head.version:
        middle = await repository.load_at(loaded.thread_id, Version((low + loaded.head.version) // 2), loaded.tenant)
        if _is_reached(middle.state, limit, at, prices):
            loaded = middle
        else:
            low = Version(middle.head.version + 1)
    return loaded


def _is_reached(state: State, limit: ReachedLimit, at: datetime, prices: Prices) -> bool:
    return not isinstance(state, Unopened) and is_reached(limit.limit, used_in(state.thread, limit.window, at), prices)


def _reached(state: State, at: datetime, prices: Prices) -> ReachedLimit | None:
    return None if isinstance(state, Unopened) or not state.thread.budget else reached_limit(state.thread, at, prices)


def _set_at(state: State) -> Version:
    budget = None if isinstance(state, Unopened) else state.thread.budget
    return budget.version if budget else Version(1)
