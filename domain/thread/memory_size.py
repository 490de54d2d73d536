"""Estimates the bytes that a folded thread takes in memory, for the caches of folded threads."""

from sys import getsizeof

from domain.json import Json
from domain.models.chat import OutputFormat, ToolCall
from domain.thread.codec import to_json
from domain.thread.state import Message, Running, State, Unopened

THREAD_BYTES = 2_000
"""Bytes of a thread without content."""

MESSAGE_BYTES = 300
"""Bytes of a message, a call or an item without its content."""

BYTES_PER_CHARACTER = 3
"""Bytes that decoded JSON takes in memory for each character of its text."""


def size_of(state: State) -> int:
    """Return the estimated bytes of a state."""
    if isinstance(state, Unopened):
        return THREAD_BYTES
    thread = state.thread
    weight = THREAD_BYTES + _json_size(thread.values) + sum(map(_message_size, thread.window))
    weight += getsizeof(thread.summary.text) if thread.summary else 0
    weight += sum(MESSAGE_BYTES + getsizeof(queued.content) + _output_size(queued.output) for queued in thread.queue)
    weight += _output_size(thread.last_turn.output) if thread.last_turn else 0
    if isinstance(state, Running):
        turn = state.turn
        weight += _output_size(turn.output)
        weight += sum(_call_size(call.request) for call in turn.calls)
        weight += sum(MESSAGE_BYTES + _json_size(item.value) + _json_size(item.result) for item in turn.all_items)
        weight += sum(MESSAGE_BYTES + getsizeof(answer.content) for answer in turn.answers)
        weight += sum(MESSAGE_BYTES + getsizeof(q.text) + _json_size(q.schema) for q in turn.questions)
        if before := turn.before:
            there = {id(message) for message in thread.window}
            weight += sum(_message_size(message) for message in before.window if id(message) not in there)
            weight += 0 if before.values is thread.values else _json_size(before.values)
    return weight


def measure(state: State, weight: int, grown: int) -> tuple[int, int]:
    """Return a state's size, and by how many bytes it has grown since it was measured.

    The state is measured again only when it has grown by its own size. So measuring costs little compared to folding.
    """
    return (size_of(state), 0) if grown >= weight else (weight, grown)


def _message_size(message: Message) -> int:
    calls = sum(map(_call_size, message.tool_calls))
    return MESSAGE_BYTES + getsizeof(message.content) + calls + _json_size(message.extra)


def _call_size(call: ToolCall) -> int:
    return MESSAGE_BYTES + _json_size(call.arguments) + _json_size(call.extra)


def _output_size(output: OutputFormat | None) -> int:
    return MESSAGE_BYTES + _json_size(output.schema) if output else 0


def _json_size(value: Json) -> int:
    return BYTES_PER_CHARACTER * len(to_json(value)) if value else 0
