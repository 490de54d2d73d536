"""What a snapshot holds of a state: not the texts of its messages, which the log has, but which events have them.

So a thread's texts are stored once, however many snapshots there are. Short texts stay: a reference takes as much.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from domain.events import (
    ApprovalDenied,
    Event,
    HistoryCompacted,
    MessageAppended,
    MessageEdited,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolSucceeded,
)
from domain.state import Message, Running, State, Summary, Unopened

SHORT = 40
"""Characters of a text that stays."""


class Checkpoint(Struct, frozen=True):
    """A state without its longer texts, and the versions of the events that have them."""

    state: State
    texts: tuple[int, ...] = ()


def lean(state: State) -> Checkpoint:
    """Leave out of a state what the log has."""
    left_out: dict[int, None] = {}

    def leave_out(source: int, text: str) -> str:
        if len(text) <= SHORT:
            return text
        left_out[source] = None
        return ""

    state = _with_texts(state, leave_out)
    return Checkpoint(state, tuple(left_out))


def whole(checkpoint: Checkpoint, texts: Mapping[int, str]) -> State:
    """Make the state that a checkpoint is of, given its texts. Raise `KeyError`, with the version, if one lacks."""
    left_out = frozenset(checkpoint.texts)
    return _with_texts(checkpoint.state, lambda source, text: text if source not in left_out else texts[source])


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


Texts = Callable[[int, str], str]
"""Gives the text in the place of one, and of the event that it is from."""


def _with_texts(state: State, texts: Texts) -> State:
    if isinstance(state, Unopened):
        return state
    thread = state.thread
    window, summary = _messages(thread.window, texts), _summary(thread.summary, texts)
    state = replace(state, thread=replace(thread, window=window, summary=summary))
    if not isinstance(state, Running) or state.turn.before is None:
        return state
    before = state.turn.before
    before = replace(before, window=_messages(before.window, texts), summary=_summary(before.summary, texts))
    return replace(state, turn=replace(state.turn, before=before))


def _messages(window: tuple[Message, ...], texts: Texts) -> tuple[Message, ...]:
    return tuple(
        message
        if message.content is None
        else replace(message, content=texts(message.edited or message.version, message.content))
        for message in window
    )


def _summary(summary: Summary | None, texts: Texts) -> Summary | None:
    return summary and replace(summary, text=texts(summary.said, summary.text))
