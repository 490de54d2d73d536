"""Group commit: appends of many threads are stored by one statement, in one transaction; see `batching`."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import asyncpg

from domain.errors import StoreUnavailable
from domain.ids import Position, ThreadId
from domain.ports.log import Append
from infrastructure.postgres.batching import Batches, Waiting
from infrastructure.postgres.failures import is_about_one_row, is_divisible, is_passing, is_worth_dividing
from infrastructure.postgres.log.append import Outcome, Storing
from infrastructure.postgres.retry import Store

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

_Waiting: TypeAlias = Waiting[Append, Position]


def _is_about_the_group(error: Exception) -> bool:
    """Say whether to send the same group again. If one append may be the reason, the group is divided instead."""
    return is_passing(error) and not is_divisible(error)


class GroupCommit(Store, Batches[Append, Position]):
    """Stores appends in groups, up to `MAX_CONCURRENT_GROUPS` at a time."""

    def __init__(self, pool: asyncpg.Pool, *, limit: int = MAX_WAITING_APPENDS) -> None:
        """Use a pool's connections. At most `limit` appends may wait."""
        Store.__init__(self, pool)
        self._storing = Storing(pool)
        Batches.__init__(self, "appends", most=MAX_GROUP_APPENDS, limit=limit, at_once=MAX_CONCURRENT_GROUPS)
        self._busy: set[ThreadId] = set()
        self._trouble: tuple[float, StoreUnavailable] | None = None

    def append(self, append: Append) -> Coroutine[Any, Any, Position]:
        """Store an append durably; see `EventStore.append`. Returns the coroutine of `put`, to add none of its own."""
        return self.put(append)

    def trouble(self) -> StoreUnavailable | None:
        """Return the error of the last append, if the store was unavailable to it in the last `TROUBLE_S` seconds."""
        at, error = self._trouble or (0.0, None)
        recent = asyncio.get_running_loop().time() - at < TROUBLE_S
        return error if recent else None

    def under_way(self) -> frozenset[ThreadId]:
        """Return the threads with appends under way in this process, even if no caller waits for them any more."""
        return frozenset(self._busy) | {waiting.item.thread_id for waiting in self._queue}

    def _take(self) -> Sequence[_Waiting]:
        """Take the next group from the queue. Two appends of one thread go into successive groups."""
        group: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        size = 0
        while self._queue and len(group) < self._most and size < MAX_GROUP_CHARS:
            waiting = self._queue.popleft()
            if waiting.item.thread_id in self._busy:
                left.append(waiting)
                continue
            self._busy.add(waiting.item.thread_id)
            size += sum(len(record.payload) for record in waiting.item.records)
            group.append(waiting)
        self._queue.extendleft(reversed(left))
        return group

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        """Store a group. A single append is sent again after every passing error, since it cannot be divided."""
        if len(group) > 1:
            await super()._write_group(group)
        elif (error := await self._try(group, is_passing)) is not None:
            await self._give_up(group, error)

    async def _try(
        self, group: Sequence[_Waiting], again: Callable[[Exception], bool] = _is_about_the_group
    ) -> Exception | None:
        try:
            positions = await self._storing.store([waiting.item for waiting in group], again)
        except Exception as error:  # noqa: BLE001  (the callers must get it, whatever it is)
            return error
        refused = []
        for waiting, position in zip(group, positions, strict=True):
            if position is None:
                refused.append(waiting)
            else:
                self._answer(waiting, position)
        for waiting in refused:  # after the others, so that they do not wait for another thread's conflict
            await self._answer_with(waiting, self._storing.refusal)
        return None

    async def _give_up(self, group: Sequence[_Waiting], error: Exception) -> None:
        """Try a group once more whose halves failed, and on its own an append that PostgreSQL refuses."""
        if len(group) == 1 and not isinstance(error, StoreUnavailable):
            await self._answer_with(group[0], self._storing.alone)
            return
        last = await self._try(group, is_passing) if len(group) > 1 and is_worth_dividing(error) else error
        if last is not None:
            await super()._give_up(group, last)

    async def _answer_with(self, waiting: _Waiting, outcome_of: Callable[[Append], Awaitable[Outcome]]) -> None:
        try:
            self._answer(waiting, await outcome_of(waiting.item))
        except Exception as error:  # noqa: BLE001  (as above)
            self._answer(waiting, error)

    def _answer(self, waiting: _Waiting, answer: Outcome | Exception) -> None:
        self._busy.discard(waiting.item.thread_id)
        if self._storing.unanswered:
            self._storing.unanswered.discard(waiting.item.thread_id)
        if isinstance(answer, int):
            self._trouble = None
        elif isinstance(answer, StoreUnavailable) and not is_about_one_row(answer.__cause__):
            self._trouble = asyncio.get_running_loop().time(), answer
        super()._answer(waiting, answer)
