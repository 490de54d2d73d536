"""Prompt assembly: a pure function of the thread's state. A prompt never exceeds its token limit.

What stays the same comes first, so that providers that cache prefixes hit. The first message is the system's: the
instructions and the summary of what left the live window. The window's messages follow, each as it was sent before.
What belongs to this turn only, values of the thread and recalled excerpts, precedes the user's words in the user's last
message: see `domain.prompt.application_context`.

If the window does not fit, many of its oldest messages are omitted at once, and stay omitted. To omit one more with
each prompt would change every prompt from its beginning. A message that calls tools and the results are one group:
shown together or not at all. The user's last message is always shown. If even the newest group is too long, the longest
texts in it are shortened, and stay so.
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
from domain.prompt.application_context import context_block, has_no_bracket, indented, without_markers
from domain.recall.excerpts import Excerpt
from domain.thread.codec import to_json
from domain.thread.events import ContextAssembled, Recalled
from domain.thread.state import Message, Running, Summary, Thread

SHORTENED = "\n[shortened: the rest did not fit into the context window]"
SHORTENED_TOKENS = 16

HEADING_TOKENS = 16
"""What a heading within a message takes, rounded up."""

MARKS_TOKENS = 32
"""What the marks around the application's context take, rounded up."""

LAYOUT = 2
"""The layout of prompts. Layout 1 had values and recalled excerpts in the system's message."""

REFILL_SHARE = 0.4
"""The share of the room for messages that is filled once messages had to be omitted."""

Count: TypeAlias = Callable[[str], int]
"""Counts the tokens of a text."""

CountedExcerpt: TypeAlias = tuple[Excerpt, int]
"""An excerpt, and the tokens that it takes in a prompt."""


class FixedParts(Struct, frozen=True):
    """What a prompt holds whatever was said: instructions, tools, and values of the thread.

    `tokens` counts all of it. `texts` are the names under which instructions, tools and values are stored. `values` are
    the names of the values, `known` is their text.
    """

    instructions: str = ""
    tokens: int = 0
    texts: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    known: str = ""


class AssembledPrompt(Struct, frozen=True):
    """A prompt, and the event that records it."""

    messages: tuple[ChatMessage, ...]
    assembled: ContextAssembled


def assemble(
    state: Running, fixed: FixedParts, *, limit: int, count: Count, recalled: Sequence[Excerpt] = ()
) -> AssembledPrompt:
    """Assemble a prompt of at most `limit` tokens.

    The first of the `recalled` excerpts have precedence. Those of messages that the prompt shows anyway are omitted.

    Raises:
        PromptTooLarge: it cannot be made to fit.
    """
    thread = state.thread
    window = _window_of(thread, fixed.tokens, limit, count)
    heading = HEADING_TOKENS + (0 if fixed.known else MARKS_TOKENS)
    counted = [(e, excerpt_tokens(e, count) if e.prompt_tokens is None else e.prompt_tokens) for e in recalled]
    excerpts, chosen, excerpts_tokens, used = _select(window, counted, heading)
    pinned = window.question if window.question and window.question.version < chosen[0].version else None
    shown, removed = _shorten_longest([pinned, *chosen] if pinned else chosen, used - limit, count)
    if used - removed > limit:
        raise PromptTooLarge(used - removed, limit)
    has_shortened = removed or (window.previous and window.previous.shortened)
    original = {message.version: message.content for message in thread.window} if has_shortened else {}
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
        recalled=tuple(Recalled(e.message, e.start, e.start + len(e.text), e.because) for e in excerpts),
        shortened=tuple(
            (message.version, len(message.content or "") - len(SHORTENED))
            for message in shown
            if original and message.content != original[message.version]
        ),
        of=state.version,
        layout=LAYOUT,
        recalled_tokens=excerpts_tokens,
    )
    return AssembledPrompt(prompt_messages(fixed.instructions, fixed.known, thread.summary, excerpts, shown), assembled)


def prompt_messages(
    instructions: str, known: str, summary: Summary | None, recalled: Sequence[Excerpt], shown: Sequence[Message]
) -> tuple[ChatMessage, ...]:
    """Write a prompt: the system's message, then the messages, with the application's context in the user's last."""
    context = context_block(known, recalled)
    question = last_question(shown)
    heading = system_text(instructions, summary)
    if question is None:
        heading = _paragraphs(heading, context.strip())
    system = (ChatMessage("system", heading),) if heading else ()
    plain = _is_plain(shown)
    return (*system, *[chat_message(message, context if message is question else "", plain=plain) for message in shown])


class WindowStart(Struct, frozen=True):
    """The version at which the live window begins in a prompt, and the tokens that are left of the limit."""

    first: Version
    left: int


