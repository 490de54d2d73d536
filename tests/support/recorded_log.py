"""A log with every kind of event, and the states of its threads: `python -m tests.support.recorded_log DIRECTORY`.

`tests/data/log` was written by this program at the commit that the fixture's README names. Do not write it again to
make a test pass: it stands for the logs that people have.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace

from domain.application.thread_repository import ThreadRepository
from domain.ids import DEFAULT_TENANT, ThreadId
from domain.ports.log import EventStore
from domain.thread.codec import Metadata, to_json
from domain.thread.events import (
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    BudgetSet,
    BudgetThresholdReached,
    CancellationRequested,
    ContextAssembled,
    Event,
    FanOutStarted,
    HistoryCompacted,
    ItemCompleted,
    ItemFailed,
    Limit,
    MessageAppended,
    MessageEdited,
    ModelCalled,
    ModelFailed,
    NodeCompleted,
    NodeFailed,
    Recalled,
    StateUpdated,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnEnqueued,
    TurnFailed,
    TurnResumed,
    TurnRolledBack,
    TurnStarted,
)
from domain.thread.evolve import evolve
from domain.thread.state import INITIAL, State
from infrastructure.archive.export import export_log
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
from tests.support.log import Log

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def turn(number: int) -> UUID:
    return UUID(int=number)


FIRST: Sequence[Event] = (
    BudgetSet((Limit("day", 4_000, None), Limit("lifetime", None, 10**12, 0.5))),
    TurnStarted(turn(1), "route_intent", "f00", "turn"),
    MessageAppended("user", "Which parcel is late, and may I have my money back?", 12),
    NodeCompleted("route_intent", "generate_response", 1, 0),
    ContextAssembled(3, 3, 240, 6_000, fixed=200, texts=("aa", "bb"), values=("mood",), of=5, layout=2),
    ModelFailed("large", "first", "503: busy", 20, "first"),
    ModelCalled("small", 240, 30, 700, "tool_calls", provider="second", because="fallback", cached=128, counted=238),
    MessageAppended("assistant", None, 20, extra={"reasoning": "Look at the parcels first. " * 4}, origin="second"),
    ToolRequested("call_1", "find", {"parcel": 7}, extra={"signature": "s" * 60}),
    ToolRequested("call_1", "pay", {}, written="{amount: 5,", fault="The arguments are no JSON."),
    ToolRequested("call_2", "pay", {"amount": 5}),
    NodeCompleted("generate_response", "execute_tools", 1, 720),
    ToolFailed(-2, "The arguments are no JSON.", 7, 0),
    ToolStarted(-1),
    ToolSucceeded(-1, "late", 1, 12),
    ApprovalRequested("h" * 16, -3),
    ApprovalGranted(-3, {"amount": 4}),
    TurnResumed("worker-2", "f01"),
    ToolStarted(-3),
    ToolOutcomeUnknown(-3, "It was started, and its process died.", 9),
    BudgetThresholdReached("thread", Limit("day", 4_000, None), NOON, 3_300, 10**9),
    NodeCompleted("execute_tools", "generate_response", 1, 40),
    ModelCalled("large", 300, 12, 900, "length", estimated=True, reported=(-1, 2), hint="(Reply.)", omitted=("tools",)),
    MessageAppended("assistant", "Parcel 7 is late. Here is your", 8, finish="length"),
    NodeCompleted("generate_response", "END", 1, 910),
    TurnCompleted(turn(1), "length"),
)
"""A turn with a fallback, calls of every outcome, a person's decision and another worker. -2 is the second call."""


SECOND: Sequence[Event] = (
    TurnStarted(turn(2), "route_intent", "f01", "async"),
    MessageAppended("user", "Sort these for me.", 5),
    StateUpdated({"queue": ["a", "b"], "mood": None}),
    FanOutStarted(["a", {"b": 1}, None]),
    ItemCompleted(0, {"found": True}, 3),
    ItemFailed(1, 1, "TimeoutError", 250),
    ItemFailed(1, 2, "TimeoutError"),
    NodeFailed("sort", 1, "TimeoutError", 600, 500),
    ItemCompleted(1, [1, 2], 3),
    StateUpdated({"from": "outside"}, outside=True),
    NodeFailed("sort", 2, "ValueError: no", 600),
    TurnFailed(turn(2), "node_failed", "ValueError: no"),
    TurnStarted(turn(3), "sort", "f01", "sync", turn(2)),
    TurnEnqueued(turn(4), "And then stop.", 4, "route_intent", "f01", "sync", "interrupt"),
    CancellationRequested(turn(3), "interrupted"),
    MessageAppended("assistant", "I was about to", 4, partial=True),
    TurnCancelled(turn(3), "interrupted"),
)
"""A fan-out that fails, a retry that is interrupted, and a message that waits."""

