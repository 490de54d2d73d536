"""Summaries of threads: the list of a tenant's threads, and one thread's summary, now or at any version."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from domain.application.command_handler import checkpoint_of
from domain.application.thread_repository import LoadedThread
from domain.budget.prices import Prices
from domain.ids import Tenant, ThreadId, Version, slice_of
from domain.models.answers import Unusual
from domain.money import dollars
from domain.read_models.queries import Among, Condition, Select, Where
from domain.read_models.tables import COST, Change, Column, Index, Row, Table
from domain.recall.terms import Search
from domain.thread.codec import to_json
from domain.thread.events import FailureReason
from domain.thread.state import Because, Ended, Running, TurnOutcome, Unopened
from projections.engine.projection import FoldedThread, Projection
from projections.engine.thread_status import Status, status_of
from projections.messages import MESSAGES

Sort: TypeAlias = Literal["opened_at", "last_event_at", "tokens", "cost"]


OUTCOMES: Sequence[str] = get_args(TurnOutcome)
REASONS_OF: Mapping[str, Sequence[str]] = {
    "completed": get_args(Unusual),
    "failed": get_args(FailureReason),
    "cancelled": ("cancelled", "interrupted"),
    "rolled_back": (),
}
REASONS: Sequence[str] = [reason for reasons in REASONS_OF.values() for reason in reasons]
"""Why a thread's last turn can have ended, or what is unusual about its answer."""


class Waiting(Struct, frozen=True):
    """What a turn waits for: a decision about a tool call or a node of the graph, or the answer to a question."""

    approval_id: int
    because: Because
    node: str
    tool: str | None = None


class ThreadSummary(Struct, frozen=True):
    """A thread's status, progress and cost. `checkpoint` identifies the version that it is of."""

    thread_id: ThreadId
    graph: str
    title: str
    status: Status
    version: Version
    checkpoint: str
    opened_at: datetime
    last_event_at: datetime
    turns: int
    messages: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    running_turn: UUID | None
    queued_turns: Sequence[UUID]
    last_turn: Ended | None
    waiting_for: Sequence[Waiting]
    subject: str


THREADS = Table(
    "threads",
    "Threads at a glance",
    (
        Column("opened_at", "timestamptz", "least", "When its first event was recorded."),
        Column("last_event_at", "timestamptz", about="When its last event was recorded."),
        Column("prompt_tokens", "bigint", about="Tokens of all prompts."),
        Column("completion_tokens", "bigint", about="Tokens of all answers."),
        Column("tokens", "bigint", about="Tokens of prompts and answers."),
        Column("cost", "bigint", about="What they cost, in millionths of a millionth of a dollar."),
        Column("version", "integer", about="The version that this row is of."),
        Column("turns", "integer", about="Turns that began."),
        Column("messages", "integer", about="Messages of the user and the agent."),
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread."),
        Column("running_turn", "uuid", about="The turn in progress."),
        Column("tenant", "text", about="Whose it is."),
        Column("graph", "text", about="The agent's graph."),
        Column("status", "text", about="idle, running, or waiting for a person."),
        Column("title", "text", about="The beginning of the first message."),
        Column("checkpoint", "text", about="The version and the beginning of its hash, to act on it by."),
        Column("last_outcome", "text", about="How the last turn ended: completed, failed, cancelled or rolled_back."),
        Column("last_reason", "text", about="Why it ended so, or what is to be known of its answer."),
        Column("queued_turns", "json", about="Turns that wait for the end of the one in progress."),
        Column("last_turn", "json", about="How the last turn ended."),
        Column("waiting_for", "json", about="What a person has to decide."),
        Column("subject", "text", about="The customer that it is about; empty if none was given."),
    ),
    (
        Index(("tenant", "opened_at", "thread_id")),
        Index(("tenant", "status", "opened_at", "thread_id")),
        Index(("tenant", "last_reason", "opened_at", "thread_id")),
        Index(("tenant", "last_event_at", "thread_id")),
        Index(("tenant", "tokens", "thread_id")),
        Index(("tenant", "cost", "thread_id")),
    ),
    private=frozenset({"slice", "cost"}),
    derived=(COST,),
)


_JSON = ("queued_turns", "last_turn", "waiting_for")
"""The fields of a summary that its row holds as JSON. The other ones are columns, except for `cost_usd`."""


