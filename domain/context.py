"""What the model is shown: a pure function of the state, never over the limit.

The first message is the system's: instructions, values of the thread, the summary of what left the live window, and
parts of older messages that matter again. Then, newest first, messages are taken into the prompt as long as they fit.
A message that asks for tools and the answers to it are one group: shown together or not at all. The user's last
message is always shown. Where even the newest group is too long, the longest texts in it are shortened.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.chat import MESSAGE_OVERHEAD, ChatMessage
from domain.codec import to_json
from domain.errors import PromptTooLarge
from domain.events import ContextAssembled, Recalled
from domain.ids import Version
from domain.json import JsonObject
from domain.recall import Excerpt
from domain.state import Message, Running, Summary

SHORTENED = "\n[shortened: the rest did not fit into the context window]"
SHORTENED_TOKENS = 16

HEADING_TOKENS = 16
"""Tokens that a heading within the system's message costs, a little generously."""

Count: TypeAlias = Callable[[str], int]
"""Counts the tokens of a text."""

Priced: TypeAlias = tuple[Excerpt, int]
"""An excerpt, and the tokens that it takes."""


class Fixed(Struct, frozen=True):
    """What a prompt holds whatever was said: instructions, tools, and values of the thread that are shown.

    `tokens` counts all of it; `texts` are the names that instructions, tools and values are kept under. `known` is what
    the model is told of the `values`.
    """

    instructions: str = ""
    tokens: int = 0
    texts: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    known: str = ""


class Context(Struct, frozen=True):
    """A prompt, and the fact to record about it."""

    messages: tuple[ChatMessage, ...]
    assembled: ContextAssembled


def assemble(state: Running, fixed: Fixed, *, limit: int, count: Count, recalled: Sequence[Excerpt] = ()) -> Context:
    """Choose what fits into `limit` tokens. Of what is recalled, the first have precedence; what is shown is left out.

    Raises:
        PromptTooLarge: it cannot be made to fit.
    """
    thread = state.thread
    asked = last_question(thread.window)
    used = fixed.tokens + summary_tokens(thread.summary) + (cost(asked) if asked else 0)
    _, least = _newest(thread.window, asked, used, 0)
    again, chosen, used = _chosen(thread.window, asked, _priced(recalled, count), used, limit - least, limit)
    pinned = asked if asked and asked.version < chosen[0].version else None
    whole = [pinned, *chosen] if pinned else chosen
    shown, removed = _fitted(whole, used - limit, count)
    if used - removed > limit:
        raise PromptTooLarge(used - removed, limit)
    heading = system_text(fixed.instructions, fixed.known, thread.summary, again)
    system = (ChatMessage("system", heading),) if heading else ()
    assembled = ContextAssembled(
        first=chosen[0].version if chosen else 0,
        last=chosen[-1].version if chosen else 0,
        tokens=used - removed,
        limit=limit,
        summarised=thread.summary.through if thread.summary else 0,
        pinned=pinned.version if pinned else 0,
        fixed=fixed.tokens,
        texts=fixed.texts,
        values=fixed.values,
        recalled=tuple(Recalled(e.message, e.start, e.start + len(e.text), e.because) for e in again),
        of=state.version,
        shortened=tuple([_kept(now) for now, before in zip(shown, whole, strict=True) if now is not before]),
    )
    return Context((*system, *map(chat_message, shown)), assembled)


def first_shown(state: Running, fixed_tokens: int, limit: int) -> Version:
    """Return the first message of the live window that a prompt of so many tokens would hold: what is older is not."""
    thread = state.thread
    asked = last_question(thread.window)
    used = fixed_tokens + summary_tokens(thread.summary) + (cost(asked) if asked else 0)
    chosen, _ = _newest(thread.window, asked, used, limit)
    return chosen[0].version if chosen else state.version


def groups(window: Sequence[Message]) -> list[Sequence[Message]]:
    """Cut the window into what belongs together: tool messages stay with the message that asked for them."""
    cuts = [index for index, message in enumerate(window) if message.role != "tool"]
    return [window[start:end] for start, end in pairwise([*cuts, len(window)])]


def cost(message: Message) -> int:
    """Return the tokens that a message takes in a prompt."""
    return message.tokens + MESSAGE_OVERHEAD


def summary_tokens(summary: Summary | None) -> int:
    """Return the tokens that a summary takes in a prompt."""
    return summary.tokens + HEADING_TOKENS if summary else 0


