"""Turns that may have crashed their process: each runs in a process of its own. See `domain.ports.suspects`."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from domain.errors import StoreUnavailable
from domain.ids import Shard, ThreadId
from domain.ports.isolation import Isolation
from domain.ports.log import Fence
from domain.ports.suspects import MAX_LONE_CRASHES, Suspect, Suspects

_log = logging.getLogger(__name__)

MAX_LONE_PROCESSES = 4
"""Turns that run in processes of their own at the same time."""

LONE_RETRY_S = 5.0
"""Seconds before an isolated turn is tried again after its process crashed, at most."""


@dataclass
class LoneTurns:
    """The suspects of one worker, and the processes that run them.

    `fence` returns a thread's fencing token; `may_run` says whether this worker still holds the thread's lease.
    Without `isolation`, suspects run in the worker's process.
    """

    suspects: Suspects
    isolation: Isolation | None
    fence: Callable[[ThreadId], Fence]
    may_run: Callable[[ThreadId], bool]
    retry_s: float
    """Seconds before an isolated turn is tried again."""
    suspected: Mapping[ThreadId, Suspect] = field(init=False, default_factory=dict)
    running: dict[ThreadId, asyncio.Task[None]] = field(init=False, default_factory=dict)
    given_up: set[ThreadId] = field(init=False, default_factory=set)
    """Threads where even failing the turn crashes a process. This worker leaves them alone."""
    _slots: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(MAX_LONE_PROCESSES))

    async def refresh(self, shards: Collection[Shard], borrowed: Collection[ThreadId]) -> None:
        """Read the suspects of some shards, and of borrowed threads."""
        self.suspected = await self.suspects.of(shards, borrowed)
        self.given_up &= self.suspected.keys()

    def has_to_run_alone(self, thread_id: ThreadId) -> bool:
        """Say whether the thread's turn has crashed too many processes to run in this one."""
        suspect = self.suspected.get(thread_id)
        return suspect is not None and suspect.isolated and self.isolation is not None

    def start(self, thread_id: ThreadId) -> None:
        """Run a suspect in a process of its own, unless this worker has given it up. Needs `has_to_run_alone`."""
        if self.isolation is None or thread_id in self.given_up:
            return
        work = self._run(self.isolation, thread_id, self.suspected[thread_id])
        task = self.running[thread_id] = asyncio.create_task(work, name=f"turn of {thread_id} alone")
        task.add_done_callback(lambda done: self._ended(thread_id, done))

    async def stop(self, thread_id: ThreadId) -> None:
        """Hand the thread's turn over, if it runs in a process of its own."""
        if task := self.running.get(thread_id):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _ended(self, thread_id: ThreadId, task: asyncio.Task[None]) -> None:
        self.running.pop(thread_id, None)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("The turn of %s could not run alone, and is tried again: %r", thread_id, error)

    async def _run(self, isolation: Isolation, thread_id: ThreadId, suspect: Suspect) -> None:
        """Run a suspect in a process of its own until it has nothing to run, or fail it after too many crashes."""
        while self.may_run(thread_id):
            async with self._slots:
                if not self.may_run(thread_id):  # the lease was lost while other turns had the slots
                    return
                _log.warning("The turn of %s runs alone after %d crashes", thread_id, suspect.crashes + suspect.alone)
                convicted = suspect.version if suspect.convicted else None
                ended_well = await isolation.run(thread_id, self.fence(thread_id), convicted=convicted)
            if ended_well:
                await self.suspects.cleared(thread_id)
                self.suspected = {id_: other for id_, other in self.suspected.items() if id_ != thread_id}
                return
            suspect = await self._count_crash(thread_id)
            if suspect.alone > MAX_LONE_CRASHES:
                self.given_up.add(thread_id)
                _log.error(
                    "The turn of %s crashes every process, even one that only has to fail it. It stays as it is until "
                    "this worker is restarted.",
                    thread_id,
                )
                return
            await asyncio.sleep(min(LONE_RETRY_S, self.retry_s))

    async def _count_crash(self, thread_id: ThreadId) -> Suspect:
        """Count a crash of a process that ran one turn only. Retries until it is stored: only this worker knows it."""
        while True:
            try:
                return await self.suspects.crashed_alone(thread_id)
            except StoreUnavailable:
                await asyncio.sleep(LONE_RETRY_S)
