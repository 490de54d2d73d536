"""What the model is shown: a pure function of the state, never over the limit.

Newest first, messages are taken into the prompt as long as they fit. A message that asks for tools and the answers
to it are one group: shown together or not at all. The user's last message is always shown. Where even the newest
group is too long, the longest texts in it are shortened.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.chat import MESSAGE_OVERHEAD, ChatMessage
from domain.errors import PromptTooLarge
from domain.events import ContextAssembled
from domain.state import Message, Running

SHORTENED = "\n[shortened: the rest did not fit into the context window]"
SHORTENED_TOKENS = 16


Count: TypeAlias = Callable[[str], int]
"""Counts the tokens of a text."""


class Context(Struct, frozen=True):
    """A prompt, and the fact to record about it."""

    messages: tuple[ChatMessage, ...]
    assembled: ContextAssembled


def assemble(state: Running, instructions: str, *, overhead: int, limit: int, count: Count) -> Context:
    """Choose what fits into `limit` tokens. `overhead` is what instructions and tools cost before any message.

    Raises:
        PromptTooLarge: it cannot be made to fit.
    """
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
    shown, removed = _fitted([pinned, *chosen] if pinned else chosen, used - limit, count)
    if used - removed > limit:
        raise PromptTooLarge(used - removed, limit)
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


def _fitted(messages: Sequence[Message], excess: int, count: Count) -> tuple[Sequence[Message], int]:
    """Shorten the longest texts until `excess` tokens are gone; return also how many that were.

    Messages that ask for tools stay as they are: their calls cannot be shortened.
    """
    fitted, removed = list(messages), 0
    long = [index for index, message in enumerate(fitted) if message.content and not message.tool_calls]
    while removed < excess and long:
        index = max(long, key=lambda i: fitted[i].tokens)
        before = fitted[index]
        after = _shortened(before, max(before.tokens // 2, before.tokens - (excess - removed)), count)
        if after.tokens >= before.tokens:
            long.remove(index)
            continue
        fitted[index] = after
        removed += before.tokens - after.tokens
    return fitted, removed


def _shortened(message: Message, tokens: int, count: Count) -> Message:
    """Keep the beginning of a message's text, in about so many tokens; in fewer, if it would not get shorter."""
    text = (message.content or "").removesuffix(SHORTENED)
    while True:
        kept = text[: len(text) * max(tokens - SHORTENED_TOKENS, 0) // message.tokens] + SHORTENED
        counted = count(kept)
        if counted < message.tokens or tokens == 0:
            return replace(message, content=kept, tokens=counted)
        tokens //= 2


def _chat(message: Message) -> ChatMessage:
    return ChatMessage(message.role, message.content, message.tool_calls, message.call_id, message.name)
