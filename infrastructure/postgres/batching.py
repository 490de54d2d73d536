"""Group commit for small rows: items are written by one statement, in one transaction.

Without delay: a group is whatever was queued while the group before was being written.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from domain.errors import Overloaded, StoreUnavailable
from infrastructure.postgres.failures import is_worth_dividing

T = TypeVar("T")
R = TypeVar("R")


class _Waiting(Struct, Generic[T, R], eq=False):
    item: T
    done: asyncio.Future[R]


class Groups(Generic[T, R]):
    """Writes items in groups of at most `most`, one group at a time. At most `limit` items wait; more are refused."""

    def __init__(
        self, write: Callable[[Sequence[T]], Awaitable[Sequence[R]]], name: str, *, most: int, limit: int
    ) -> None:
        """Write groups with `write`, which returns a result for each item, in order. An invalid item fails alone."""
        self._write = write
        self._name = name
        self._most = most
        self._limit = limit
        self._queue: deque[_Waiting[T, R]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def put(self, item: T) -> R:
        """Write an item, in a group with others. Raises `Overloaded`, and what `write` raises."""
        if len(self._queue) >= self._limit:
            raise Overloaded
        waiting = _Waiting[T, R](item, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name=self._name)
        return await waiting.done

    async def close(self) -> None:
        """Wait until every item is written or refused."""
        if self._writing is not None:
            await self._writing

    async def _write_all(self) -> None:
        try:
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
                try:
                    await self._write_group(group)
                except Exception as error:  # noqa: BLE001  (a defect: the callers must not wait for ever)
                    _refuse(group, error)
        finally:
            self._writing = None

    async def _write_group(self, group: Sequence[_Waiting[T, R]]) -> None:
        error = await self._try(group)
        if error is not None:
            await self._divide(group, error)

    async def _try(self, group: Sequence[_Waiting[T, R]]) -> Exception | None:
        """Write a group. Returns the error that failed it as a whole: then its callers still wait."""
        try:
            answers = await self._write([waiting.item for waiting in group])
        except Exception as error:  # noqa: BLE001  (the callers must get it, whatever it is)
            return error
        _answer(group, answers)
        return None

    async def _divide(self, group: Sequence[_Waiting[T, R]], error: Exception) -> None:
        """Write the halves of a failed group, to find the item that cannot be written. It fails alone.

        If both halves meet an unavailable store, they are not divided further.
        """
        parts = halves(group) if len(group) > 1 and is_worth_dividing(error) else ()
        failed = [(part, found) for part in parts if (found := await self._try(part)) is not None]
        if len(failed) < len(parts) or any(not isinstance(found, StoreUnavailable) for _, found in failed):
            for part, found in failed:
                await self._divide(part, found)
        else:
            _refuse(group, error)


def halves(group: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Divide a group of at least two."""
    half = len(group) // 2
    return group[:half], group[half:]


def _answer(group: Sequence[_Waiting[T, R]], answers: Sequence[R]) -> None:
    for waiting, answer in zip(group, answers, strict=True):
        if not waiting.done.done():  # its caller was cancelled
            waiting.done.set_result(answer)


def _refuse(group: Sequence[_Waiting[T, R]], error: Exception) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(error)
