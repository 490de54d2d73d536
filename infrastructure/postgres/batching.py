"""Group commit: items are written by one statement, in one transaction.

Without delay: a group is whatever was queued while the groups before were being written.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from domain.errors import Overloaded, StoreUnavailable
from infrastructure.postgres.failures import is_worth_dividing

T = TypeVar("T")
R = TypeVar("R")


class Waiting(Struct, Generic[T, R], eq=False):
    """An item whose caller waits for a result."""

    item: T
    done: asyncio.Future[R]


class Batches(ABC, Generic[T, R]):
    """Items in groups of at most `most`, of which `at_once` are written at a time. At most `limit` items wait.

    An invalid item fails alone.
    """

    def __init__(self, name: str, *, most: int, limit: int, at_once: int = 1) -> None:
        self._name = name
        self._most = most
        self._limit = limit
        self._at_once = at_once
        self._queue: deque[Waiting[T, R]] = deque()
        self._groups: set[asyncio.Task[None]] = set()
        self._starting = False

    async def put(self, item: T) -> R:
        """Write an item, in a group with others. Raises `Overloaded`, and what failed it."""
        if len(self._queue) >= self._limit:
            raise Overloaded
        waiting: Waiting[T, R] = Waiting(item, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._start_groups_soon()
        return await waiting.done

    async def close(self) -> None:
        """Wait until every item is written or refused."""
        while self._groups or self._starting:
            await asyncio.gather(*self._groups, asyncio.sleep(0), return_exceptions=True)

    def _start_groups_soon(self) -> None:
        """Start groups in the next iteration of the loop: callers that one group has woken can put items until then."""
        if not self._starting:
            self._starting = True
            asyncio.get_running_loop().call_soon(self._start_groups)

    def _start_groups(self) -> None:
        self._starting = False
        while self._queue and len(self._groups) < self._at_once and (group := self._take()):
            task = asyncio.create_task(self._write_group(group), name=f"{len(group)} {self._name}")
            self._groups.add(task)
            task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._groups.discard(task)
        self._start_groups_soon()

    def _take(self) -> Sequence[Waiting[T, R]]:
        """Take the next group from the queue."""
        return [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]

    async def _write_group(self, group: Sequence[Waiting[T, R]]) -> None:
        try:
            if (error := await self._try(group)) is not None:
                await self._divide(group, error)
        except Exception as error:  # noqa: BLE001  (a defect: the callers must not wait for ever)
            for waiting in group:
                self._answer(waiting, error)

    @abstractmethod
    async def _try(self, group: Sequence[Waiting[T, R]]) -> Exception | None:
        """Write a group. Returns the error that failed it as a whole: then its callers still wait."""

    async def _divide(self, group: Sequence[Waiting[T, R]], error: Exception) -> None:
        """Write the halves of a failed group, to find the item that cannot be written. It fails alone.

        If both halves meet an unavailable store, they are not divided further.
        """
        half = len(group) // 2
        parts = (group[:half], group[half:]) if half and is_worth_dividing(error) else ()
        failed = [(part, found) for part in parts if (found := await self._try(part)) is not None]
        if len(failed) < len(parts) or any(not isinstance(found, StoreUnavailable) for _, found in failed):
            for part, found in failed:
                await self._divide(part, found)
        else:
            await self._give_up(group, error)

    async def _give_up(self, group: Sequence[Waiting[T, R]], error: Exception) -> None:
        """Answer a group that failed and is not divided."""
        for waiting in group:
            self._answer(waiting, error)

    def _answer(self, waiting: Waiting[T, R], answer: R | Exception) -> None:
        if waiting.done.done():  # its caller was cancelled
            return
        if isinstance(answer, Exception):
            waiting.done.set_exception(answer)
        else:
            waiting.done.set_result(answer)


class Groups(Batches[T, R]):
    """Items that `write` writes. It returns a result for each, in order."""

    def __init__(
        self, write: Callable[[Sequence[T]], Awaitable[Sequence[R]]], name: str, *, most: int, limit: int
    ) -> None:
        super().__init__(name, most=most, limit=limit)
        self._write = write

    async def _try(self, group: Sequence[Waiting[T, R]]) -> Exception | None:
        try:
            answers = await self._write([waiting.item for waiting in group])
        except Exception as error:  # noqa: BLE001  (the callers must get it, whatever it is)
            return error
        for waiting, answer in zip(group, answers, strict=True):
            self._answer(waiting, answer)
        return None
