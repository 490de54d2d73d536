"""What the model is shown: a pure function of the state, never over the limit.

Newest first, messages are taken into the prompt as long as they fit. A message that asks for tools and the answers
to it are one group: shown together or not at all. The user's last message is always shown.
"""

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from domain.chat import ChatMessage
from domain.events import ContextAssembled
from domain.state import Message, Running

MESSAGE_OVERHEAD = 4
"""Tokens that a message costs beyond its text in the chat formats in use."""

SHORTENED = "\n[shortened: the rest did not fit into the context window]"
SHORTENED_TOKENS = 16


class Context(Struct, frozen=True):
    """A prompt, and the fact to record about it."""

    messages: tuple[ChatMessage, ...]
    assembled: ContextAssembled


def assemble(state: Running, instructions: str, *, overhead: int, limit: int) -> Context:
    """Choose what fits into `limit` tokens. `overhead` is what instructions and tools cost before any message."""
    window, summary = state.thread.window, state.thread.summary
    asked = next((m for m in reversed(window) if m.role == "user"), None)
    used = overhead + (cost(asked) if asked else 0) + (summary.tokens if summary else 0)
    chosen: list[Message] = []
    for group in reversed(groups(window)):
        price = sum(cost(message) for message in group if message is not asked)
        if used + price > limit and chosen:
            break
        used += price
        chosen[:0] = group
    pinned = asked if asked and asked not in chosen else None
    shown, removed = _fitted([pinned, *chosen] if pinned else chosen, used - limit)
    heading = "\n\n".join(filter(None, (instructions, _told(summary.text) if summary else "")))
    system = (ChatMessage("system", heading),) if heading else ()
    assembled = ContextAssembled(
        first=chosen[0].version if chosen else 0,
        last=chosen[-1].version if chosen else 0,
        tokens=used - removed,
        limit=limit,
        summarised=summary.through if summary else 0,
        pinned=pinned.version if pinned else 0,
    )
    return Context((*system, *map(_chat, shown)), assembled)


def groups(window: Sequence[Message]) -> list[Sequence[Message]]:
    """Cut the window into what belongs together: tool messages stay with the message that asked for them."""
    cuts = [index for index, message in enumerate(window) if message.role != "tool"]
    return [window[start:end] for start, end in pairwise([*cuts, len(window)])]


def cost(message: Message) -> int:
    """Return the tokens that a message takes in a prompt."""
    return message.tokens + MESSAGE_OVERHEAD


def _told(summary: str) -> str:
    return f"Earlier in this conversation:\n{summary}"


def _fitted(messages: Sequence[Message], excess: int) -> tuple[Sequence[Message], int]:
    """Shorten the longest texts until `excess` tokens are gone; return also how many that were."""
    fitted, removed = list(messages), 0
    while removed < excess:
        index = max(range(len(fitted)), key=lambda i: fitted[i].tokens)
        longest = fitted[index]
        if not longest.content or longest.tokens <= SHORTENED_TOKENS:
            break
        kept = max(longest.tokens // 2, longest.tokens - (excess - removed))
        # Characters are taken to weigh alike: the text keeps the share that its new count is of the old one.
        characters = len(longest.content) * max(kept - SHORTENED_TOKENS, 0) // longest.tokens
        text = longest.content.removesuffix(SHORTENED)[:characters] + SHORTENED
        fitted[index] = replace(longest, content=text, tokens=kept)
        removed += longest.tokens - kept
    return fitted, removed


def _chat(message: Message) -> ChatMessage:
    return ChatMessage(message.role, message.content, message.tool_calls, message.call_id, message.name)
