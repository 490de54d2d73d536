"""Running suspect turns in isolated processes; see `domain.ports.suspects` for which turns, and why."""

from dataclasses import dataclass
from functools import cached_property

from api.runtime.output import Output
from api.runtime.projector import stdout_descriptor
from api.runtime.subprocesses import SILENT_LEASES, Subprocess, SubprocessEnded
from domain.errors import StoreUnavailable
from domain.ids import ThreadId, Version
from domain.ports.log import Fence

MAX_CONNECTIONS = 4
"""Database connections of an isolated process."""

ISOLATED_STOP_LIMIT_S = 12.0
"""Seconds that an isolated process has to stop: five for the node to end, and the rest to hand its turn over."""


@dataclass
class IsolatedProcesses:
    """An `Isolation` by processes of `threadfold worker` on the database at `url`. `lease` is in seconds."""

    url: str
    lease: float

    @cached_property
    def _output(self) -> Output:
        return Output(stdout_descriptor(), self.lease / 2)

    async def run(self, thread_id: ThreadId, fence: Fence, *, convicted: Version | None = None) -> bool:
        """Run a turn in an isolated process. Raises `StoreUnavailable` if the process could not start."""
        arguments = ["worker", "--alone", str(thread_id), "--fence", f"{fence.shard}:{fence.epoch}"]
        child = Subprocess(
            f"turn of {thread_id} alone",
            [*arguments, *(["--convicted", str(convicted)] if convicted is not None else [])],
            {"DATABASE_URL": self.url, "MAX_CONNECTIONS": str(MAX_CONNECTIONS)},
            self._output,
            self.lease * SILENT_LEASES,
            stop_within=ISOLATED_STOP_LIMIT_S,
        )
        try:
            await child.run()
        except (SubprocessEnded, OSError) as error:
            if isinstance(error, SubprocessEnded):
                well = error.status == 0 and child.over  # user code may have ended it with status 0
                if well or child.ready.is_set():
                    return well
            raise StoreUnavailable(f"The turn of {thread_id} cannot run alone yet: {error}.") from error
        return True