def window_start(state: Running, fixed_tokens: int, limit: int, reserved: int, count: Count) -> WindowStart:
    """Return where the window would begin in a prompt of which so many tokens are `reserved` for other things.

    Messages before that are not shown.
    """
    chosen, total = _window_of(state.thread, fixed_tokens, limit, count).fitting(reserved)
    return WindowStart(chosen[0].version if chosen else state.version, limit - total + reserved)


def stable_tokens(thread: Thread) -> int:
    """Return the tokens of the last prompt and of what was said since, without what belonged to that turn only."""
    prompt = thread.prompt
    if prompt is None:
        return 0
    since = sum(message_tokens(message) for message in thread.window if message.version > prompt.last)
    return prompt.tokens - prompt.recalled_tokens + since


def groups(window: Sequence[Message]) -> list[Sequence[Message]]:
    """Split the window into groups: tool messages stay with the message that called the tools."""
    cuts = [index for index, message in enumerate(window) if message.role != "tool"]
    return [window[start:end] for start, end in pairwise([*cuts, len(window)])]


def message_tokens(message: Message) -> int:
    """Return the tokens that a message takes in a prompt."""
    return message.tokens + MESSAGE_OVERHEAD


def summary_tokens(summary: Summary | None) -> int:
    """Return the tokens that a summary takes in a prompt."""
    return summary.tokens + HEADING_TOKENS if summary else 0


def excerpt_tokens(excerpt: Excerpt, count: Count) -> int:
    """Count an excerpt as it is written in a prompt, on lines of its own."""
    return count(indented(excerpt)) + 1


def last_question(window: Sequence[Message]) -> Message | None:
    """Return the user's last message."""
    return next((message for message in reversed(window) if message.role == "user"), None)


def system_text(instructions: str, summary: Summary | None) -> str:
    """Write the system's message."""
    return _paragraphs(instructions, f"Earlier in this conversation:\n{summary.text}" if summary else "")


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def values_text(values: JsonObject, names: Sequence[str]) -> str:
    """Write those of the thread's values that are named, each on a line of its own."""
    return "\n".join(f"{name}: {to_json(values[name])}" for name in names if name in values)


def chat_message(message: Message, context: str = "", *, plain: bool = False) -> ChatMessage:
    """Write a message as the model sees it, after its context. `plain`: its text cannot hold the context's marks."""
    content = message.content if plain or message.content is None else without_markers(message.content)
    if context:
        content = context + (content or "")
    said = message.role, content, message.tool_calls, message.call_id, message.name
    return ChatMessage(*said, message.answers, message.extra, message.origin)


def shortened_text(text: str, characters: int) -> str:
    """Write the beginning of a text, and that the rest is missing."""
    return text[:characters] + SHORTENED


def _previous_prompt(thread: Thread, limit: int) -> ContextAssembled | None:
    """Return the record of the last prompt if this one can begin as that did: it had the same limit and layout."""
    prompt = thread.prompt
    return prompt if prompt and (prompt.limit, prompt.layout) == (limit, LAYOUT) else None


def _as_sent(window: Sequence[Message], previous: ContextAssembled | None, count: Count) -> Sequence[Message]:
    """Shorten the messages that the last prompt shortened, in the same way, and count all as they are sent."""
    lengths = dict(previous.shortened) if previous else {}
    if not lengths and _is_plain(window):
        return window
    return [
        _truncated(message, lengths[message.version], count)
        if message.version in lengths
        else recounted(message, count)
        for message in window
    ]


def _is_plain(messages: Sequence[Message]) -> bool:
    """Say whether all texts are ASCII without a bracket. Mostly they are, and then none is looked at by itself."""
    text = "".join([message.content or "" for message in messages])
    return text.isascii() and has_no_bracket(text)


def _truncated(message: Message, characters: int, count: Count) -> Message:
    text = shortened_text(message.content or "", characters)
    return replace(message, content=text, tokens=count(without_markers(text)), extra={}, origin="")


def recounted(message: Message, count: Count) -> Message:
    """Add the tokens that a message takes more where its text is sent with escaped marks."""
    text = message.content or ""
    if (sent := without_markers(text)) == text:
        return message
    return replace(message, tokens=message.tokens + max(count(sent) - count(text), 0))


