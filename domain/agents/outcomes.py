"""Outcomes of tool calls as values, for nodes and branches."""

from typing import Literal

from msgspec import Struct

from domain.json import JsonObject, copied
from domain.thread.state import Message, Running


class ToolOutcome(Struct, frozen=True):
    """What became of a tool call. `content` is what the model reads: the result, or why there is none.

    `denied`: a person refused it. `unknown`: it was started and may have had its effect.
    """

    tool: str
    call_id: str
    """The model's label of the call; the model may use it more than once."""
    arguments: JsonObject
    """The arguments that it ran with: those of the person who approved it, if that person changed them."""
    status: Literal["succeeded", "failed", "unknown", "denied"]
    content: str


def outcomes(state: Running) -> tuple[ToolOutcome, ...]:
    """Return the outcomes of the tool calls that the agent's last message requested, in the order of the calls.

    Empty if that message requested none. Calls that have no outcome yet are left out.
    """
    results: list[Message] = []
    for message in reversed(state.thread.window):
        if message.role != "tool":
            calls = message.tool_calls
            return tuple([_outcome(result, calls[_place(result)].arguments) for result in sorted(results, key=_place)])
        results.append(message)
    return ()


def _place(message: Message) -> int:
    return message.answers or 0


def _outcome(message: Message, arguments: JsonObject) -> ToolOutcome:
    status = message.outcome or "succeeded"
    return ToolOutcome(message.name or "", message.call_id or "", copied(arguments), status, message.content or "")
