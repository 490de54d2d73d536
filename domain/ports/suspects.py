"""Turns that may have ended the process that ran them.

A crash is counted for all turns of the shards that the dead process had: it is not known which of them did it. So a
count alone never fails a turn. A turn with `MAX_SHARED_CRASHES` runs in a process of its own from then on; if that
process dies as well, the turn was alone.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from msgspec import Struct

from domain.ids import START, Shard, ThreadId, Version

MAX_SHARED_CRASHES = 2
"""Crashes beside other turns after which a turn runs alone."""

MAX_LONE_CRASHES = 2
"""Crashes of a process that ran nothing else after which a turn fails. One may be an accident."""


class Suspect(Struct, frozen=True):
    """How often a process ended while a thread's turn could run in it: beside others, and `alone`.

    `version` is the thread's at the last crash: a turn that began after it is another one, and not to blame.
    """

    crashes: int = 0
    alone: int = 0
    version: Version = START

    @property
    def isolated(self) -> bool:
        """Whether the turn runs alone from now on."""
        return self.alone > 0 or self.crashes >= MAX_SHARED_CRASHES

    @property
    def convicted(self) -> bool:
        """Whether the turn is to fail."""
        return self.alone >= MAX_LONE_CRASHES


class Suspects(Protocol):
    """Counts crashes until a turn has ended, or waits. They are counted without loading the thread."""

    async def of(self, shards: Collection[Shard], threads: Collection[ThreadId] = ()) -> Mapping[ThreadId, Suspect]:
        """Return the suspects of some shards, and of some other threads; forget those that have nothing to run."""

    async def crashed_alone(self, thread_id: ThreadId) -> Suspect:
        """Count a crash of the process that ran this thread's turn and nothing else."""

    async def cleared(self, thread_id: ThreadId) -> None:
        """Forget a thread's crashes: its turn has run alone to where it has nothing to run."""
