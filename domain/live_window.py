"""Changes of messages that are in the live window already."""

from msgspec.structs import replace

from domain.chat import ToolCall
from domain.events import MessageEdited
from domain.state import Message


def asking_for(window: tuple[Message, ...], old: ToolCall, new: ToolCall, more: int) -> tuple[Message, ...]:
    """Change a call of the last message that asks for any: open calls are all of that one."""
    at = max(index for index, message in enumerate(window) if message.role == "assistant")
    asked = tuple(new if call == old else call for call in window[at].tool_calls)
    changed = replace(window[at], tool_calls=asked, tokens=max(window[at].tokens + more, 0))
    return (*window[:at], changed, *window[at + 1 :])


def edited(window: tuple[Message, ...], event: MessageEdited) -> tuple[tuple[Message, ...], int]:
    """Let a message read otherwise, and say how many tokens more that is."""
    before = next((message for message in window if message.version == event.message), None)
    if before is None:
        return window, 0
    after = replace(before, content=event.content, tokens=event.tokens)
    return tuple(after if message is before else message for message in window), after.tokens - before.tokens
