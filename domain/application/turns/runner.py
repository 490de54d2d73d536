"""The turns that this process runs, each in a task: starting, stopping and handing over."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec import Struct

from domain.agents.agent import Agent
from domain.agents.error_text import error_text
from domain.agents.registry import Agents
from domain.application.thread_repository import LoadedThread
from domain.application.turns.run import TurnRun
from domain.application.turns.services import TurnServices
from domain.application.turns.turn_cause import causing_command
from domain.application.turns.turn_loop import TurnLoop
from domain.application.turns.user_code import CLEANUP_TIMEOUT_S, contain_tasks, where
from domain.ids import ThreadId, TurnId, Version
from domain.ports.log import Fence
from domain.thread.codec import Metadata
from domain.thread.state import Running

_log = logging.getLogger(__name__)

CRASH_PAUSE_S = 1.0
"""Seconds before this process resumes a turn whose task failed; they double with each further failure."""

MAX_CRASH_PAUSE_S = 60.0

SAVE_TIMEOUT_S = 2.0
"""Seconds that an abandoned turn has to store its staged reports."""

ABANDON_TIMEOUT_S = CLEANUP_TIMEOUT_S + SAVE_TIMEOUT_S + 1.0
"""Seconds after which nothing waits for an abandoned turn any longer."""


class CrashedTurn(Struct, frozen=True):
    """A turn whose task failed `times` times in this process, with an error that its nodes did not raise.

    This process does not resume it before `not_before`, a time of the event loop's clock.
    """

    turn_id: TurnId
    times: int
    not_before: float
    error: str


@dataclass
class TurnRunner:
    """Runs turns, each in a task of the event loop. Waiting for one is optional.

    `pause` is how many seconds a turn waits before it tries an unavailable store again. `fence` returns the fencing
    token under which a thread's turn appends; the worker that holds the leases sets it.
    """

    services: TurnServices
    agents: Mapping[str, Agent]
    pause: float = 2.0
    fence: Callable[[ThreadId], Fence | None] = lambda _: None
    crashed: dict[ThreadId, CrashedTurn] = field(default_factory=dict)
    """Turns whose task failed. They are resumed after a pause, never begun again."""
    _runs: dict[ThreadId, tuple[TurnRun, asyncio.Task[None]]] = field(default_factory=dict)
    _handing_over: bool = False
    _snapshots: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def known(self) -> Agents:
        """The agents that this process has, with their versions."""
        return Agents.of(self.agents)

    def open(self) -> None:
        """Run turns from now on, also after `close`."""
        self._handing_over = False

    def start(self, loaded: LoadedThread, metadata: Metadata) -> None:
        """Run a thread's turn in the background, from its current node. Does nothing if it runs here already."""
        state, thread_id = loaded.state, loaded.thread_id
        if not isinstance(state, Running):
            return
        turn_id = TurnId(state.turn.turn_id)
        if self.runs(thread_id) == turn_id:
            return
        contain_tasks()
        # The task of the turn before may still be ending: a turn's end is stored before its task returns.
        run = TurnRun(self.services, loaded, metadata, self.fence)
        task = asyncio.create_task(self._run_all(run), name=f"turn {turn_id}")
        self._runs[thread_id] = (run, task)
        task.add_done_callback(lambda done: self._task_ended(thread_id, turn_id, done))

    async def run(self, loaded: LoadedThread, metadata: Metadata) -> LoadedThread:
        """Run a turn until it ends, waits, or another process continues it. Returns the thread as it is then."""
        if not isinstance(loaded.state, Running):
            return loaded
        contain_tasks()
        run = TurnRun(self.services, loaded, metadata, self.fence)
        try:
            await self._loop(run).steps()
        finally:
            run.close()
        return run.loaded

    async def wait(self, thread_id: ThreadId, turn_id: TurnId | None = None) -> None:
        """Wait until this process does not run the thread's turn `turn_id` (None: any turn)."""
        while (running := self._runs.get(thread_id)) and turn_id in {None, running[0].turn_id}:
            await asyncio.wait([running[1]])
            await asyncio.sleep(0)

    def runs(self, thread_id: ThreadId) -> TurnId | None:
        """Return the turn of the thread that this process runs."""
        running = self._runs.get(thread_id)
        return running[0].turn_id if running else None

    async def settled(self, thread_id: ThreadId) -> None:
        """Wait until a turn that has answered before its events were stored is stored."""
        running = self._runs.get(thread_id)
        if running and running[0].answered.is_set():
            await self.wait(thread_id, running[0].turn_id)

    def answering(self, thread_id: ThreadId, turn_id: TurnId) -> TurnRun | None:
        """Return the run of a turn if it runs here and answers before its events are stored."""
        running = self._runs.get(thread_id)
        run = running[0] if running else None
        return run if run and run.turn_id == turn_id and run.durability == "async" else None

    def running(self) -> Mapping[ThreadId, Version]:
        """Return the threads whose turns this process runs, with the last version that each run knows."""
        return {thread_id: run.loaded.head.version for thread_id, (run, _) in self._runs.items()}

    async def stop_if_cancelled(self, thread_id: ThreadId) -> None:
        """Stop the thread's turn, if it runs here and the log says that it is to be cancelled."""
        if running := self._runs.get(thread_id):
            run = running[0]
            state = (await self.services.repository.load(thread_id, run.loaded.tenant)).state
            if isinstance(state, Running) and state.turn.turn_id == run.turn_id and state.turn.cancelling:
                run.stop()

    async def abandon(self, thread_id: ThreadId) -> None:
        """Stop running a thread's turn at once: another process continues it.

        The running code is cancelled, and has some seconds to end. Returns after `ABANDON_TIMEOUT_S` at the latest.
        """
        if running := self._runs.get(thread_id):
            await self._abandon_all({thread_id: running})

    async def close(self, grace: float = 5.0, *, hand_over: bool = False) -> None:
        """Give running turns `grace` seconds to end (`hand_over`: to end their current nodes), then abandon them.

        Abandoned turns continue later, or in another process, at their current node. Returns at the latest
        `ABANDON_TIMEOUT_S` seconds after `grace`.
        """
        self._handing_over = hand_over
        running = dict(self._runs)
        if running:
            await asyncio.wait([task for _, task in running.values()], timeout=grace)
        await self._abandon_all(running)
        if self._snapshots:
            _, pending = await asyncio.wait(self._snapshots, timeout=SAVE_TIMEOUT_S)
            for task in pending:
                task.cancel()

    async def _abandon_all(self, running: Mapping[ThreadId, tuple[TurnRun, asyncio.Task[None]]]) -> None:
        """Cancel turns, and wait for their tasks, for a limited time."""
        tasks = [task for _, task in running.values() if not task.done()]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=ABANDON_TIMEOUT_S)
        for thread_id, (run, task) in running.items():
            if task in pending:
                _log.error("The turn of %s does not end; nothing waits for it any longer: %s", thread_id, where(task))
                run.close()
                if self._runs.get(thread_id) == (run, task):
                    del self._runs[thread_id]

    def _loop(self, run: TurnRun) -> TurnLoop:
        return TurnLoop(run, self.known, self.pause, lambda: self._handing_over)

    async def _run_all(self, run: TurnRun) -> None:
        """Run a turn, and then the turns that were queued behind it."""
        thread_id = run.thread_id
        while True:
            try:
                ours = await self._loop(run).steps()
            except asyncio.CancelledError:
                with suppress(Exception):  # then the staged reports are lost, as in a crash
                    async with asyncio.timeout(SAVE_TIMEOUT_S):
                        await run.note_calls()
                        await run.save()
                raise
            finally:
                run.close()
            self._snapshot(run.loaded)
            state = run.loaded.state
            if not ours or not isinstance(state, Running) or state.turn.turn_id == run.turn_id:
                return
            metadata = await causing_command(self.services.repository, run.loaded)
            run = TurnRun(self.services, run.loaded, metadata, self.fence)
            self._runs[thread_id] = (run, self._runs[thread_id][1])

    def _snapshot(self, loaded: LoadedThread) -> None:
        """Write a snapshot in a task of its own, if one is due: a caller that waits for the turn does not wait for it.

        A snapshot that cannot be written is logged and skipped.
        """
        if not self.services.repository.is_snapshot_due(loaded):
            return
        name = f"snapshot of {loaded.thread_id}"
        snapshot = asyncio.create_task(self.services.repository.save_snapshot(loaded), name=name)
        self._snapshots.add(snapshot)
        snapshot.add_done_callback(self._snapshot_done)

    def _snapshot_done(self, task: asyncio.Task[None]) -> None:
        self._snapshots.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("The %s was not written: %r. Only the next load is slower.", task.get_name(), error)

    def _task_ended(self, thread_id: ThreadId, turn_id: TurnId, task: asyncio.Task[None]) -> None:
        if (running := self._runs.get(thread_id)) and running[1] is task:
            del self._runs[thread_id]
        error = None if task.cancelled() else task.exception()
        if error is None:
            self.crashed.pop(thread_id, None)
            return
        before = self.crashed.get(thread_id)
        times = before.times + 1 if before and before.turn_id == turn_id else 1
        pause = min(CRASH_PAUSE_S * 2 ** (times - 1), MAX_CRASH_PAUSE_S)
        self.crashed[thread_id] = CrashedTurn(
            turn_id, times, asyncio.get_running_loop().time() + pause, error_text(error)
        )
        _log.error("The turn of %s failed here and is resumed in %g s: %r", thread_id, pause, error, exc_info=error)
