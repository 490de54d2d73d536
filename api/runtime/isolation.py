"""Running turns in processes of their own; see `domain.ports.suspects` for which turns, and why."""

from dataclasses import dataclass
from functools import cached_property

from api.runtime.output import Output
from api.runtime.projector import stdout_descriptor
from api.runtime.subprocesses import SILENT_LEASES, Subprocess, SubprocessEnded
from domain.errors import StoreUnavailable
from domain.ids import ThreadId, Version
from domain.ports.log import Fence

CONNECTIONS = 4
"""Connections to the database that such a process may have."""

ALONE_STOP_LIMIT_S = 12.0
"""Seconds that such a process has to hand its turn over: its node may end within five of them."""


@dataclass
class IsolatedProcesses:
    """An `Isolation` by processes of `threadfold worker`, on the database at `url`. `lease` is in seconds."""

    url: str
    lease: float

    @cached_property
    def _output(self) -> Output:
        return Output(stdout_descriptor(), self.lease / 2)

    async def run(self, thread_id: ThreadId, fence: Fence, *, convicted: Version | None = None) -> bool:
        """Run a turn in a process of its own. Raises `StoreUnavailable` if the process could not start."""
        arguments = ["worker", "--alone", str(thread_id), "--fence", f"{fence.shard}:{fence.epoch}"]
        child = Subprocess(
            f"turn of {thread_id} alone",
            [*arguments, *(["--convicted", str(convicted)] if convicted is not None else [])],
            {"DATABASE_URL": self.url, "MAX_CONNECTIONS": str(CONNECTIONS)},
            self._output,
            self.lease * SILENT_LEASES,
            stop_within=ALONE_STOP_LIMIT_S,
        )
        try:
            await child.run()
        except SubprocessEnded as ended:
            well = ended.status == 0 and child.over  # user code may have ended it with status 0
            if not well and not child.ready.is_set():
                raise StoreUnavailable(f"The turn of {thread_id} cannot run alone yet: {ended}.") from ended
            return well
        except OSError as error:
            raise StoreUnavailable(f"The turn of {thread_id} cannot run alone yet: {error}.") from error
        return True
