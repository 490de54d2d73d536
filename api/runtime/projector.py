"""Runs the projections of a worker's shards in a child process.

They use about as much of a processor as the turns do. In a process of their own they use another processor, and no
request waits for them. Correctness does not depend on which process runs them: see `projections.engine.runner`.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from api.runtime.output import Output
from api.runtime.subprocesses import SILENT_LEASES, Subprocess
from domain.application.background_tasks import BackgroundTasks
from domain.errors import StoreUnavailable
from domain.ids import Slice, WorkerId, slices_of
from domain.ports.leases import LeaseStore
from infrastructure.settings import Settings

SHARDS_POLL_S = 1.0
"""Seconds between two looks at which shards the worker holds."""

SILENCE_MIN_S = 30.0
"""Seconds without a heartbeat after which the process is killed, at least: its batches are long."""

STOP_LIMIT_S = 8.0
"""Seconds that it has to stop. What it has not written by then is written later, by any process."""

_log = logging.getLogger(__name__)


@dataclass
class Held:
    """The slices that a worker of another process holds, as of at most `SHARDS_POLL_S` ago."""

    leases: LeaseStore
    worker: WorkerId
    background: BackgroundTasks
    slices: Sequence[Slice] = field(init=False, default=())

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Keep the slices up to date while the context is open."""
        await self._look()
        async with self.background.running("shards", self._look_forever):
            yield

    async def _look(self) -> None:
        mine = (row for row in await self.leases.workers() if row.id == self.worker)
        self.slices = [Slice(slice_) for row in mine for shard in row.shards for slice_ in slices_of(shard)]

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(SHARDS_POLL_S)
            try:
                await self._look()
            except StoreUnavailable as error:
                _log.debug("The shards could not be read and will be read again: %s", error)


@asynccontextmanager
async def projected_beside(
    settings: Settings, url: str, worker: WorkerId, background: BackgroundTasks
) -> AsyncIterator[None]:
    """Run the projections of a worker's shards in a child process meanwhile. The database is at `url`."""
    environment = {
        "DATABASE_URL": url,
        "MAX_CONNECTIONS": str(settings.max_connections),
        "PRICES": str(settings.prices),
        "LOG_LEVEL": settings.log_level,
        "LEASE_SECONDS": str(settings.lease_seconds),
    }
    child = Subprocess(
        name="projector",
        arguments=["worker", "--projecting", str(worker)],
        environment=environment,
        output=Output(stdout_descriptor(), settings.lease_seconds / 2),
        silence=max(SILENT_LEASES * settings.lease_seconds, SILENCE_MIN_S),
        stop_within=STOP_LIMIT_S,
    )
    async with background.running("projector", child.run) as task:
        task.ailing = lambda: child.ailing
        yield


def stdout_descriptor() -> int | None:
    """Return the descriptor of this process's standard output; None if there is none."""
    try:
        return sys.stdout.fileno() if sys.stdout is not None else None
    except (OSError, ValueError):  # such as a test's
        return None
