"""What was said, to be searched: one row a message, without its text, which the log has."""

from collections.abc import Iterable
from typing import Any

from domain.read_models.tables import Change, Column, Derived, Index, Table
from domain.recall.word_index import index_of
from domain.thread.events import MessageAppended, MessageEdited, ToolFailed, ToolSucceeded
from domain.thread.state import Running
from projections.engine.projection import EventContext, Projection

SEARCHED = 50_000
"""Characters of a message that can be found: PostgreSQL takes a megabyte of different words or pairs."""

TEXT = Derived(
    "content",
    """(SELECT coalesce(event.payload ->> 'content', event.payload ->> 'error') FROM public.events AS event
         WHERE event.slice = t.slice AND event.thread_id = t.thread_id AND event.version = t.version
           AND public.thread_key(event.thread_id) = public.thread_key(t.thread_id))""",
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
        Column("tool", "text", about="The tool whose answer it is."),
        Column("content", "words", about="The words in it."),
        Column("keys", "text", about="Its words in a row, a character for each; see `domain.recall.word_index`."),
    ),
    (Index(("content",), by="words"),),
    private=frozenset({"slice", "content", "keys"}),
    derived=(TEXT,),
)


def _row(seen: EventContext[Any], role: str, content: str, tokens: int, tool: str | None = None) -> Iterable[Change]:
    index = index_of(content[:SEARCHED])
    row = MESSAGES.row(
        at=seen.at,
        version=seen.recorded.version,
        tokens=tokens,
        slice=seen.slice,
        thread_id=seen.thread_id,
        tenant=seen.tenant,
        role=role,
        tool=tool,
        content=index.words,
        keys=index.term_ids,
    )
    return [(MESSAGES, row)]


def _said(seen: EventContext[MessageAppended]) -> Iterable[Change]:
    return _row(seen, seen.event.role, seen.event.content or "", seen.event.tokens)


def _edited(seen: EventContext[MessageEdited]) -> Iterable[Change]:
    return _row(seen, _role(seen), seen.event.content, seen.event.tokens)


def _role(seen: EventContext[MessageEdited]) -> str:
    window = seen.after.thread.window  # type: ignore[union-attr]  # it was edited in there
    return next((message.role for message in window if message.version == seen.event.message), "user")


def _answered(seen: EventContext[ToolSucceeded]) -> Iterable[Change]:
    return _row(seen, "tool", seen.event.content, seen.event.tokens, _tool(seen))


def _failed(seen: EventContext[ToolFailed]) -> Iterable[Change]:
    return _row(seen, "tool", seen.event.error, seen.event.tokens, _tool(seen))


def _tool(seen: EventContext[ToolSucceeded] | EventContext[ToolFailed]) -> str | None:
    calls = seen.before.turn.calls if isinstance(seen.before, Running) else ()
    return next((call.request.name for call in calls if call.version == seen.event.call), None)


PROJECTION = Projection(
    "messages",
    3,
    (MESSAGES,),
    {MessageAppended: _said, MessageEdited: _edited, ToolSucceeded: _answered, ToolFailed: _failed},
)
