"""What the routes do, in terms of the use cases: one method a command or query."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID, uuid5

import msgspec

from api.preconditions import encode_cursor
from api.runtime import Runtime
from api.views import EventView, Page, TurnView, event_view, turn_view
from domain.agent import Agent
from domain.application.execute import Outcome, Repeatable, Request, Seen, execute, repeatable
from domain.application.journal import Loaded
from domain.application.recover import caused_by
from domain.codec import Metadata
from domain.commands import Command, OpenThread, StartTurn, UpdateValues
from domain.decide import turn_of
from domain.errors import InvalidInput, UnknownGraph, UnknownThread, VersionConflict, WrongGraph
from domain.ids import DEFAULT_TENANT, MAX_VERSION, START, CommandId, Tenant, ThreadId, TurnId, Version
from domain.ports import ThreadCursor
from domain.state import INITIAL, Running, State, Unopened
from projections import threads, transcript
from projections.threads import ThreadEntry
from projections.transcript import TranscriptMessage

KEYED_THREADS = UUID("5f0a8ad5-6d55-4a0e-8f0c-0d3a5e1f7a11")
"""Threads that are opened with an idempotency key and no id are named within this namespace, so that a repetition
finds the same thread."""

WAIT_LIMIT = 600.0
"""Seconds that a request waits for its turn, when asked to, before it is answered like one that does not wait."""

POLL = 0.2

PAGE_SIZE = 4_000_000
"""Bytes of JSON after which a page of messages or events ends, however many items were asked for."""

Versioned = TypeVar("Versioned", TranscriptMessage, EventView)


@dataclass(frozen=True)
class Caller:
    """Who asks, and how: what the headers say. `existing`: only if the thread exists, at whatever checkpoint."""

    tenant: Tenant = DEFAULT_TENANT
    key: str | None = None
    seen: Seen | None = None
    existing: bool = False
    correlation: str | None = None
    actor: str | None = None


@dataclass(frozen=True)
class Service:
    """The API's commands and queries."""

    runtime: Runtime

    def agent(self, name: str) -> Agent:
        """Return a registered agent. Raises `UnknownGraph`."""
        agents = self.runtime.agents
        if name not in agents:
            raise UnknownGraph(name, tuple(sorted(agents)))
        return agents[name]

    def thread_id(self, given: UUID | None, caller: Caller) -> ThreadId:
        """Take the caller's thread id, or make one: from the idempotency key if there is one."""
        if given is not None:
            return ThreadId(given)
        if caller.key is not None:
            return ThreadId(uuid5(KEYED_THREADS, f"{caller.tenant}\n{caller.key}"))
        return ThreadId(self.runtime.new_id())

    async def open(self, thread_id: ThreadId, graph: str, values: dict[str, object], caller: Caller) -> Outcome:
        """Open a thread."""
        self.agent(graph)
        command = OpenThread(graph, values)
        return await self._execute(thread_id, lambda _: (command,), caller, ("open", graph, values))

    async def update(self, thread_id: ThreadId, changes: dict[str, object], caller: Caller) -> Outcome:
        """Change a thread's values."""
        command = UpdateValues(changes)
        return await self._execute(thread_id, lambda _: (command,), caller, ("values", changes))

    async def start_turn(
        self,
        thread_id: ThreadId,
        user_input: str,
        caller: Caller,
        open_with: str | None = None,
        graph: str | None = None,
    ) -> Outcome:
        """Append the user's message and run the turn in the background.

        `open_with` is the graph to open the thread with, if need be; `graph` the one that an open thread must have.
        Raises `UnknownGraph`, `UnknownThread`, `WrongGraph`.
        """
        if open_with is not None:
            self.agent(open_with)
        tokens = self.runtime.turns.means.tokens.count(user_input)
        made = self._command_id(thread_id, caller)
        turn_id = TurnId(uuid5(made, "turn"))

        def plan(state: State) -> Iterable[Command]:
            if isinstance(state, Unopened):
                if open_with is None:
                    raise UnknownThread(thread_id)
                yield OpenThread(open_with)
            name = _graph_of(state, open_with or "", graph)
            runs = self.agent(name).graph
            yield StartTurn(turn_id, user_input, tokens, runs.start, runs.fingerprint)

        outcome = await self._execute(thread_id, plan, caller, ("turn", user_input, open_with, graph), made)
        if not outcome.repeated:
            self.runtime.turns.means.signals.send(thread_id, outcome.events)
            self.runtime.turns.start(outcome.loaded, caused_by(Metadata(made, correlation=caller.correlation)))
        return outcome

    async def finished_turn(self, outcome: Outcome, wait: float = WAIT_LIMIT) -> TurnView | None:
        """Wait for the turn that `outcome` started; None if that takes too long."""
        state, thread_id, tenant = outcome.loaded.state, outcome.loaded.thread_id, outcome.loaded.tenant
        if not isinstance(state, Running):
            raise TypeError("Only a command that started a turn can be waited for")
        journal, turns = self.runtime.journal, self.runtime.turns
        try:
            async with asyncio.timeout(wait):
                # A repeated command's turn may be long over, and another one running.
                finished = await transcript.finished(journal, thread_id, state.turn.started)
                if finished is None:
                    await turns.wait(thread_id, TurnId(state.turn.turn_id))
                    finished = await transcript.finished(journal, thread_id, state.turn.started)
                while finished is None:  # it runs in another process
                    await asyncio.sleep(POLL)
                    finished = await transcript.finished(journal, thread_id, state.turn.started)
        except TimeoutError:
            return None
        return turn_view(await journal.load_at(thread_id, finished.version, tenant), finished)

    async def existing(self, thread_id: ThreadId, caller: Caller) -> Loaded:
        """Return a thread as it is now. Raises `UnknownThread`."""
        return await self.runtime.journal.existing(thread_id, caller.tenant)

    async def state(
        self, thread_id: ThreadId, caller: Caller, at_version: int | None = None, at_time: datetime | None = None
    ) -> Loaded:
        """Return a thread as it is now, was at a version, or was at an instant."""
        journal, tenant = self.runtime.journal, caller.tenant
        if at_version is not None and at_time is not None:
            raise InvalidInput("at_time", "cannot be given together with at_version")
        if at_time is not None:
            at_version = await journal.version_at(thread_id, _in_utc(at_time), tenant)
        if at_version is None:
            return await self.existing(thread_id, caller)
        if not 1 <= at_version <= MAX_VERSION:
            raise InvalidInput("at_version", f"must lie between 1 and {MAX_VERSION}")
        return await journal.load_at(thread_id, Version(at_version), tenant)

    async def threads(self, caller: Caller, after: ThreadCursor | None, limit: int) -> Page[ThreadEntry]:
        """List threads, the last opened first."""
        rows = await self.runtime.journal.store.threads(caller.tenant, after, limit + 1)
        shown = rows[:limit]
        more = len(rows) > limit
        cursor = encode_cursor(ThreadCursor(shown[-1].opened_at, shown[-1].thread_id)) if more else None
        return Page([threads.entry(row) for row in shown], cursor)

    async def messages(
        self, thread_id: ThreadId, caller: Caller, after: Version, limit: int
    ) -> Page[TranscriptMessage]:
        """Read the transcript in pages."""
        await self.existing(thread_id, caller)
        found = await transcript.page(self.runtime.journal, thread_id, after, limit + 1)
        return _versions(found, limit)

    async def events(self, thread_id: ThreadId, caller: Caller, after: Version, limit: int) -> Page[EventView]:
        """Read the log of a thread in pages."""
        await self.existing(thread_id, caller)
        found = await self.runtime.journal.history(thread_id, after, None, limit + 1)
        return _versions([event_view(recorded) for recorded in found], limit)

    async def _execute(
        self,
        thread_id: ThreadId,
        plan: Callable[[State], Iterable[Command]],
        caller: Caller,
        asked: tuple[object, ...],
        command_id: CommandId | None = None,
    ) -> Outcome:
        def checked(state: State) -> Iterable[Command]:
            if caller.existing and isinstance(state, Unopened):
                raise VersionConflict(START, START)
            return plan(state)

        made = command_id or self._command_id(thread_id, caller)
        metadata = Metadata(made, correlation=caller.correlation, actor=caller.actor)
        bound: Repeatable | None = None
        if caller.key is not None:
            bound = repeatable(thread_id, caller.key, (*asked, caller.seen))
        request = Request(thread_id, checked, metadata, caller.tenant, caller.seen, bound)
        return await execute(self.runtime.journal, request)

    def _command_id(self, thread_id: ThreadId, caller: Caller) -> CommandId:
        if caller.key is not None:
            return CommandId(uuid5(thread_id, caller.key))
        return CommandId(self.runtime.new_id())


