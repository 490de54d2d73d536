"""An index of messages for search: a row a message. The log has their texts."""

from collections.abc import Iterable
from typing import Any, TypeAlias, get_args

from domain.read_models.tables import Change, Column, Derived, Index, Table
from domain.recall.word_index import index_of
from domain.thread.events import MessageAppended, MessageEdited, ToolFailed, ToolSucceeded, text_of
from projections.engine.projection import EventContext, Projection

SEARCHED = 50_000
"""Characters of a message that are indexed: PostgreSQL takes at most a megabyte of distinct words or pairs."""

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


Said: TypeAlias = MessageAppended | MessageEdited | ToolSucceeded | ToolFailed


def _said(context: EventContext[Any]) -> Iterable[Change]:
    event: Said = context.event
    role, tool = "tool", None
    match event:
        case MessageAppended():
            role = event.role
        case MessageEdited():
            window = context.after.thread.window  # type: ignore[union-attr]  # the edited message is in its window
            role = next((message.role for message in window if message.version == event.message), "user")
        case ToolSucceeded() | ToolFailed():
            tool = context.tool_of(event.call)
    index = index_of((text_of(event) or "")[:SEARCHED])
    thread, words = (context.slice, context.thread_id, context.tenant), (index.words, index.term_ids)
    return [(MESSAGES, MESSAGES.row(context.at, context.recorded.version, event.tokens, *thread, role, tool, *words))]


PROJECTION = Projection("messages", 3, (MESSAGES,), dict.fromkeys(get_args(Said), _said))
