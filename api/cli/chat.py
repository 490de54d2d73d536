"""`threadfold chat`."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from uuid import UUID

import click

from api.bodies import DEFAULT_GRAPH
from api.cli.output import counted, moment
from api.cli.running import PROBLEM, connected, explained, log_to_stderr, model_of, place_of
from api.cli.screen import Screen
from api.runtime import open_runtime
from api.service import Caller, Service, started_turn
from domain.application.recover import caused_by, recover_thread
from domain.application.signals import Signal
from domain.codec import Recorded
from domain.errors import InvalidInput, ThreadfoldError
from domain.events import TurnCompleted, TurnFailed
from domain.ids import TurnId, Version
from domain.state import Running
from infrastructure.settings import Settings, load_settings

with suppress(ImportError):
    import readline  # noqa: F401  (gives input() editing and a history)

_log = logging.getLogger(__name__)

PROMPT = "> "
GLANCE = 0.5
"""Seconds without a signal after which the log is asked, for events whose signals were lost or are elsewhere."""

LOOK = 5.0
"""Seconds between two looks whether another process's turn is lost."""

INTERRUPTED = 130
"""The exit status of what a Ctrl-C has ended, by custom."""


@click.command()
@click.option("--graph", help=f"The agent to talk to.  [default: {DEFAULT_GRAPH}]")
@click.option("--thread", type=click.UUID, help="Go on with this thread.")
def chat(*, graph: str | None, thread: UUID | None) -> None:
    """Talk to an agent here, without a server. Each line is a message; /exit or Ctrl-D leaves.

    Lines may also come through a pipe. Then the exit status is 1 if a turn failed.
    """
    with explained(), asyncio.Runner() as runner:
        settings = load_settings()
        log_to_stderr("error", tracebacks=False)
        logging.getLogger("domain.application.turns").setLevel(logging.CRITICAL)  # the screen tells how turns fare
        stack = AsyncExitStack()
        try:
            talk = runner.run(_begin(stack, settings, graph, thread))
            status = _converse(runner, talk)
        finally:
            runner.run(stack.aclose())
    raise SystemExit(status)


async def _begin(stack: AsyncExitStack, settings: Settings, graph: str | None, thread: UUID | None) -> "Talk":
    runtime = await stack.enter_async_context(connected(settings, open_runtime(settings)))
    talk = Talk(Service(runtime), graph, thread)
    await talk.greet()
    return talk


def _converse(runner: asyncio.Runner, talk: "Talk") -> int:
    """Take lines until there are no more. The event loop runs while the agent does; in between, we wait for input."""
    failed = False
    try:
        runner.run(talk.see_out_running_turn())
        for line in _lines():
            try:
                failed = not runner.run(talk.say(line)) or failed
            except ThreadfoldError as error:
                talk.screen.complain(str(error))
                failed = True
    except KeyboardInterrupt:
        _leave(runner, talk)
        return INTERRUPTED
    return PROBLEM if failed and not sys.stdin.isatty() else 0


def _lines() -> Iterator[str]:
    """Yield what the user says, line by line, up to the end of input or `/exit`."""
    asking = sys.stdin.isatty()
    while True:
        try:
            line = input(PROMPT) if asking else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if line.strip() == "/exit" or not (line or asking):
            return
        if line.strip():
            yield line.strip()


def _leave(runner: asyncio.Runner, talk: "Talk") -> None:
    """Leave a turn that runs: it may end now, or later."""
    talk.screen.note("Leaving. What is running has 5 s to end; Ctrl-C again does not wait.")
    try:
        runner.run(talk.leave())
    except KeyboardInterrupt:
        runner.run(talk.leave(grace=0.0))


