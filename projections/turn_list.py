"""Turns, a row each: what was asked and answered, how the turn ended and why, and what it took.

`projections/turns.py` adds turns up by the hour. The SQL views of this one are `turn_list` and `turn_tools`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

from domain.ids import Tenant, ThreadId
from domain.money import dollars
from domain.read_models.queries import Among, Condition, Select, Where
from domain.read_models.tables import COST, Change, Column, Index, Row, Table, indexed
from domain.thread import events
from domain.thread.codec import to_json
from domain.thread.events import TURN_OUTCOMES
from domain.thread.state import Queued, Running, Turn
from projections.engine.projection import EventContext, Projection
from projections.engine.turn_figures import TurnFigures, beginning
from projections.threads import OUTCOMES

Outcome: TypeAlias = Literal["queued", "running", "waiting", "completed", "failed", "cancelled", "rolled_back"]
Sort: TypeAlias = Literal["created_at", "duration_ms", "cost"]

TURN_STATES: Sequence[str] = ("queued", "running", "waiting", *OUTCOMES)
"""How a turn can have ended, or what it does while it has not."""


class TurnSummary(Struct, frozen=True):
    """A turn: what was asked and answered, how it ended and why, and what it took.

    `outcome` is `queued`, `running` or `waiting` (for a person's decision or an answer) until the turn has ended.
    `reason` says why it failed, how it was cancelled, or, of a completed turn, what limits its answer. `node` is where
    it ended, or where it is. `created_at` is when its message arrived, `started_at` when it began: later if it was
    `queued`. `duration_ms` is from its start to its end; for `waited_ms` of them it waited for a person. `user_input`,
    `answer` and `detail` are beginnings of texts. `tools` are the tools that were called. The figures of a turn that
    has not ended are as of its last node. `version` is the event that it began with, `last_version` the last event that
    these figures are of. `retries` is the turn that this one retries.
    """

    turn_id: UUID
    thread_id: UUID
    graph: str
    outcome: Outcome
    reason: str | None
    detail: str | None
    node: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    duration_ms: int | None
    waited_ms: int
    version: int
    last_version: int
    user_input: str | None
    answer: str | None
    tools: Sequence[str]
    tool_calls: int
    tool_failures: int
    model_calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    retries: UUID | None
    queued: bool


class TurnFilters(Struct, frozen=True):
    """Which turns a list has, and in which order. `tools`: at least one of them was called.

    `created_before` is exclusive, the maxima are inclusive. Costs are in the units of `domain.money`. A list that is
    sorted by duration, or filtered by it, has only turns that began and have ended.
    """

    outcome: tuple[str, ...] = ()
    reason: tuple[str, ...] = ()
    graph: str | None = None
    tools: tuple[str, ...] = ()
    created_since: datetime | None = None
    created_before: datetime | None = None
    min_cost: int | None = None
    max_cost: int | None = None
    min_duration_ms: int | None = None
    max_duration_ms: int | None = None
    sort: Sort = "created_at"
    descending: bool = True


TURN_LIST = Table(
    "turn_list",
    "Turns, a row each",
    (
        Column("created_at", "timestamptz", "least", "When its message arrived, or its retry was requested."),
        Column("started_at", "timestamptz", about="When it began; null if it never did."),
        Column("ended_at", "timestamptz", about="When it ended."),
        Column("duration_ms", "bigint", about="Milliseconds from its start to its end."),
        Column("waited_ms", "bigint", about="Those of them in which it waited for a person."),
        Column("prompt_tokens", "bigint", about="Tokens of its prompts."),
        Column("completion_tokens", "bigint", about="Tokens of its answers."),
        Column("cost", "bigint", about="What they cost, in millionths of a millionth of a dollar."),
        Column("model_calls", "integer", about="How often a model answered."),
        Column("tool_calls", "integer", about="Tool calls that models requested."),
        Column("tool_failures", "integer", about="Those of them that failed, or whose outcome is unknown."),
        Column("version", "integer", about="The event that it began with."),
        Column("last_version", "integer", about="The last event that this row is of."),
        Column("queued", "integer", about="The event that queued it; 0 if it was not queued."),
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread."),
        Column("turn_id", "uuid", "key", "The turn."),
        Column("retries", "uuid", about="The turn that this one retries."),
        Column("tenant", "text", about="Whose thread it is."),
        Column("graph", "text", about="The agent's graph."),
        Column(
            "outcome", "text", about="completed, failed, cancelled, rolled_back; until then queued, running or waiting."
        ),
        Column("reason", "text", about="Why it ended so, or what limits its answer."),
        Column("detail", "text", about="The same for people: the beginning of it."),
        Column("node", "text", about="The node where it ended, or where it is."),
        Column("user_input", "text", about="The beginning of the user's message."),
        Column("answer", "text", about="The beginning of the agent's last message."),
        Column("tools", "json", about="The tools that were called."),
    ),
    (
        Index(("tenant", "created_at", "turn_id", "thread_id")),
        Index(("thread_id", "created_at", "turn_id")),
        Index(("tenant", "outcome", "created_at", "turn_id", "thread_id")),
        Index(("tenant", "reason", "created_at", "turn_id", "thread_id")),
        Index(("tenant", "graph", "created_at", "turn_id", "thread_id")),
        Index(("tenant", "cost", "turn_id", "thread_id")),
        Index(("tenant", "duration_ms", "turn_id", "thread_id")),
    ),
    private=frozenset({"slice", "cost"}),
    derived=(COST,),
)

TURN_TOOLS = Table(
    "turn_tools",
    "The tools that turns called",
    (
        Column("calls", "integer", "add", "Calls that models requested."),
        Column("failures", "integer", "add", "Calls that failed, or whose outcome is unknown."),
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread."),
        Column("turn_id", "uuid", "key", "The turn."),
        Column("tenant", "text", about="Whose thread it is."),
        Column("tool", "text", "key", "The tool."),
    ),
    (Index(("tenant", "tool")),),
)

Message: TypeAlias = events.TurnEnqueued | Queued


def _status(context: EventContext[Any]) -> Iterable[Change]:
    return () if context.status == context.period.status else _progress(context)


def _progress(context: EventContext[Any]) -> Iterable[Change]:
    """Write the row of the turn in progress. Its figures are written at the end of each node, not at each event."""
    after, figures = context.after, context.turn
    if not isinstance(after, Running) or figures is None or context.turn_started_at is None:
        return ()
    return [_row(context, after.turn, figures, context.turn_started_at, context.status)]


def _node(context: EventContext[events.NodeCompleted]) -> Iterable[Change]:
    return _progress(context) if context.event.next != events.END else ()  # else the turn's end follows


def _said(context: EventContext[events.MessageAppended]) -> Iterable[Change]:
    return _progress(context) if context.event.role == "user" else _status(context)


def _requested(context: EventContext[events.ToolRequested]) -> Iterable[Change]:
    return [*_tool(context, context.event.tool, calls=1), *_status(context)]


def _failed(context: EventContext[events.ToolFailed | events.ToolOutcomeUnknown]) -> Iterable[Change]:
    return [*_tool(context, context.tool_of(context.event.call), failures=1), *_status(context)]


def _tool(context: EventContext[Any], tool: str | None, **counted: int) -> Iterable[Change]:
    if tool is None or not isinstance(context.before, Running):
        return ()
    key = (context.slice, context.thread_id, context.before.turn.turn_id, context.tenant, tool)
    return [(TURN_TOOLS, TURN_TOOLS.row(counted.get("calls", 0), counted.get("failures", 0), *key))]


def _enqueued(context: EventContext[events.TurnEnqueued]) -> Iterable[Change]:
    return [_queued(context, context.event, context.recorded.version, "queued")]


def _ended(context: EventContext[events.TurnEnd]) -> Iterable[Change]:
    event, before, began, figures = context.event, context.before, context.turn_started_at, context.turn
    if not isinstance(before, Running):
        return ()
    reason = event.how if isinstance(event, events.TurnCancelled) else getattr(event, "reason", None)
    outcome = TURN_OUTCOMES[type(event)]
    if before.turn.turn_id != event.turn_id:
        queued = (one for one in before.thread.queue if one.turn_id == event.turn_id)
        return [_queued(context, one, one.version, outcome, reason=reason, ended_at=context.at) for one in queued]
    if figures is None or began is None:
        return ()
    took = (context.at - began) // timedelta(milliseconds=1)
    detail = beginning(getattr(event, "detail", None))
    row = _row(context, before.turn, figures, began, outcome, reason=reason, detail=detail, ended=context.at, took=took)
    return [row]


def _row(
    context: EventContext[Any],
    turn: Turn,
    figures: TurnFigures,
    began: datetime,
    outcome: str,
    *,
    reason: str | None = None,
    detail: str | None = None,
    ended: datetime | None = None,
    took: int | None = None,
) -> Change:
    """Return the row of a turn that has begun. It is hot: names of columns would take twice the time."""
    row = TURN_LIST.row(
        began,  # of a queued turn the table keeps the earlier instant of its message
        began,
        ended,
        took,
        figures.waited_ms,
        figures.prompt_tokens,
        figures.completion_tokens,
        figures.cost,
        figures.model_calls,
        figures.tool_calls,
        figures.tool_failures,
        turn.started,
        context.recorded.version,
        figures.queued,
        context.slice,
        context.thread_id,
        turn.turn_id,
        figures.retries,
        context.tenant,
        context.graph,
        outcome,
        reason,
        detail,
        figures.node,
        figures.user_input,
        figures.answer,
        to_json(list(figures.tools)) if figures.tools else "[]",
    )
    return TURN_LIST, row


def _queued(context: EventContext[Any], message: Message, version: int, outcome: str, **end: Any) -> Change:
    """Return the row of a turn that has not begun, or never will."""
    zeros = dict.fromkeys(_COUNTS, 0)
    row = TURN_LIST.row(
        created_at=context.at,
        version=version,
        last_version=context.recorded.version,
        queued=version,
        slice=context.slice,
        thread_id=context.thread_id,
        turn_id=message.turn_id,
        tenant=context.tenant,
        graph=context.graph,
        outcome=outcome,
        node=message.node,
        user_input=beginning(message.content),
        tools="[]",
        **zeros,
        **end,
    )
    return TURN_LIST, row


_COUNTS = ("waited_ms", "prompt_tokens", "completion_tokens", "cost", "model_calls", "tool_calls", "tool_failures")

_WITHOUT_EFFECT = frozenset(
    {
        events.BudgetSet,
        events.BudgetThresholdReached,
        events.ContextAssembled,
        events.HistoryCompacted,
        events.ItemAdvanced,
        events.ItemCompleted,
        events.MessageEdited,
        events.ModelAnswered,
        events.ModelCalled,
        events.ModelFailed,
        events.StateUpdated,
        events.ThreadOpened,
    }
)
"""Events that change no turn's status. The figures of a turn count them, and are written with a later event."""

PROJECTION = Projection(
    "turn_list",
    1,
    (TURN_LIST, TURN_TOOLS),
    {
        **{event: _status for event in events.EVENTS if event not in _WITHOUT_EFFECT},
        **dict.fromkeys(events.TURN_OUTCOMES, _ended),
        events.TurnEnqueued: _enqueued,
        events.TurnStarted: _progress,
        events.NodeCompleted: _node,
        events.MessageAppended: _said,
        events.ToolRequested: _requested,
        events.ToolFailed: _failed,
        events.ToolOutcomeUnknown: _failed,
    },
)


def listing(
    tenant: Tenant,
    filters: TurnFilters,
    *,
    thread_id: ThreadId | None = None,
    after: tuple[Any, UUID, ThreadId] | None = None,
    limit: int = 50,
) -> Select:
    """Return a query for a tenant's turns, or for those of one of its threads."""
    found = (
        Where("tenant", "=", tenant),
        Where("thread_id", "=", thread_id),
        Where("outcome", "in", filters.outcome),
        Where("reason", "in", filters.reason),
        Where("graph", "=", filters.graph and indexed(filters.graph)),
        Where("created_at", ">=", filters.created_since),
        Where("created_at", "<", filters.created_before),
        Where("cost", ">=", filters.min_cost),
        Where("cost", "<=", filters.max_cost),
        Where("duration_ms", ">=", 0 if filters.sort == "duration_ms" else None),
        Where("duration_ms", ">=", filters.min_duration_ms),
        Where("duration_ms", "<=", filters.max_duration_ms),
    )
    where: list[Condition] = [one for one in found if one.value is not None and one.value != ()]
    if filters.tools:
        called = (Where("tenant", "=", tenant), Where("tool", "in", tuple(map(indexed, filters.tools))))
        where.append(Among(("slice", "thread_id", "turn_id"), TURN_TOOLS, called))
    return Select(TURN_LIST, tuple(where), (filters.sort, "turn_id", "thread_id"), filters.descending, after, limit)


def summary_of(row: Row) -> TurnSummary:
    """Return the turn in a row."""
    found = dict(zip(TURN_LIST.names, row, strict=True))
    named = {name: found[name] for name in TurnSummary.__struct_fields__ if name in found}
    named |= {"tools": msgspec.json.decode(found["tools"], type=tuple[str, ...]), "queued": bool(found["queued"])}
    return TurnSummary(**named, cost_usd=dollars(found["cost"]))
