"""Appending in groups: what many threads want to store at once goes into one statement and one commit."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
from msgspec import Struct

from domain.errors import Overloaded, StoreUnavailable
from domain.ids import Position, ThreadId
from domain.ports.log import Append
from infrastructure.postgres.batching import halves
from infrastructure.postgres.failures import is_about_one_row, is_divisible, is_passing, is_worth_dividing
from infrastructure.postgres.log.append import AppendAttempts, Outcome
from infrastructure.postgres.retry import trying

MOST = 32
"""Appends of a group. What the statement costs beside its rows is shared by then; its joins over the group grow by the
square, since the planner may not hash (see `pool.PLANNER`): PostgreSQL takes 14 us an event for 32 appends of 3 events,
16 for 64, 20 for 128."""

HEAVIEST = 4_000_000
"""Characters of payload after which a group is closed."""

AT_ONCE = 2
"""Groups under way at the same time: while one waits for its commit, the next is on its way."""

WAITING = 2_000
"""Appends that may wait; more are refused, so that a slow database does not fill the memory."""


RECENT_S = 5.0
"""Seconds in which an append that could not be stored counts against the process's readiness."""


def _has_to_do_with_all(error: Exception) -> bool:
    """Say whether a group is to be sent again as it is: what may be the fault of one append is looked for at once."""
    return is_passing(error) and not is_divisible(error)


class _Waiting(Struct, eq=False):
    append: Append
    done: asyncio.Future[Position]


class GroupCommit:
    """Collects what is to be appended. Nothing waits for company: a group is what has come while others were stored."""

    def __init__(self, pool: asyncpg.Pool, *, limit: int = WAITING) -> None:
        """Store through a pool; let at most `limit` appends wait."""
        self._pool = pool
        self._limit = limit
        self._queue: deque[_Waiting] = deque()
        self._groups: set[asyncio.Task[None]] = set()
        self._busy: set[ThreadId] = set()
        self._going_on = False
        self._trouble: tuple[float, StoreUnavailable] | None = None

    async def append(self, append: Append) -> Position:
        """Store an append durably; see `EventStore.append`."""
        if len(self._queue) >= self._limit:
            raise Overloaded
        waiting = _Waiting(append, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._go_on_soon()
        return await waiting.done

    def trouble(self) -> StoreUnavailable | None:
        """Return what the last appends met, if the store was unavailable to them a moment ago and to none since."""
        at, error = self._trouble or (0.0, None)
        recent = asyncio.get_running_loop().time() - at < RECENT_S
        return error if recent else None

    def under_way(self) -> frozenset[ThreadId]:
        """Name the threads that this process is appending to, whether or not a caller still waits for it."""
        return frozenset(self._busy) | {waiting.append.thread_id for waiting in self._queue}

    async def close(self) -> None:
        """Wait until everything is stored or refused."""
        while self._groups or self._going_on:
            await asyncio.gather(*self._groups, asyncio.sleep(0), return_exceptions=True)

    def _go_on_soon(self) -> None:
        """Make groups once all who run now have had their turn: those whom one group has woken append at once."""
        if not self._going_on:
            self._going_on = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._going_on = False
        while self._queue and len(self._groups) < AT_ONCE and (group := self._take()):
            task = asyncio.create_task(self._store(group), name=f"{len(group)} appends")
            self._groups.add(task)
            task.add_done_callback(self._stored)

    def _take(self) -> list[_Waiting]:
        """Take the next group off the queue. Two appends of one thread are stored one after the other."""
        group: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        size = 0
        while self._queue and len(group) < MOST and size < HEAVIEST:
            waiting = self._queue.popleft()
            if waiting.append.thread_id in self._busy:
                left.append(waiting)
                continue
            self._busy.add(waiting.append.thread_id)
            size += sum(len(record.payload) for record in waiting.append.records)
            group.append(waiting)
        self._queue.extendleft(reversed(left))
        return group

    async def _store(self, group: Sequence[_Waiting]) -> None:
        attempts, appends = AppendAttempts(self._pool), [waiting.append for waiting in group]
        again = _has_to_do_with_all if len(group) > 1 else is_passing
        try:
            positions = await trying(self._pool, lambda: attempts.append(appends), again=again)
        except Exception as error:  # noqa: BLE001  (the callers must get it, whatever it is)
            await self._divide(attempts, group, error)
        else:
            await self._answer_each(attempts, group, positions)

    async def _try(
        self,
        attempts: AppendAttempts,
        group: Sequence[_Waiting],
        again: Callable[[Exception], bool] = _has_to_do_with_all,
    ) -> Exception | None:
        """Store a part of a group. Return the error that failed it as a whole: then its callers still wait."""
        appends = [waiting.append for waiting in group]
        try:
            positions = await trying(self._pool, lambda: attempts.append(appends), again=again)
        except Exception as error:  # noqa: BLE001  (as above)
            return error
        await self._answer_each(attempts, group, positions)
        return None

    async def _answer_each(
        self, attempts: AppendAttempts, group: Sequence[_Waiting], positions: Sequence[Position | None]
    ) -> None:
        refused = []
        for waiting, position in zip(group, positions, strict=True):
            if position is None:
                refused.append(waiting)
            else:
                self._answer(waiting, position)
        for waiting in refused:  # after the others: they need not wait for another thread's conflict
            await self._ask(waiting, attempts.refusal)

    async def _divide(self, attempts: AppendAttempts, group: Sequence[_Waiting], error: Exception) -> None:
        """Find the append that PostgreSQL cannot take: the others must not fail with it.

        If both halves of a group meet an unavailable store, so will its quarters: they are not sent.
        """
        if len(group) == 1 and not isinstance(error, StoreUnavailable):
            await self._ask(group[0], attempts.alone)
            return
        parts = halves(group) if len(group) > 1 and is_worth_dividing(error) else ()
        failed = [(part, found) for part in parts if (found := await self._try(attempts, part)) is not None]
        if len(failed) < len(parts) or any(not isinstance(found, StoreUnavailable) for _, found in failed):
            for part, found in failed:
                await self._divide(attempts, part, found)
            return
        last = await self._try(attempts, group, is_passing) if parts else error
        if last is not None:
            for waiting in group:
                self._answer(waiting, last)

    async def _ask(self, waiting: _Waiting, question: Callable[[Append], Awaitable[Outcome]]) -> None:
        try:
            self._answer(waiting, await question(waiting.append))
        except Exception as error:  # noqa: BLE001  (as above)
            self._answer(waiting, error)

    def _answer(self, waiting: _Waiting, outcome: Outcome | Exception) -> None:
        self._busy.discard(waiting.append.thread_id)
        if isinstance(outcome, int):
            self._trouble = None
        elif isinstance(outcome, StoreUnavailable) and not is_about_one_row(outcome.__cause__):
            self._trouble = asyncio.get_running_loop().time(), outcome
        if waiting.done.done():  # its caller was cancelled
            return
        if isinstance(outcome, Exception):
            waiting.done.set_exception(outcome)
        else:
            waiting.done.set_result(outcome)

    def _stored(self, task: asyncio.Task[None]) -> None:
        self._groups.discard(task)
        self._go_on_soon()
