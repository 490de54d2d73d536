"""Suspects: turns that may have crashed the process that ran them.

A crash is counted for every turn in the shards of the dead process, because the culprit is unknown. So such a count
never fails a turn. It only isolates it: after `MAX_SHARED_CRASHES` the turn runs in a process of its own. If that
process crashes as well, the turn is the only suspect.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from msgspec import Struct

from domain.ids import START, Shard, ThreadId, Version

MAX_SHARED_CRASHES = 2
"""Crashes of shared processes after which a turn runs alone."""

MAX_LONE_CRASHES = 2
"""Crashes of its own process after which a turn fails. One may be an accident."""


class Suspect(Struct, frozen=True):
    """Crashes of processes that could have run a thread's turn: shared ones (`crashes`), and its own (`alone`).

    `version` is the thread's version at the last crash: a turn that began after it is another one, and no suspect.
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
        """Whether the turn has to fail."""
        return self.alone >= MAX_LONE_CRASHES


class Suspects(Protocol):
    """Counts crashes, until a turn has ended or waits. Does not load the threads."""

    async def of(self, shards: Collection[Shard], threads: Collection[ThreadId] = ()) -> Mapping[ThreadId, Suspect]:
        """Return the suspects of some shards, and among some other threads. Forgets those that have nothing to run."""

    async def crashed_alone(self, thread_id: ThreadId) -> Suspect:
        """Count a crash of a process that ran only this thread's turn."""

    async def cleared(self, thread_id: ThreadId) -> None:
        """Forget a thread's crashes: its turn has run alone until it had nothing to run."""
