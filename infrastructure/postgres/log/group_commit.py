"""Group commit: appends of many threads are stored by one statement, in one transaction.

Without delay: a group is whatever was queued while the groups before were being stored.
"""

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
from infrastructure.postgres.log.append import Outcome, Storing

MAX_GROUP_APPENDS = 32
"""Appends of a group. At this size, the statement's fixed cost is spread widely enough. Its joins over the group grow
with the square, since the planner may not hash (see `pool.PLANNER`): PostgreSQL takes 14 us an event for 32 appends of
3 events, 16 for 64, 20 for 128."""

MAX_GROUP_CHARS = 4_000_000
"""Characters of payloads after which a group takes no further append."""

MAX_CONCURRENT_GROUPS = 2
"""Groups that are stored at the same time: while one waits for its commit, the next one is sent."""

MAX_WAITING_APPENDS = 2_000
"""Appends that may wait. Further ones are refused (backpressure): a slow database must not fill the memory."""


TROUBLE_S = 5.0
"""Seconds for which a failed append counts against the readiness of the process."""


def _is_about_the_group(error: Exception) -> bool:
    """Say whether to send the same group again. If one append may be the reason, the group is divided instead."""
    return is_passing(error) and not is_divisible(error)


class _Waiting(Struct, eq=False):
    append: Append
    done: asyncio.Future[Position]


class GroupCommit:
    """Stores appends in groups, up to `MAX_CONCURRENT_GROUPS` at a time."""

    def __init__(self, pool: asyncpg.Pool, *, limit: int = MAX_WAITING_APPENDS) -> None:
        """Use a pool's connections. At most `limit` appends may wait."""
        self._pool = pool
        self._limit = limit
        self._queue: deque[_Waiting] = deque()
        self._groups: set[asyncio.Task[None]] = set()
        self._busy: set[ThreadId] = set()
        self._starting = False
        self._trouble: tuple[float, StoreUnavailable] | None = None

    async def append(self, append: Append) -> Position:
        """Store an append durably; see `EventStore.append`."""
        if len(self._queue) >= self._limit:
            raise Overloaded
        waiting = _Waiting(append, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._start_groups_soon()
        return await waiting.done

    def trouble(self) -> StoreUnavailable | None:
        """Return the error of the last append, if the store was unavailable to it in the last `TROUBLE_S` seconds."""
        at, error = self._trouble or (0.0, None)
        recent = asyncio.get_running_loop().time() - at < TROUBLE_S
        return error if recent else None

    def under_way(self) -> frozenset[ThreadId]:
        """Return the threads with appends under way in this process, even if no caller waits for them any more."""
        return frozenset(self._busy) | {waiting.append.thread_id for waiting in self._queue}

    async def close(self) -> None:
        """Wait until every append is stored or refused."""
        while self._groups or self._starting:
            await asyncio.gather(*self._groups, asyncio.sleep(0), return_exceptions=True)

    def _start_groups_soon(self) -> None:
        """Start groups in the next iteration of the loop: callers that one group has woken can append until then."""
        if not self._starting:
            self._starting = True
            asyncio.get_running_loop().call_soon(self._start_groups)

    def _start_groups(self) -> None:
        self._starting = False
        while self._queue and len(self._groups) < MAX_CONCURRENT_GROUPS and (group := self._take()):
            task = asyncio.create_task(self._store(group), name=f"{len(group)} appends")
            self._groups.add(task)
            task.add_done_callback(self._stored)

    def _take(self) -> list[_Waiting]:
        """Take the next group from the queue. Two appends of one thread go into successive groups."""
        group: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        size = 0
        while self._queue and len(group) < MAX_GROUP_APPENDS and size < MAX_GROUP_CHARS:
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
        storing = Storing(self._pool)
        error = await self._try(storing, group, _is_about_the_group if len(group) > 1 else is_passing)
        if error is not None:
            await self._divide(storing, group, error)

    async def _try(
        self, storing: Storing, group: Sequence[_Waiting], again: Callable[[Exception], bool] = _is_about_the_group
    ) -> Exception | None:
        """Store a group. Returns the error that failed it as a whole: then its callers still wait."""
        try:
            positions = await storing.store([waiting.append for waiting in group], again)
        except Exception as error:  # noqa: BLE001  (the callers must get it, whatever it is)
            return error
        refused = []
        for waiting, position in zip(group, positions, strict=True):
            if position is None:
                refused.append(waiting)
            else:
                self._answer(waiting, position)
        for waiting in refused:  # after the others, so that they do not wait for another thread's conflict
            await self._answer_with(waiting, storing.refusal)
        return None

    async def _divide(self, storing: Storing, group: Sequence[_Waiting], error: Exception) -> None:
        """Store the halves of a failed group, to find the append that PostgreSQL cannot take. The others are stored.

        If both halves meet an unavailable store, they are not divided further.
        """
        if len(group) == 1 and not isinstance(error, StoreUnavailable):
            await self._answer_with(group[0], storing.alone)
            return
        parts = halves(group) if len(group) > 1 and is_worth_dividing(error) else ()
        failed = [(part, found) for part in parts if (found := await self._try(storing, part)) is not None]
        if len(failed) < len(parts) or any(not isinstance(found, StoreUnavailable) for _, found in failed):
            for part, found in failed:
                await self._divide(storing, part, found)
            return
        last = await self._try(storing, group, is_passing) if parts else error
        if last is not None:
            for waiting in group:
                self._answer(waiting, last)

    async def _answer_with(self, waiting: _Waiting, outcome_of: Callable[[Append], Awaitable[Outcome]]) -> None:
        try:
            self._answer(waiting, await outcome_of(waiting.append))
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
        self._start_groups_soon()
