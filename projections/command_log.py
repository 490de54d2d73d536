"""The audit: each command with its caller, and what the agent did because of it."""

from collections.abc import Iterable
from typing import Any

from domain.read_models.tables import Change, Column, Index, Table
from domain.thread import events
from projections.engine.projection import EventContext, Projection

AUDIT = Table(
    "audit",
    "Who did what to which thread, and what the agent did because of it",
    (
        Column("at", "timestamptz", "least", "When its first event was recorded."),
        Column("version", "integer", "least", "The first event."),
        Column("last_version", "integer", "greatest", "The last event."),
        Column("events", "integer", "add", "How many events there are of it."),
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread that it was done to."),
        Column("command", "uuid", "key", "The command; of the agent's deeds, the one that set it to work."),
        Column("tenant", "text", about="Whose thread it is."),
        Column("by", "text", "key", "caller, or agent."),
        Column("actor", "text", "first", "The person whom the caller says to act for; without one, the principal."),
        Column("client", "text", "first", "The program that the caller used."),
        Column("correlation", "text", "first", "What the caller wants to find it by."),
        Column("principal", "text", "first", "The verified caller, if there is authentication."),
        Column("actions", "text", "joined", "The types of the events, in their order; of the agent's, what matters."),
    ),
    (
        Index(("tenant", "at", "thread_id")),
        Index(("tenant", "actor", "at")),
        Index(("tenant", "correlation")),
        Index(("command",)),
    ),
)

ROUTINE = frozenset(
    {
        events.NodeCompleted,
        events.ContextAssembled,
        events.ModelCalled,
        events.ToolRequested,
        events.MessageAppended,
        events.ItemAdvanced,
        events.ItemCompleted,
        events.ModelAnswered,
        events.FanOutStarted,
    }
)
"""Events of the agent that are left out: tools that started, and how turns ended, are what an auditor needs."""


def _done(context: EventContext[Any]) -> Iterable[Change]:
    metadata, version, kind = context.recorded.metadata, context.recorded.version, type(context.event)
    command, by = metadata.command, "caller"
    if command is None:
        command, by = metadata.causation, "agent"
    if command is None or (by == "agent" and kind in ROUTINE):
        return ()
    thread = (context.slice, context.thread_id)
    caller = (metadata.actor, metadata.client, metadata.correlation, metadata.principal)
    row = AUDIT.row(context.at, version, version, 1, *thread, command, context.tenant, by, *caller, kind.__name__)
    return [(AUDIT, row)]


PROJECTION = Projection("audit", 2, (AUDIT,), dict.fromkeys(events.EVENTS, _done))