def _graph_of(state: State, open_with: str, asked: str | None) -> str:
    """Name the graph to run. Raises `WrongGraph` if the thread has another than the caller asked for."""
    if isinstance(state, Unopened):
        return open_with
    if asked is not None and asked != state.thread.graph:
        raise WrongGraph(asked, state.thread.graph)
    return state.thread.graph


def _in_utc(at_time: datetime) -> datetime:
    if at_time.tzinfo is None:
        raise InvalidInput("at_time", "needs a time zone, such as 2026-11-23T10:00:00Z")
    try:
        return at_time.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInput("at_time", "must lie in the years 1 to 9999 of UTC") from error


def _versions(found: Sequence[Versioned], limit: int) -> Page[Versioned]:
    """Make a page of what was found: at most `limit` items, and no more after `PAGE_SIZE` bytes."""
    shown: list[Versioned] = []
    size = 0
    for item in found[:limit]:
        shown.append(item)
        size += len(msgspec.json.encode(item))
        if size >= PAGE_SIZE:
            break
    return Page(shown, encode_cursor(shown[-1].version) if len(found) > len(shown) else None)


def started_turn(outcome: Outcome) -> TurnId:
    """Name the turn that a command started."""
    turn_id = turn_of(outcome.loaded.state)
    if turn_id is None or outcome.loaded.state == INITIAL:
        raise TypeError("No turn was started")
    return turn_id
