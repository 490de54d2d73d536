"""What the model is shown: a pure function of the state, never over the limit.

What stays the same comes first, so that providers that cache prefixes find it again. The first message is the
system's: instructions, and the summary of what left the live window. Then come the window's messages, each as it was
shown before. What belongs to this turn only, values of the thread and parts of older messages that matter again, stands
before the user's words in the user's last message: see `domain.prompt.application_context`.

Where the window does not fit, many of its oldest messages are left out at once, and stay out: to leave out one more
with each prompt would change every prompt from its beginning on. A message that asks for tools and the answers to it
are one group: shown together or not at all. The user's last message is always shown. Where even the newest group is too
long, the longest texts in it are shortened, and stay so.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.errors import PromptTooLarge
from domain.ids import Version
from domain.json import JsonObject
from domain.models.chat import MESSAGE_OVERHEAD, ChatMessage
from domain.prompt.application_context import context_block, indented, is_harmless, without_markers
from domain.recall.excerpts import Excerpt
from domain.thread.codec import to_json
from domain.thread.events import ContextAssembled, Recalled
from domain.thread.state import Message, Running, Summary, Thread

SHORTENED = "\n[shortened: the rest did not fit into the context window]"
SHORTENED_TOKENS = 16

HEADING_TOKENS = 16
"""Tokens that a heading within a message costs, a little generously."""

MARKS_TOKENS = 32
"""Tokens that the marks around what is given beside the user's message cost, a little generously."""

LAYOUT = 2
"""How prompts are laid out. Those of layout 1 had values and older messages in the system's message."""

LEFT = 0.4
"""The share of the room for messages that is filled again, once messages had to be left out."""

Count: TypeAlias = Callable[[str], int]
"""Counts the tokens of a text."""

Priced: TypeAlias = tuple[Excerpt, int]
"""An excerpt, and the tokens that it takes."""


class FixedParts(Struct, frozen=True):
    """What a prompt holds whatever was said: instructions, tools, and values of the thread that are shown.

    `tokens` counts all of it; `texts` are the names that instructions, tools and values are kept under. `known` is what
    the model is told of the `values`.
    """

    instructions: str = ""
    tokens: int = 0
    texts: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    known: str = ""


class AssembledPrompt(Struct, frozen=True):
    """A prompt, and the fact to record about it."""

    messages: tuple[ChatMessage, ...]
    assembled: ContextAssembled


def assemble(
    state: Running, fixed: FixedParts, *, limit: int, count: Count, recalled: Sequence[Excerpt] = ()
) -> AssembledPrompt:
    """Choose what fits into `limit` tokens. Of what is recalled, the first have precedence; what is shown is left out.

    Raises:
        PromptTooLarge: it cannot be made to fit.
    """
    thread = state.thread
    before = _before(thread, limit)
    window = _as_shown(thread.window, before, count)
    asked = last_question(window)
    used = fixed.tokens + summary_tokens(thread.summary) + (cost(asked) if asked else 0)
    _, least = _newest(window, asked, used, 0)
    heading = HEADING_TOKENS + (0 if fixed.known else MARKS_TOKENS)
    start = before.first if before else 0
    priced = _priced(recalled, count)
    again, chosen, beside, used = _chosen(window, start, asked, priced, used, limit - least, limit, heading)
    pinned = asked if asked and asked.version < chosen[0].version else None
    whole = [pinned, *chosen] if pinned else chosen
    shown, removed = _fitted(whole, used - limit, count)
    if used - removed > limit:
        raise PromptTooLarge(used - removed, limit)
    said = {message.version: message for message in thread.window} if removed or (before and before.shortened) else {}
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
        shortened=tuple([_kept(m) for m in shown if said and m.content != said[m.version].content]),
        of=state.version,
        layout=LAYOUT,
        recalled_tokens=beside,
    )
    return AssembledPrompt(laid_out(fixed.instructions, fixed.known, thread.summary, again, shown), assembled)


def laid_out(
    instructions: str, known: str, summary: Summary | None, recalled: Sequence[Excerpt], shown: Sequence[Message]
) -> tuple[ChatMessage, ...]:
    """Write a prompt: the system's message, then what was said, with what is given before the user's last words."""
    given = context_block(known, recalled)
    asked = last_question(shown)
    heading = (
        system_text(instructions, summary) if asked else _joined(system_text(instructions, summary), given.strip())
    )
    system = (ChatMessage("system", heading),) if heading else ()
    plain = _is_plain(shown)
    return (*system, *[chat_message(message, given if message is asked else "", plain=plain) for message in shown])


class WindowPlace(Struct, frozen=True):
    """Where the live window begins in a prompt, and the tokens that its limit then leaves."""

    first: Version
    left: int


def first_shown(state: Running, fixed_tokens: int, limit: int, reserved: int, count: Count) -> WindowPlace:
    """Return what a prompt of so many tokens would show of the live window, if some of them were kept for other things.

    What is older than that is not shown.
    """
    thread = state.thread
    before = _before(thread, limit)
    window = _as_shown(thread.window, before, count)
    asked = last_question(window)
    used = fixed_tokens + summary_tokens(thread.summary) + (cost(asked) if asked else 0)
    chosen, total = _from(window, before.first if before else 0, asked, used, reserved, limit)
    return WindowPlace(chosen[0].version if chosen else state.version, limit - total + reserved)


