"""What a snapshot holds: a state in which references to events replace the longer texts of messages.

So a thread's texts are stored once, regardless of the number of snapshots. Short texts stay, because a reference is as
long. The `extra` of messages, such as a model's reasoning, is replaced in the same way.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from domain.json import JsonObject
from domain.thread.codec import to_json
from domain.thread.events import Event, MessageAppended, text_of
from domain.thread.state import Before, Message, Running, State, Thread, Unopened

MAX_INLINE_CHARACTERS = 40
"""Maximum characters of a text that stays in the state."""


class LeanState(Struct, frozen=True):
    """A state without its longer texts. `texts` are the versions of the events that have them.

    `extras` are the versions of the messages whose `extra` was left out.
    """

    state: State
    texts: tuple[int, ...] = ()
    extras: tuple[int, ...] = ()


def without_texts(state: State) -> LeanState:
    """Remove the longer texts from a state."""
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
    """Restore a state, given the events that it refers to, by their versions.

    Raises `KeyError` with the version if an event is missing.
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


_TextSource = Callable[[int, str], str]
"""Returns the replacement of a text, given the version of its event and the text."""

_ExtraSource = Callable[[Message], JsonObject]
"""Returns the replacement of a message's `extra`."""


_Part = TypeVar("_Part", Thread, Before)
"""A part of the state with a window and a summary."""


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
