"""What was said, to be searched: one row a message, without its text, which the log has."""

from collections.abc import Iterable

from domain.events import MessageAppended, MessageEdited, ToolFailed, ToolSucceeded
from domain.ids import slice_of
from domain.tables import Change, Column, Derived, Index, Table
from projections.projection import Projection, Seen

SEARCHED = 50_000
"""Characters of a message that can be found: PostgreSQL takes a megabyte of different words."""

TEXT = Derived(
    "content",
    """(SELECT coalesce(event.payload ->> 'content', event.payload ->> 'error') FROM public.events AS event
         WHERE event.slice = t.slice AND event.thread_id = t.thread_id AND event.version = t.version)""",
    "What was said: the log's own text.",
)

MESSAGES = Table(
    "messages",
    "What was said, by whom, and in how many tokens",
    (
        Column("at", "timestamptz", about="When it was said."),
        Column("version", "integer", "key", "The version of the event that brought it."),
        Column("tokens", "integer", about="How many tokens it has."),
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread that it was said in."),
        Column("tenant", "text", about="Whose thread it is."),
        Column("role", "text", about="user, assistant, or tool."),
        Column("content", "words", about="The words in it."),
    ),
    (Index(("content",), by="words"),),
    private=frozenset({"slice", "content"}),
    derived=(TEXT,),
)


def _row(seen: Seen, role: str, content: str, tokens: int) -> Change:
    return (
        MESSAGES,
        MESSAGES.row(
            at=seen.at,
            version=seen.recorded.version,
            tokens=tokens,
            slice=slice_of(seen.thread_id),
            thread_id=seen.thread_id,
            tenant=seen.tenant,
            role=role,
            content=content[:SEARCHED],
        ),
    )


def _said(seen: Seen) -> Iterable[Change]:
    event = seen.recorded.event
    if isinstance(event, MessageAppended):
        yield _row(seen, event.role, event.content or "", event.tokens)


def _edited(seen: Seen) -> Iterable[Change]:
    event = seen.recorded.event
    if isinstance(event, MessageEdited):
        yield _row(seen, _role(seen, event), event.content, event.tokens)


def _role(seen: Seen, event: MessageEdited) -> str:
    window = seen.after.thread.window  # type: ignore[union-attr]  # it was edited in there
    return next((message.role for message in window if message.version == event.message), "user")


def _answered(seen: Seen) -> Iterable[Change]:
    event = seen.recorded.event
    if isinstance(event, ToolSucceeded):
        yield _row(seen, "tool", event.content, event.tokens)
    elif isinstance(event, ToolFailed):
        yield _row(seen, "tool", event.error, event.tokens)


PROJECTION = Projection(
    "messages",
    1,
    (MESSAGES,),
    {MessageAppended: _said, MessageEdited: _edited, ToolSucceeded: _answered, ToolFailed: _answered},
)
