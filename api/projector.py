"""The projections of a worker's shards, in a process beside it.

They take about as much of a processor as the turns that they tell of. In a process of their own they take it of another
one, and no request waits for them. Who runs projections does not matter for what is right; see `projections.runner`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from api.children import keep
from domain.errors import StoreUnavailable
from domain.ids import Slice, WorkerId, slices_of
from domain.ports.leases import LeaseStore
from infrastructure.settings import Settings

LOOK = 1.0
"""Seconds between two looks at which shards the worker has."""

_log = logging.getLogger(__name__)


@dataclass
class Held:
    """The slices that another process's worker has, as they were a moment ago."""

    leases: LeaseStore
    worker: WorkerId
    _slices: Sequence[Slice] = field(init=False, default=())

    def slices(self) -> Sequence[Slice]:
        """Return them."""
        return self._slices

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Keep them up to date meanwhile."""
        await self._look()
        looking = asyncio.create_task(self._look_forever(), name="shards")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        mine = (row for row in await self.leases.workers() if row.id == self.worker)
        self._slices = [Slice(slice_) for row in mine for shard in row.shards for slice_ in slices_of(shard)]

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self._look()
            except StoreUnavailable as error:
                _log.debug("It is asked later which shards there are: %s", error)


async def project_beside(settings: Settings, url: str, worker: WorkerId) -> None:
    """Have a process run the projections of a worker's shards, in the database at `url`, until this is cancelled."""
    environment = {
        "DATABASE_URL": url,
        "MAX_CONNECTIONS": str(settings.max_connections),
        "PRICES": str(settings.prices),
        "LOG_LEVEL": settings.log_level,
    }
    await keep(["worker", "--projecting", str(worker)], environment)