THIRD: Sequence[Event] = (
    MessageAppended("user", "And then stop.", 4),
    HistoryCompacted(4, "They asked about parcel 7.", 7, "small"),
    ContextAssembled(
        *(5, 9, 300, 6_000),
        summarised=4,
        pinned=3,
        recalled=(Recalled(3, 0, 22, "parcel"),),
        shortened=((9, 200),),
        layout=1,
        recalled_tokens=9,
    ),
    CancellationRequested(turn(4), "rolled_back"),
    TurnRolledBack(turn(4)),
    BudgetSet(),
)
"""A turn that is rolled back, after a compaction."""

WAITING: Sequence[Event] = (
    TurnStarted(turn(5), "ask", "f01"),
    MessageAppended("user", "Go on.", 2),
    ApprovalRequested("n" * 16, 0, "ask"),
)


class Everything(Log):
    """A log with every kind of event."""

    async def write_everything(self) -> None:
        await self.write(days=2, a_day=2)
        thread_id = await self._opened()
        for events in (FIRST, SECOND):
            await self._add(thread_id, events)
        queued = [r.version async for r in self.repository.follow(thread_id) if isinstance(r.event, TurnEnqueued)]
        started = TurnStarted(turn(4), "route_intent", "f01", queued=queued[-1])
        await self._add(thread_id, (started, *THIRD))
        await self.fork(thread_id, 5, resume=True)
        fork = await self.fork(thread_id, 29)
        await self._add(fork, (MessageEdited(4, "Which parcel is late?", 5),))
        await self._add(thread_id, WAITING)
        approval = int((await self.repository.load(thread_id)).head.version)
        failed = TurnFailed(turn(5), "approval_denied", "Not today.")
        await self._add(thread_id, (ApprovalDenied(approval, "Not today.", 3), failed))

    async def _add(self, thread_id: ThreadId, events: Sequence[Event]) -> None:
        self.clock.pass_(1.5)
        loaded = await self.repository.load(thread_id)
        requests = [place for place, event in enumerate(events, 1) if isinstance(event, ToolRequested)]
        calls = {-number: loaded.head.version + place for number, place in enumerate(requests, 1)}
        await self.repository.append(
            self.repository.chain(loaded, tuple(_with_calls(event, calls) for event in events), Metadata())
        )


def _with_calls(event: Event, calls: Mapping[int, int]) -> Event:
    """Name calls by the versions of their requests."""
    names = {name: calls[value] for name in ("call", "approval") if (value := getattr(event, name, 0)) in calls}
    return replace(event, **names) if names else event


async def states_of(store: EventStore, repository: ThreadRepository) -> list[dict[str, Any]]:
    """Fold each thread: its last state, and the SHA-256 of each state on the way there."""
    found = []
    for row in await store.threads(DEFAULT_TENANT, None, 1_000):
        state: State = INITIAL
        digests = []
        async for recorded in repository.follow(row.thread_id):
            state = evolve(state, recorded.event, recorded.recorded_at)
            digests.append(hashlib.sha256(to_json(_without_later_fields(state)).encode()).hexdigest())
        found.append({"thread_id": str(row.thread_id), "digests": digests, "state": _without_later_fields(state)})
    return sorted(found, key=lambda thread: thread["thread_id"])


def _without_later_fields(state: State) -> Any:
    """Return a state as JSON, without the fields that states have got since the log of `tests/data` was written."""
    shown = json.loads(to_json(state))
    for name in ("subject", "opened_limits"):
        shown.get("thread", {}).pop(name, None)
    (shown.get("thread", {}).get("last_turn") or {}).pop("output", None)
    for part in (shown.get("thread", {}), shown.get("turn", {}).get("before", {})):
        for message in part.get("window", ()):
            message.pop("outcome", None)
    return shown


async def main(directory: Path) -> None:
    store = MemoryEventStore()
    log = Everything(store)
    await log.write_everything()
    await export_log(store, MemoryArchive(store), directory / "export", "ndjson", lambda *_: None)
    lines = [msgspec.json.encode(thread).decode() for thread in await states_of(store, log.repository)]
    (directory / "states.ndjson").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