class _Window(Struct, frozen=True):
    """The live window as it is sent. A prompt within `limit` begins where the `previous` one did.

    `used` are the tokens of the `question`, and of all that a prompt holds apart from messages and excerpts.
    """

    messages: Sequence[Message]
    question: Message | None
    previous: ContextAssembled | None
    used: int
    limit: int

    def newest(self, used: int, limit: int) -> tuple[list[Message], int]:
        """Take whole groups, the newest first, until the next one does not fit; the newest one in any case.

        Returns also the tokens, with those that are `used` otherwise.
        """
        window, start, tokens = self.messages, len(self.messages), 0
        for index in range(len(window) - 1, -1, -1):
            message = window[index]
            if message is not self.question:
                tokens += message.tokens + MESSAGE_OVERHEAD
            if message.role != "tool":  # then a group begins here
                if used + tokens > limit and start < len(window):
                    break
                start, used, tokens = index, used + tokens, 0
        return list(window[start:]), used

    def fitting(self, excerpts: int) -> tuple[list[Message], int]:
        """Take the messages from where the last prompt began, next to so many tokens of excerpts.

        Returns also all tokens.

        If they do not fit, take only the newest groups: as many as fit into a share of the room for messages, whatever
        the excerpts take.
        """
        used, question, first = self.used, self.question, self.previous.first if self.previous else 0
        shown = [message for message in self.messages if message.version >= first] or list(self.messages)
        total = used + excerpts + sum([message.tokens for message in shown]) + MESSAGE_OVERHEAD * len(shown)
        if question and question.version >= shown[0].version:  # it is among the used tokens already
            total -= message_tokens(question)
        if total <= self.limit:
            return shown, total
        room = min(int((self.limit - used) * REFILL_SHARE), self.limit - used - excerpts)
        return self.newest(used + excerpts, used + excerpts + room)


def _window_of(thread: Thread, fixed_tokens: int, limit: int, count: Count) -> _Window:
    previous = _previous_prompt(thread, limit)
    messages = _as_sent(thread.window, previous, count)
    question = last_question(messages)
    used = fixed_tokens + summary_tokens(thread.summary) + (message_tokens(question) if question else 0)
    return _Window(messages, question, previous, used, limit)


def _select(
    window: _Window, recalled: Sequence[CountedExcerpt], heading: int
) -> tuple[list[Excerpt], list[Message], int, int]:
    """Select excerpts and messages of the window, so that no message is in both. Returns also both counts of tokens.

    An excerpt that is not used makes room for more of the window, which then needs no excerpts either.
    """
    _, least = window.newest(window.used, 0)
    while True:
        excerpts, tokens = _fitting_excerpts(recalled, window.limit - least, heading)
        chosen, total = window.fitting(tokens)
        shown = {message.version for message in (*chosen, window.question) if message} if excerpts else set()
        if not any(_message_of(excerpt) in shown for excerpt in excerpts):
            return excerpts, chosen, tokens, total
        recalled = [counted for counted in recalled if _message_of(counted[0]) not in shown]


def _message_of(excerpt: Excerpt) -> Version:
    return excerpt.edits or excerpt.message


def _fitting_excerpts(recalled: Sequence[CountedExcerpt], room: int, heading: int) -> tuple[list[Excerpt], int]:
    """Take the excerpts that fit, in the order of the conversation. Returns also their tokens."""
    taken: list[Excerpt] = []
    used = 0
    for excerpt, tokens in recalled:
        with_heading = tokens + (0 if taken else heading)
        if used + with_heading <= room:
            taken.append(excerpt)
            used += with_heading
    return sorted(taken, key=lambda excerpt: (excerpt.message, excerpt.start)), used


def _shorten_longest(messages: Sequence[Message], excess: int, count: Count) -> tuple[Sequence[Message], int]:
    """Shorten the longest texts until `excess` tokens are removed. Returns also how many were.

    Messages that call tools stay as they are: their calls cannot be shortened.
    """
    if excess <= 0:
        return messages, 0
    fitted, removed = list(messages), 0
    long = [index for index, message in enumerate(fitted) if message.content and not message.tool_calls]
    while removed < excess and long:
        index = max(long, key=lambda i: fitted[i].tokens)
        before = fitted[index]
        after = _shorten(before, max(before.tokens // 2, before.tokens - (excess - removed)), count)
        if after.tokens >= before.tokens:
            long.remove(index)
            continue
        fitted[index] = after
        removed += before.tokens - after.tokens
    return fitted, removed


def _shorten(message: Message, tokens: int, count: Count) -> Message:
    """Keep the beginning of a message's text, in about so many tokens; in fewer if it would not get shorter."""
    text = (message.content or "").removesuffix(SHORTENED)
    while True:
        kept = len(text) * max(tokens - SHORTENED_TOKENS, 0) // message.tokens
        shortened = _truncated(replace(message, content=text), kept, count)
        if shortened.tokens < message.tokens or tokens == 0:
            return shortened
        tokens //= 2
