"""The calls of one attempt at a node that are under way, such as several questions to models at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from domain.errors import InvalidInput, WaitsForPerson

_within: ContextVar[bool] = ContextVar("within_call", default=False)
"""Whether the code runs within a call, such as in the function of a list."""


class CallsUnderWay:
    """Lets an attempt that waits for a person record what it has paid for before it ends.

    The attempt runs again from its beginning later. A call that is under way then goes on to its end, so that its
    answer is recorded. A further one does not start.
    """

    def __init__(self) -> None:
        self._count = 0
        self._waits = False
        self._none = asyncio.Event()
        self._none.set()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Count a call while the block runs. Raises `WaitsForPerson` if the attempt waits already."""
        if self._waits:
            await self._none.wait()  # an error would end the attempt at once
            raise WaitsForPerson
        self._count += 1
        self._none.clear()
        token = _within.set(True)
        try:
            yield
        finally:
            _within.reset(token)
            self._count -= 1
            if not self._count:
                self._none.set()

    def check_outside(self) -> None:
        """Raise `InvalidInput` within a call, such as in the function of a list: it would wait for its own end."""
        if _within.get():
            raise InvalidInput(
                "question", "a function of turn.map cannot wait for a person; ask before turn.map, or after it"
            )

    async def end(self) -> None:
        """Start no further call, and wait for those that are under way. Raises `InvalidInput` within one of them."""
        self.check_outside()
        self._waits = True
        await self._none.wait()
