"""The calls of one attempt at a node that are under way, such as several questions to models at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

from domain.errors import InvalidInput, WaitsForPerson

T = TypeVar("T")

_within: ContextVar[bool] = ContextVar("within_call", default=False)
"""Whether the code runs within a call, such as in the function of a list."""


class CallsUnderWay:
    """Lets an attempt that waits for a person record what it has paid for before it ends.

    The attempt runs again from its beginning later. A call that is under way then goes on to its end, so that its
    answer is recorded. A further one does not start.
    """

    def __init__(self) -> None:
        self._count = 0
        self._end: asyncio.Event | None = None
        """Set once no call is under way. None as long as the attempt does not wait for a person."""

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work of a call. Raises `WaitsForPerson` if the attempt waits already."""
        if (end := self._end) is not None:
            await end.wait()  # an error would end the attempt at once
            raise WaitsForPerson
        self._count += 1
        token = _within.set(True)
        try:
            return await work()
        finally:
            _within.reset(token)
            self._count -= 1
            if not self._count and self._end is not None:
                self._end.set()

    def check_outside(self) -> None:
        """Raise `InvalidInput` within a call, such as in the function of a list: it would wait for its own end."""
        if _within.get():
            raise InvalidInput(
                "question", "a function of turn.map cannot wait for a person; ask before turn.map, or after it"
            )

    async def end(self) -> None:
        """Start no further call, and wait for those that are under way. Raises `InvalidInput` within one of them."""
        self.check_outside()
        if self._end is None:
            self._end = asyncio.Event()
            if not self._count:
                self._end.set()
        await self._end.wait()