def stable_tokens(thread: Thread) -> int:
    """Return the tokens of the last prompt and of what was said since, without what belonged to that turn only."""
    prompt = thread.prompt
    if prompt is None:
        return 0
    since = sum(cost(message) for message in thread.window if message.version > prompt.last)
    return prompt.tokens - prompt.recalled_tokens + since


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


def system_text(instructions: str, summary: Summary | None) -> str:
    """Write the system's message."""
    return _joined(instructions, f"Earlier in this conversation:\n{summary.text}" if summary else "")


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def values_text(values: JsonObject, names: Sequence[str]) -> str:
    """Write the values of a thread that its model is shown, each on its line; those that it has."""
    return "\n".join(f"{name}: {to_json(values[name])}" for name in names if name in values)


def price(excerpt: Excerpt, count: Count) -> int:
    """Count a part of an older message as it is written, on lines of its own."""
    return count(indented(excerpt)) + 1


def chat_message(message: Message, given: str = "", *, plain: bool = False) -> ChatMessage:
    """Write a message as the model sees it, behind what is given beside it. `plain`: its text is harmless."""
    content = message.content if plain or message.content is None else without_markers(message.content)
    if given:
        content = given + (content or "")
    said = message.role, content, message.tool_calls, message.call_id, message.name
    return ChatMessage(*said, message.answers, message.extra, message.origin)


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


def _before(thread: Thread, limit: int) -> ContextAssembled | None:
    """Return the fact about the last prompt, if this one begins as that did: it had the same limit and layout."""
    prompt = thread.prompt
    return prompt if prompt and (prompt.limit, prompt.layout) == (limit, LAYOUT) else None


def _as_shown(window: Sequence[Message], before: ContextAssembled | None, count: Count) -> Sequence[Message]:
    """Shorten the messages that the last prompt had shortened, in the same way; count all as they are written."""
    kept = dict(before.shortened) if before else {}
    if not kept and _is_plain(window):
        return window
    return [
        _cut_to(message, kept[message.version], count) if message.version in kept else as_written(message, count)
        for message in window
    ]


def _is_plain(messages: Sequence[Message]) -> bool:
    """Say whether all texts are ASCII and harmless: mostly they are, and then none is looked at by itself."""
    text = "".join([message.content or "" for message in messages])
    return text.isascii() and is_harmless(text)


def _cut_to(message: Message, characters: int, count: Count) -> Message:
    text = shortened_text(message.content or "", characters)
    return replace(message, content=text, tokens=count(without_markers(text)), extra={}, origin="")


def as_written(message: Message, count: Count) -> Message:
    """Count what a message takes more than it has, where something of it is written in another way."""
    text = message.content or ""
    if (shown := without_markers(text)) == text:
        return message
    return replace(message, tokens=message.tokens + max(count(shown) - count(text), 0))


def _from(
    window: Sequence[Message], first: int, asked: Message | None, used: int, beside: int, limit: int
) -> tuple[list[Message], int]:
    """Take the window from a version on, and tokens beside it. If that does not fit, take only the newest groups.

    They are as many as fit into a part of the room for messages, whatever is beside them.
    """
    shown = [message for message in window if message.version >= first] or list(window)
    total = used + beside + sum([message.tokens for message in shown]) + MESSAGE_OVERHEAD * len(shown)
    if asked and asked.version >= shown[0].version:  # it is among those that are used
        total -= cost(asked)
    if total <= limit:
        return shown, total
    room = min(int((limit - used) * LEFT), limit - used - beside)
    return _newest(window, asked, used + beside, used + beside + room)


def _chosen(
    window: Sequence[Message],
    first: int,
    asked: Message | None,
    recalled: Sequence[Priced],
    used: int,
    room: int,
    limit: int,
    heading: int,
) -> tuple[list[Excerpt], list[Message], int, int]:
    """Choose what is recalled and what is shown of the window, so that no message is both; and count the tokens.

    What is not recalled makes room for more of the window, which then need not be recalled either.
    """
    while True:
        again, again_tokens = _taken(recalled, room, heading)
        chosen, total = _from(window, first, asked, used, again_tokens, limit)
        shown = {message.version for message in (*chosen, *([asked] if asked else []))} if again else set()
        if not any(_of(excerpt) in shown for excerpt in again):
            return again, chosen, again_tokens, total
        recalled = [priced for priced in recalled if _of(priced[0]) not in shown]


def _of(excerpt: Excerpt) -> Version:
    return excerpt.edits or excerpt.message


def _priced(recalled: Sequence[Excerpt], count: Count) -> Sequence[Priced]:
    """Count excerpts as they will be written, unless they are already."""
    return [(excerpt, price(excerpt, count) if excerpt.price is None else excerpt.price) for excerpt in recalled]


def _taken(recalled: Sequence[Priced], room: int, heading: int) -> tuple[list[Excerpt], int]:
    """Take what fits of what is recalled, in the order of the conversation."""
    taken: list[Excerpt] = []
    used = 0
    for excerpt, tokens in recalled:
        price = tokens + (0 if taken else heading)
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
        counted = count(without_markers(kept))
        if counted < message.tokens or tokens == 0:
            return replace(message, content=kept, tokens=counted, extra={}, origin="")
        tokens //= 2


def _kept(message: Message) -> tuple[int, int]:
    return message.version, len(message.content or "") - len(SHORTENED)
