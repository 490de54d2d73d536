"""Threads that this worker cannot run are lent to a worker that can, and this worker borrows others'.

It cannot if it does not know the thread's agent, or lacks the version or the node of the agent that the turn needs.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from domain.application.turns.shard_leases import Shards
from domain.ids import Tenant, ThreadId, WorkerId, shard_of, slice_of
from domain.ports.leases import WorkerRow
from domain.ports.loans import Loan, Loans
from domain.ports.log import Fence
from domain.ports.wakeups import Lent


class _Foreign(Struct, frozen=True):
    """A thread whose turn this worker cannot run, and the worker that borrows it, if there is one.

    `need` is what a borrower has to announce: the agent's name or, if `of_turn`, what only the turn in progress needs.
    """

    need: str
    of_turn: bool
    lent_at: float
    worker: WorkerId | None = None
    fresh: bool = True
    """Found since the current search of the log began."""


@dataclass
class Lending:
    """The loans of one worker, in both directions."""

    shards: Shards
    loans: Loans
    borrowed: dict[ThreadId, Fence] = field(init=False, default_factory=dict)
    """The threads of other workers that this one may run, with the fencing tokens of their owners."""
    _foreign: dict[ThreadId, _Foreign] = field(init=False, default_factory=dict)
    """The threads of this worker's shards whose turns it cannot run."""
    _found: set[ThreadId] = field(init=False, default_factory=set)
    """Those of them that the current search of the log has found."""
    _workers: Sequence[WorkerRow] = field(init=False, default=())
    """The workers that were alive at the last refresh."""

    def fence(self, thread_id: ThreadId) -> Fence:
        """Return the fencing token under which the thread's turns run here."""
        if thread_id in self.borrowed and shard_of(slice_of(thread_id)) not in self.shards.held():
            return self.borrowed[thread_id]
        return self.shards.fence(thread_id)

    def foreign_agent(self, thread_id: ThreadId) -> str | None:
        """Return the thread's agent if this worker has found that it does not know it."""
        foreign = self._foreign.get(thread_id)
        return foreign.need if foreign and not foreign.of_turn else None

    def is_due(self, thread_id: ThreadId) -> bool:
        """Say whether the thread is to be taken up, or lent once more.

        A loan may have ended, or its wake-up been lost. So it is repeated, but not at every tick.
        """
        foreign = self._foreign.get(thread_id)
        return foreign is None or _now() - foreign.lent_at > self.shards.lease

    async def refresh(self) -> Mapping[ThreadId, Loan]:
        """Read which workers are alive. Returns what is lent to this worker; `borrowed` is not changed yet."""
        self._workers = await self.shards.leases.workers()
        return {loan.thread_id: loan for loan in await self.loans.lent_to(self.shards.id)}

    def borrow(self, lent: Mapping[ThreadId, Loan]) -> Collection[ThreadId]:
        """Replace `borrowed` by what is lent now. Returns the threads whose loans have ended."""
        ended = [
            thread_id
            for thread_id, fence in self.borrowed.items()
            if thread_id not in lent or lent[thread_id].fence != fence
        ]
        self.borrowed = {thread_id: loan.fence for thread_id, loan in lent.items()}
        return ended

    async def give_back(self, thread_id: ThreadId) -> None:
        """End a loan to this worker: the thread has nothing to run."""
        del self.borrowed[thread_id]
        await self.loans.give_back(self.shards.id, thread_id)

    def review(self) -> None:
        """Forget threads of other workers' shards, and those that another worker can now be asked for."""
        alive = {row.id for row in self._workers}
        known = self.announced()
        for thread_id, foreign in list(self._foreign.items()):
            again = foreign.worker not in alive if foreign.worker else foreign.need in known
            if again or not self.shards.hold(thread_id):
                del self._foreign[thread_id]

    def note_runnable(self, threads: Iterable[ThreadId], *, first: bool) -> None:
        """Note one page of the threads that have something to run. A thread on no page of a search has nothing.

        `first`: a new search of the log begins with this page.
        """
        if first:
            self._foreign = {
                thread_id: replace(foreign, fresh=False)
                for thread_id, foreign in self._foreign.items()
                if thread_id in self._found or foreign.fresh
            }
            self._found = set()
        self._found |= self._foreign.keys() & set(threads)

    def announced(self) -> Collection[str]:
        """Return what the live workers announced at the last refresh: see `Agents.announced`."""
        return {name for row in self._workers for name in row.agents}

    def can_lend(self, need: str) -> bool:
        """Say whether another worker announces what a turn needs."""
        return any(need in row.agents for row in self._workers if row.id != self.shards.id)

    async def lend(self, thread_id: ThreadId, tenant: Tenant, need: str, *, of_turn: bool = False) -> bool:
        """Lend a thread to a worker that announces `need`: an agent or, if `of_turn`, what only this turn needs.

        Returns False if there is no such worker: the thread waits.
        """
        knowing = [row.id for row in self._workers if need in row.agents and row.id != self.shards.id]
        before = self._foreign.get(thread_id)
        worker = before.worker if before and before.worker in knowing else None  # a turn may run there
        if worker is None and knowing and self.shards.hold(thread_id):
            worker = knowing[slice_of(thread_id) % len(knowing)]
        self._foreign[thread_id] = _Foreign(need, of_turn, _now(), worker)
        if worker is not None:
            await self.loans.lend(Loan(thread_id, tenant, self.shards.fence(thread_id), worker))
            self.shards.wakeups.send(Lent(worker))
        return bool(knowing)


def _now() -> float:
    return asyncio.get_running_loop().time()