class Talk:
    """A conversation in one thread, with this process as the one that runs its turns."""

    def __init__(self, service: Service, graph: str | None, thread: UUID | None) -> None:
        """Talk in a thread that there is, or in a new one."""
        self.screen = Screen()
        self._service = service
        self._runtime = service.runtime
        self._graph = graph
        self._new = thread is None
        self._caller = Caller()
        self._thread_id = service.thread_id(thread, self._caller)
        self._turn: TurnId | None = None
        self._alone_since = self._runtime.alone_since

    async def greet(self) -> None:
        """Check that there is such a thread or agent, and say where we are."""
        settings = self._runtime.settings
        if self._new:
            agent, story = self._service.agent(self._graph or DEFAULT_GRAPH), "new"
        else:
            loaded = await self._service.existing(self._thread_id, self._caller)
            thread = loaded.state.thread  # type: ignore[union-attr]  # it exists, so it was opened
            if self._graph not in {None, thread.graph}:
                raise InvalidInput("graph", f"the thread belongs to {thread.graph!r}")
            agent = self._service.agent(thread.graph)
            story = f"{counted(thread.turns, 'turn')}, last event at {moment(loaded.head.at)} UTC"
        self._graph = agent.name
        self.screen.note(f"Thread {self._thread_id} ({story}), agent {agent.name}")
        self.screen.note(f"Model: {model_of(settings)}. Data in {place_of(settings)}. /exit or Ctrl-D leaves.")

    async def say(self, text: str) -> bool:
        """Say something and show what comes of it, until the turn is over. Return whether it ended well."""
        await self.see_out_running_turn()
        with self._runtime.turns.means.signals.watch(self._thread_id) as queue:
            outcome = await self._service.start_turn(self._thread_id, text, self._caller, open_with=self._graph)
            self._turn = started_turn(outcome)
            return await self._follow(queue, outcome.loaded.head.version, ours=True)

    async def leave(self, grace: float = 5.0) -> None:
        """Let the turn that runs end if it can, and say how it stands."""
        await self._runtime.turns.close(grace)
        loaded = await self._runtime.journal.load(self._thread_id, self._caller.tenant)
        again = f"threadfold chat --thread {self._thread_id}"
        if isinstance(loaded.state, Running):
            self.screen.note(
                f"The turn goes on later, at its node {loaded.state.turn.node}: in a server, or in {again}"
            )
        elif loaded.head.version:
            self.screen.note(f"The turn has ended; the thread has all of it: {again}")

    async def see_out_running_turn(self) -> None:
        """Let a turn that is under way come to its end first: take up one that stopped here, wait for another's."""
        alone_since, self._alone_since = self._alone_since, None  # later on, others may have come and taken it up
        loaded = await self._runtime.journal.load(self._thread_id, self._caller.tenant)
        if not isinstance(loaded.state, Running):
            return
        turn, turns = loaded.state.turn, self._runtime.turns
        with turns.means.signals.watch(self._thread_id) as queue:
            if turn.turn_id == self._turn:
                self.screen.note(f"The turn before goes on, at its node {turn.node}.")
                begun = await self._runtime.journal.history(self._thread_id, Version(turn.started - 1), turn.started)
                turns.start(loaded, caused_by(begun[0].metadata))
                await self._follow(queue, loaded.head.version, ours=True)
                return
            self.screen.note(
                f"A turn is at its node {turn.node} since {moment(loaded.head.at)} UTC. It is shown as it goes on; if "
                "its process is gone, it is taken up here when the node's time is over at the latest. Ctrl-C leaves."
            )
            looking = asyncio.create_task(self._take_up_when_lost(alone_since))
            try:
                await self._follow(queue, loaded.head.version, ours=False)
            finally:
                looking.cancel()
                with suppress(asyncio.CancelledError):
                    await looking

    async def _take_up_when_lost(self, alone_since: datetime | None) -> None:
        """Look, again and again, whether this thread's turn has lost its process. No other thread is looked at."""
        turns, clock = self._runtime.turns, self._runtime.clock
        while True:
            try:
                await recover_thread(turns, clock, self._thread_id, self._caller.tenant, lost_before=alone_since)
                alone_since = None
            except Exception:  # noqa: BLE001  (a database that is away for a while is no reason to stop looking)
                _log.exception("Could not look for the lost turn")
            await asyncio.sleep(LOOK)

    async def _follow(self, queue: asyncio.Queue[Signal], seen: Version, *, ours: bool) -> bool:
        """Show what happens after a version until the turn is over. Return whether it ended well."""
        turns = self._runtime.turns
        async with contextlib.aclosing(self._happenings(queue, seen)) as happenings:
            async for signal in happenings:
                if signal is None and ours and not turns.runs(self._thread_id):
                    self.screen.complain("The turn stopped before its end. It goes on ahead of your next message.")
                    return False
                if signal is None:
                    continue
                self.screen.show(signal)
                if isinstance(signal, Recorded) and isinstance(signal.event, TurnCompleted | TurnFailed):
                    await turns.wait(self._thread_id)
                    return isinstance(signal.event, TurnCompleted)
        raise AssertionError("happenings never end")

    async def _happenings(self, queue: asyncio.Queue[Signal], seen: Version) -> AsyncGenerator[Signal | None, None]:
        """Yield what happens after a version, each event once and in order; None when nothing has for a while."""
        journal = self._runtime.journal
        while True:
            try:
                signal = await asyncio.wait_for(queue.get(), GLANCE)
            except TimeoutError:
                missed = await journal.history(self._thread_id, seen)
                if not missed:
                    yield None
            else:
                if not isinstance(signal, Recorded):
                    yield signal
                    continue
                if signal.version <= seen:
                    continue
                complete = signal.version == seen + 1
                missed = [signal] if complete else await journal.history(self._thread_id, seen, signal.version)
            for recorded in missed:
                yield recorded
                seen = recorded.version
