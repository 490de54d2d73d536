"""About how many bytes a folded thread takes in memory, for the caches that keep some."""

from sys import getsizeof

from domain.json import Json
from domain.models.chat import ToolCall
from domain.thread.codec import to_json
from domain.thread.state import Message, Running, State, Unopened

THREAD = 2_000
"""Bytes of a thread without any content."""

MESSAGE = 300
"""Bytes of a message, a call or an item beside its content."""

JSON = 3
"""Bytes that JSON takes in memory for each character of its text."""


def weight_of(state: State) -> int:
    """Add up what a state holds."""
    if isinstance(state, Unopened):
        return THREAD
    thread = state.thread
    weight = THREAD + _json(thread.values) + sum(map(_message, thread.window))
    weight += getsizeof(thread.summary.text) if thread.summary else 0
    weight += sum(MESSAGE + getsizeof(queued.content) for queued in thread.queue)
    if isinstance(state, Running):
        turn = state.turn
        weight += sum(_call(call.request) for call in turn.calls)
        weight += sum(MESSAGE + _json(item.value) + _json(item.result) for item in turn.items or ())
        if before := turn.before:
            there = {id(message) for message in thread.window}
            weight += sum(_message(message) for message in before.window if id(message) not in there)
            weight += 0 if before.values is thread.values else _json(before.values)
    return weight


def weighed(state: State, weight: int, grown: int) -> tuple[int, int]:
    """Return a state's weight, and by how much it has grown since it was weighed: again, once that is as much.

    So what weighing costs is small beside what it costs to fold so many events.
    """
    return (weight_of(state), 0) if grown >= weight else (weight, grown)


def _message(message: Message) -> int:
    return MESSAGE + getsizeof(message.content) + sum(map(_call, message.tool_calls)) + _json(message.extra)


def _call(call: ToolCall) -> int:
    return MESSAGE + _json(call.arguments) + _json(call.extra)


def _json(value: Json) -> int:
    return JSON * len(to_json(value)) if value else 0
