"""Adapters that kill their process at a named point: the real ones, with a word said before and after.

`CHAOS_CRASH=<point>:<n>` kills at the `n`th time that the point is reached.
"""

import os
import signal
from collections import Counter
from collections.abc import Sequence

import api.runtime.stores
import infrastructure.models.providers
from domain.ids import Position, WorkerId
from domain.models.chat import ChatAnswer, ChatRequest, OnDelta
from domain.ports.leases import Lease
from domain.ports.log import Append
from domain.ports.snapshots import Snapshot
from infrastructure.models.openai.client import OpenAIChatModel
from infrastructure.postgres.leases import PostgresLeaseStore
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.snapshots import PostgresSnapshotStore

CRASH = "CHAOS_CRASH"

POINTS = (
    "claim",
    "before an append",
    "after an append",
    "before the model",
    "during the answer",
    "after the answer",
    "tool started",
    "tool done",
    "approval requested",
    "approval granted",
    "before a snapshot",
    "after a snapshot",
    "before the completion",
    "after the completion",
)

RECORDED = (
    "ModelAnswered",
    "QuestionAsked",
    "FanOutStarted",
    "ItemAdvanced",
    "ItemCompleted",
    "ToolStarted",
    "ToolSucceeded",
    "TurnResumed",
)
"""Events at whose append, before or after it, a worker of the agent that asks is killed."""

QUESTION_POINTS = (
    "before an ask",
    "during an ask",
    "after an ask",
    *[f"{when} {name}" for name in RECORDED for when in ("before", "after")],
    "before a node of the subgraph ends",
    "after a node of the subgraph ends",
    "in the subgraph",
    "item started",
    "item had its effect",
    "tool started",
    "tool done",
    "tool got its answer",
    "tool of an item started",
    "tool of an item done",
    "node of an item started",
    "node of an item had its effect",
    "before QuestionAnswered",
    "after QuestionAnswered",
    "before the completion",
    "after the completion",
)
"""Points of the agent that asks, see `inquiry`. No worker appends `QuestionAnswered`: the run kills the worker then."""

SUBGRAPH = '"node":"ask/'
"""Part of a `NodeCompleted` of the subgraph."""

_reached: Counter[str] = Counter()

_crash = [""]
"""The point to die at, last."""


def reached(point: str) -> None:
    """Die here, if that is what was asked for."""
    wanted, _, number = _crash[-1].rpartition(":")
    _reached[point] += 1
    if wanted == point and _reached[point] == int(number):
        os.kill(os.getpid(), signal.SIGKILL)


class Events(PostgresEventStore):
    """Crashes around appends."""

    async def append(self, append: Append) -> Position:
        """Append, perhaps for the last time."""
        types = {record.type for record in append.records}
        ends = "TurnCompleted" in types
        reached("before the completion" if ends else "before an append")
        if "ToolStarted" in types:
            reached("approval granted")  # in conversations with approvals, among others
        names = [name for name in RECORDED if name in types]
        if any(record.type == "NodeCompleted" and SUBGRAPH in record.payload for record in append.records):
            names.append("a node of the subgraph ends")
        for name in names:
            reached(f"before {name}")
        position = await super().append(append)
        if "ApprovalRequested" in types:
            reached("approval requested")
        for name in names:
            reached(f"after {name}")
        reached("after the completion" if ends else "after an append")
        return position


class Snapshots(PostgresSnapshotStore):
    """Crashes around snapshots."""

    async def save(self, snapshot: Snapshot) -> None:
        """Save, perhaps for the last time."""
        reached("before a snapshot")
        await super().save(snapshot)
        reached("after a snapshot")


class Leases(PostgresLeaseStore):
    """Crashes after a claim."""

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        """Claim, perhaps for the last time."""
        claimed = await super().claim(worker, ttl, limit)
        if claimed:
            reached("claim")
        return claimed


class Model(OpenAIChatModel):
    """Crashes around and within answers."""

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Ask, perhaps for the last time."""

        asks = bool(request.question)

        def heard(text: str) -> None:
            reached("during the answer")
            if asks:
                reached("during an ask")
            if on_delta:
                on_delta(text)

        reached("before the model")
        if asks:
            reached("before an ask")
        answer = await super().complete(request, heard)
        reached("after the answer")
        if asks:
            reached("after an ask")
        return answer


def install() -> None:
    """Have the composition root take these adapters.

    The point to die at is taken out of the environment: a process in which this one runs a suspect turn alone must not
    die there as well, because the turn would then rightly be failed.
    """
    _crash.append(os.environ.pop(CRASH, ""))
    for module, adapter in (
        (api.runtime.stores, Events),
        (api.runtime.stores, Snapshots),
        (api.runtime.stores, Leases),
        (infrastructure.models.providers, Model),
    ):
        name = adapter.__bases__[0].__name__
        getattr(module, name)  # whoever moves it is told here
        setattr(module, name, adapter)
