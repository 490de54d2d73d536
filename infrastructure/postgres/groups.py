"""What comes at once goes into one statement and one commit.

Nothing waits for company: a group is what came while the one before was written.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import asyncpg
from msgspec import Struct

from domain.errors import Overloaded

T = TypeVar("T")
R = TypeVar("R")


class _Waiting(Struct, Generic[T, R], eq=False):
    item: T
    done: asyncio.Future[R]


class Groups(Generic[T, R]):
    """Writes items in groups of at most `most`, one group after the other. More than `limit` that wait are refused."""

    def __init__(
        self, write: Callable[[Sequence[T]], Awaitable[Sequence[R]]], name: str, *, most: int, limit: int
    ) -> None:
        """Write a group by `write`, which answers for each item in its order. Bad values are refused alone."""
        self._write = write
        self._name = name
        self._most = most
        self._limit = limit
        self._queue: deque[_Waiting[T, R]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def put(self, item: T) -> R:
        """Write an item with those that come at the same time. Raises `Overloaded`, and whatever writing raises."""
        if len(self._queue) >= self._limit:
            raise Overloaded
        waiting = _Waiting[T, R](item, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name=self._name)
        return await waiting.done

    async def close(self) -> None:
        """Wait until everything is written or refused."""
        if self._writing is not None:
            await self._writing

    async def _write_all(self) -> None:
        while self._queue:
            group = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
            await self._write_group(group)
        self._writing = None

    async def _write_group(self, group: Sequence[_Waiting[T, R]]) -> None:
        try:
            answers = await self._write([waiting.item for waiting in group])
        except asyncpg.DataError as error:  # a value that does not fit, and nothing is stored
            if len(group) == 1:
                _refuse(group, error)
                return
            for waiting in group:
                await self._write_group([waiting])
        except Exception as error:  # noqa: BLE001  (whatever it is, those who wait must know)
            _refuse(group, error)
        else:
            _answer(group, answers)


def _answer(group: Sequence[_Waiting[T, R]], answers: Sequence[R]) -> None:
    for waiting, answer in zip(group, answers, strict=True):
        if not waiting.done.done():  # its caller was cancelled
            waiting.done.set_result(answer)


def _refuse(group: Sequence[_Waiting[T, R]], error: Exception) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(error)
