"""Changes to messages of the live window."""

from msgspec.structs import replace

from domain.ids import Version
from domain.models.chat import ToolCall, estimate_tokens
from domain.thread.events import MessageEdited
from domain.thread.state import Message


def replace_call(window: tuple[Message, ...], place: int, new: ToolCall) -> tuple[tuple[Message, ...], int]:
    """Replace the call at index `place` of the last assistant message; return the window and the change in tokens."""
    at = max(index for index, message in enumerate(window) if message.role == "assistant")  # it has all open calls
    before = window[at]
    asked = (*before.tool_calls[:place], new, *before.tool_calls[place + 1 :])
    tokens = max(before.tokens + estimate_tokens([new]) - estimate_tokens([before.tool_calls[place]]), 0)
    after = replace(before, tool_calls=asked, tokens=tokens)
    return (*window[:at], after, *window[at + 1 :]), tokens - before.tokens


def apply_edit(window: tuple[Message, ...], event: MessageEdited, version: Version) -> tuple[tuple[Message, ...], int]:
    """Replace the text of a message; return the window and the change in tokens.

    A message without calls loses its `extra`, which belonged to the old text. A message with calls keeps it: calls are
    not edited, and endpoints refuse them without the reasoning or the signature that they came with.
    """
    before = next((message for message in window if message.version == event.message), None)
    if before is None:
        return window, 0
    extra, origin = (before.extra, before.origin) if before.tool_calls else ({}, "")
    after = replace(before, content=event.content, tokens=event.tokens, edited=version, extra=extra, origin=origin)
    return tuple(after if message is before else message for message in window), after.tokens - before.tokens