def last_question(window: Sequence[Message]) -> Message | None:
    """Return the user's last message."""
    return next((message for message in reversed(window) if message.role == "user"), None)


def system_text(instructions: str, values: str, summary: Summary | None, recalled: Sequence[Excerpt]) -> str:
    """Write the system's message."""
    again = "\n".join(map(written, recalled))
    parts = (
        instructions,
        f"What is known:\n{values}" if values else "",
        f"Earlier in this conversation:\n{summary.text}" if summary else "",
        f"Said before, word for word:\n{again}" if again else "",
    )
    return "\n\n".join(filter(None, parts))


def values_text(values: JsonObject, names: Sequence[str]) -> str:
    """Write the values of a thread that its model is shown, each on its line; those that it has."""
    return "\n".join(f"{name}: {to_json(values[name])}" for name in names if name in values)


def written(excerpt: Excerpt) -> str:
    """Write a part of an older message for the model: indented, so that no line of it looks like a heading of ours."""
    return f"- {excerpt.who}: " + "\n  ".join(excerpt.text.splitlines())


def price(excerpt: Excerpt, count: Count) -> int:
    """Count a part of an older message as it is written, on lines of its own."""
    return count(written(excerpt)) + 1


def chat_message(message: Message) -> ChatMessage:
    """Write a message as the model sees it."""
    return ChatMessage(
        *(message.role, message.content, message.tool_calls, message.call_id, message.name),
        answers=message.answers,
        extra=message.extra,
        origin=message.origin,
    )


def shortened_text(text: str, characters: int) -> str:
    """Write the beginning of a text, and that the rest is missing."""
    return text[:characters] + SHORTENED


def _newest(window: Sequence[Message], asked: Message | None, used: int, limit: int) -> tuple[list[Message], int]:
    """Take whole groups, the newest first, until the next one does not fit; the newest one in any case."""
    start, price = len(window), 0
    for index in range(len(window) - 1, -1, -1):
        message = window[index]
        if message is not asked:
            price += message.tokens + MESSAGE_OVERHEAD
        if message.role != "tool":  # then a group begins here
            if used + price > limit and start < len(window):
                break
            start, used, price = index, used + price, 0
    return list(window[start:]), used


def _chosen(
    window: Sequence[Message], asked: Message | None, recalled: Sequence[Priced], used: int, room: int, limit: int
) -> tuple[list[Excerpt], list[Message], int]:
    """Choose what is recalled and what is shown of the window, so that no message is both.

    What is not recalled makes room for more of the window, which then need not be recalled either.
    """
    while True:
        again, again_tokens = _taken(recalled, room)
        chosen, total = _newest(window, asked, used + again_tokens, limit)
        shown = {message.version for message in (*chosen, *([asked] if asked else []))} if again else set()
        if not any(_of(excerpt) in shown for excerpt in again):
            return again, chosen, total
        recalled = [priced for priced in recalled if _of(priced[0]) not in shown]


def _of(excerpt: Excerpt) -> Version:
    return excerpt.edits or excerpt.message


def _priced(recalled: Sequence[Excerpt], count: Count) -> Sequence[Priced]:
    """Count excerpts as they will be written, unless they are already."""
    return [(excerpt, price(excerpt, count) if excerpt.price is None else excerpt.price) for excerpt in recalled]


def _taken(recalled: Sequence[Priced], room: int) -> tuple[list[Excerpt], int]:
    """Take what fits of what is recalled, in the order of the conversation."""
    taken: list[Excerpt] = []
    used = 0
    for excerpt, tokens in recalled:
        price = tokens + (0 if taken else HEADING_TOKENS)
        if used + price <= room:
            taken.append(excerpt)
            used += price
    return sorted(taken, key=lambda excerpt: (excerpt.message, excerpt.start)), used


def _fitted(messages: Sequence[Message], excess: int, count: Count) -> tuple[Sequence[Message], int]:
    """Shorten the longest texts until `excess` tokens are gone; return also how many that were.

    Messages that ask for tools stay as they are: their calls cannot be shortened.
    """
    if excess <= 0:
        return messages, 0
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
        kept = shortened_text(text, len(text) * max(tokens - SHORTENED_TOKENS, 0) // message.tokens)
        counted = count(kept)
        if counted < message.tokens or tokens == 0:
            return replace(message, content=kept, tokens=counted, extra={}, origin="")
        tokens //= 2


def _kept(message: Message) -> tuple[int, int]:
    return message.version, len(message.content or "") - len(SHORTENED)