def _row(folded: FoldedThread, prices: Prices) -> Iterable[Change]:
    found = summary(folded.loaded, folded.opened_at or folded.head.at, prices)
    columns = asdict(found)
    del columns["cost_usd"]
    columns |= {name: to_json(columns[name]) for name in _JSON}
    row = THREADS.row(
        **columns,
        tokens=found.prompt_tokens + found.completion_tokens,
        cost=_cost(folded.loaded, prices),
        slice=folded.slice,
        tenant=folded.tenant,
        last_outcome=found.last_turn.outcome if found.last_turn else None,
        last_reason=found.last_turn.reason if found.last_turn else None,
    )
    return [(THREADS, row)]


PROJECTION = Projection("threads", 3, (THREADS,), thread=_row)


def listing(
    tenant: Tenant,
    *,
    search: Search | None = None,
    conditions: Iterable[Condition] = (),
    sort: Sort = "opened_at",
    descending: bool = True,
    after: tuple[Any, ThreadId] | None = None,
    limit: int = 50,
) -> Select:
    """Return a query for a tenant's threads; with `search`, for those that have a message which matches."""
    where: list[Condition] = [Where("tenant", "=", tenant), *conditions]
    if search is not None:
        words = (Where("tenant", "=", tenant), Where("content", "matches", search))
        where.append(Among(("slice", "thread_id"), MESSAGES, words))
    return Select(THREADS, tuple(where), (sort, "thread_id"), descending, after, limit)


def opened_by(tenant: Tenant, at: datetime, after: tuple[datetime, ThreadId] | None = None, limit: int = 100) -> Select:
    """Return a query for the threads that were open at an instant, the oldest first."""
    where = (Where("tenant", "=", tenant), Where("opened_at", "<=", at))
    return Select(THREADS, where, ("opened_at", "thread_id"), after=after, limit=limit)


def one(thread_id: ThreadId) -> Select:
    """Return a query for one thread."""
    return Select(THREADS, (Where("slice", "=", slice_of(thread_id)), Where("thread_id", "=", thread_id)), limit=1)


def summary_of(row: Row) -> ThreadSummary:
    """Return the summary in a row."""
    found = dict(zip(THREADS.names, row, strict=True))
    return ThreadSummary(
        **{name: found[name] for name in ThreadSummary.__struct_fields__ if name in found and name not in _JSON},
        cost_usd=dollars(found["cost"]),
        queued_turns=msgspec.json.decode(found["queued_turns"], type=tuple[UUID, ...]),
        last_turn=msgspec.json.decode(found["last_turn"], type=Ended | None),
        waiting_for=msgspec.json.decode(found["waiting_for"], type=tuple[Waiting, ...]),
    )


def summary(loaded: LoadedThread, opened_at: datetime, prices: Prices) -> ThreadSummary:
    """Return the summary of a folded thread. Raises `TypeError` if it was never opened."""
    state = loaded.state
    if isinstance(state, Unopened):
        raise TypeError("An unopened thread has no summary")
    thread, running = state.thread, state.turn.turn_id if isinstance(state, Running) else None
    return ThreadSummary(
        thread_id=loaded.thread_id,
        graph=thread.graph,
        title=thread.title,
        status=status_of(state),
        version=loaded.head.version,
        checkpoint=checkpoint_of(loaded),
        opened_at=opened_at,
        last_event_at=loaded.head.at,
        turns=thread.turns,
        messages=thread.messages,
        prompt_tokens=thread.prompt_tokens,
        completion_tokens=thread.completion_tokens,
        cost_usd=dollars(_cost(loaded, prices)),
        running_turn=running,
        queued_turns=tuple(queued.turn_id for queued in thread.queue),
        last_turn=thread.last_turn,
        waiting_for=tuple(_waiting(state)) if isinstance(state, Running) else (),
        subject=thread.subject,
    )


def _cost(loaded: LoadedThread, prices: Prices) -> int:
    return 0 if isinstance(loaded.state, Unopened) else prices.of_all(loaded.state.thread.usage)


def _waiting(state: Running) -> Iterable[Waiting]:
    turn = state.turn
    if turn.cancelling:
        return
    if turn.approval and not turn.approval.granted:
        yield Waiting(turn.approval.version, "policy", turn.node)
    for call in turn.calls:
        if call.status == "asked" and call.because != "question":
            yield Waiting(call.version, call.because, turn.node, call.request.name)
    tools = {call.version: call.request.name for call in turn.calls}
    for question in turn.open_questions:
        yield Waiting(question.version, "question", turn.node, tools.get(question.call))
