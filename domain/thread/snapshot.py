"""What a snapshot holds of a state: not the texts of its messages, which the log has, but which events have them.

So a thread's texts are stored once, however many snapshots there are. Short texts stay: a reference takes as much. What
an endpoint said with a message beyond the protocol, such as its reasoning, is left out in the same way.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from domain.json import JsonObject
from domain.thread.codec import to_json
from domain.thread.events import (
    ApprovalDenied,
    Event,
    HistoryCompacted,
    MessageAppended,
    MessageEdited,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolSucceeded,
)
from domain.thread.state import Before, Message, Running, State, Thread, Unopened

MAX_INLINE_CHARACTERS = 40
"""Characters of a text that stays."""


class LeanState(Struct, frozen=True):
    """A state without its longer texts, and the versions of the events that have them.

    `extras` are the versions of messages that are without their `extra`.
    """

    state: State
    texts: tuple[int, ...] = ()
    extras: tuple[int, ...] = ()


def without_texts(state: State) -> LeanState:
    """Leave out of a state what the log has."""
    left_out: dict[int, None] = {}
    without: dict[int, None] = {}

    def leave_out(source: int, text: str) -> str:
        if len(text) <= MAX_INLINE_CHARACTERS:
            return text
        left_out[source] = None
        return ""

    def leave_out_extra(message: Message) -> JsonObject:
        if not message.extra or len(to_json(message.extra)) <= MAX_INLINE_CHARACTERS:
            return message.extra
        without[message.version] = None
        return {}

    state = _replace_texts(state, leave_out, leave_out_extra)
    return LeanState(state, tuple(left_out), tuple(without))


def with_texts(checkpoint: LeanState, events: Mapping[int, Event]) -> State:
    """Make the state that a checkpoint is of, given the events that it refers to, by their versions.

    Raise `KeyError`, with the version, if one lacks.
    """
    left_out, without = frozenset(checkpoint.texts), frozenset(checkpoint.extras)

    def text(source: int, kept: str) -> str:
        return (text_of(events[source]) or "") if source in left_out else kept

    def extra(message: Message) -> JsonObject:
        if message.version not in without:
            return message.extra
        event = events[message.version]
        return event.extra if isinstance(event, MessageAppended) else {}

    return _replace_texts(checkpoint.state, text, extra)


def text_of(event: Event) -> str | None:
    """Return the text that a message or a summary has from an event."""
    match event:
        case MessageAppended(content=text) | MessageEdited(content=text) | ToolSucceeded(content=text):
            return text
        case ToolFailed(error=text) | ToolOutcomeUnknown(error=text) | ApprovalDenied(reason=text):
            return text
        case HistoryCompacted(summary=text):
            return text
        case _:
            return None


_TextSource = Callable[[int, str], str]
"""Gives the text in the place of one, and of the event that it is from."""

_ExtraSource = Callable[[Message], JsonObject]
"""Gives the `extra` that a message is to have."""


_Part = TypeVar("_Part", Thread, Before)
"""What has a window and a summary."""


def _replace_texts(state: State, texts: _TextSource, extras: _ExtraSource) -> State:
    if isinstance(state, Unopened):
        return state

    def in_part(part: _Part) -> _Part:
        window = tuple(_in_message(message, texts, extras(message)) for message in part.window)
        summary = part.summary and replace(part.summary, text=texts(part.summary.said, part.summary.text))
        return replace(part, window=window, summary=summary)

    state = replace(state, thread=in_part(state.thread))
    if not isinstance(state, Running) or state.turn.before is None:
        return state
    return replace(state, turn=replace(state.turn, before=in_part(state.turn.before)))


def _in_message(message: Message, texts: _TextSource, extra: JsonObject) -> Message:
    if message.content is not None:
        message = replace(message, content=texts(message.edited or message.version, message.content))
    return message if extra is message.extra else replace(message, extra=extra)
