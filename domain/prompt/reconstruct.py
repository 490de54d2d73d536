"""What a model saw, found again from the fact that was recorded about its prompt: piece by piece, and why each."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.ids import Version
from domain.models.answers import with_hint
from domain.models.chat import ChatMessage
from domain.prompt.application_context import indented, without_markers
from domain.prompt.assemble import (
    HEADING_TOKENS,
    LAYOUT,
    MARKS_TOKENS,
    Count,
    as_written,
    chat_message,
    cost,
    laid_out,
    last_question,
    shortened_text,
    summary_tokens,
    values_text,
)
from domain.recall.excerpts import Excerpt, FoundMessage, part_of
from domain.thread.events import ContextAssembled, Recalled
from domain.thread.state import Message, Running, Summary

Kind: TypeAlias = Literal["instructions", "tools", "values", "summary", "recalled", "message", "hint"]
"""What a piece of a prompt is. Instructions and the summary are parts of the system's message, tools stand beside it.
Values and what is recalled stand before the user's last words; in prompts of layout 1, in the system's message. A hint
is a part of the last message."""

MISSING = "(This text is not kept here.)"


class Piece(Struct, frozen=True):
    """A piece of a prompt. `version` is that of the message that it is, or is a part of; 0 if it is none.

    `whole` is false for a message of which only the beginning, or a part, was shown.
    """

    kind: Kind
    role: str
    text: str | None
    tokens: int
    because: str
    version: Version = Version(0)
    whole: bool = True


class ReconstructedPrompt(Struct, frozen=True):
    """A prompt piece by piece, and as it was sent. `exact`: every text of it was found as it was then."""

    pieces: Sequence[Piece]
    messages: Sequence[ChatMessage]
    exact: bool


def reconstruct_prompt(
    before: Running,
    assembled: ContextAssembled,
    texts: Mapping[str, str],
    older: Mapping[int, FoundMessage],
    count: Count,
) -> ReconstructedPrompt:
    """Find a prompt again. `before` is the state that it was made of; `older` has the messages that it recalls."""
    thread = before.thread
    summary = thread.summary if assembled.summarised else None
    kept = [texts.get(name, MISSING) if name else "" for name in assembled.texts]
    unkept = ("", "", values_text(thread.values, assembled.values))  # once, values were not kept with a prompt
    instructions, tools, values = (*kept, *unkept[len(kept) :])
    recalled = [_excerpt(older, part) for part in assembled.recalled]
    given = [*_values(values, assembled, count), *_recalled(recalled, assembled, count, alone=not values)]
    pieces = [
        *_piece("instructions", instructions, count(instructions), "the agent's instructions"),
        *_piece("tools", tools, count(tools), "the tools that the agent has"),
    ]
    if summary:
        why = f"stands for the messages up to version {summary.through}"
        pieces += _piece("summary", summary.text, summary_tokens(summary), why)
    shown = list(_messages(before, assembled, count))
    messages = [message for _, message in shown]
    beside = last_question(messages) if assembled.layout == LAYOUT else None
    pieces += [] if beside else given
    for piece, message in shown:
        pieces += [*given, piece] if message is beside else [piece]
    lay_out = laid_out if assembled.layout == LAYOUT else laid_out_as_once
    sent = lay_out(instructions, values, summary, recalled, messages)
    found = MISSING not in {instructions, tools, values, *(part.text for part in recalled)}
    return ReconstructedPrompt(pieces, sent, found and is_whole(assembled))


def hinted(prompt: ReconstructedPrompt, hint: str, count: Count) -> ReconstructedPrompt:
    """Add what the last message ended with, since the model had been asked before and had not answered."""
    messages = with_hint(prompt.messages, hint)
    piece = Piece("hint", messages[-1].role, hint, count(hint), "the model's first answer to this was empty")
    return ReconstructedPrompt([*prompt.pieces, piece], messages, prompt.exact)


def laid_out_as_once(
    instructions: str, values: str, summary: Summary | None, recalled: Sequence[Excerpt], shown: Sequence[Message]
) -> Sequence[ChatMessage]:
    """Write a prompt of layout 1: all but what was said stood in the system's message."""
    again = "\n".join(f"- {part.who}: " + "\n  ".join(part.text.splitlines()) for part in recalled)
    parts = (
        instructions,
        f"What is known:\n{values}" if values else "",
        f"Earlier in this conversation:\n{summary.text}" if summary else "",
        f"Said before, word for word:\n{again}" if again else "",
    )
    heading = "\n\n".join(filter(None, parts))
    said = [replace(chat_message(each), content=each.content) for each in shown]
    return [*([ChatMessage("system", heading)] if heading else []), *said]


def is_whole(assembled: ContextAssembled) -> bool:
    """Say whether a fact tells of all of its prompt: older releases kept neither instructions nor what they weigh."""
    return assembled.fixed > 0


def _messages(before: Running, assembled: ContextAssembled, count: Count) -> Sequence[tuple[Piece, Message]]:
    kept = dict(assembled.shortened)
    window = before.thread.window
    question = next((message.version for message in reversed(window) if message.role == "user"), 0)
    found = []
    for message in window:
        in_range = assembled.first <= message.version <= assembled.last
        if not in_range and message.version != assembled.pinned:
            continue
        why = "the newest messages that fit"
        if message.version == question:
            why = "what the user said last" if in_range else "what the user said last, though older than the rest"
        shown = as_written(message, count) if assembled.layout == LAYOUT else message
        if message.version in kept:
            text = shortened_text(message.content or "", kept[message.version])
            tokens = count(without_markers(text) if assembled.layout == LAYOUT else text)
            shown = replace(message, content=text, tokens=tokens, extra={}, origin="")
            why += f"; only its first {kept[message.version]:,} characters fit"
        whole = message.version not in kept
        found.append((Piece("message", message.role, shown.content, cost(shown), why, message.version, whole), shown))
    return found


def _values(values: str, assembled: ContextAssembled, count: Count) -> Sequence[Piece]:
    shown, marks = (without_markers(values), MARKS_TOKENS) if assembled.layout == LAYOUT else (values, 0)
    tokens = count(shown) + HEADING_TOKENS + marks
    role = "user" if assembled.layout == LAYOUT else "system"
    return _piece("values", values, tokens, "values of the thread that the agent shows its model", role)


def _recalled(parts: Sequence[Excerpt], assembled: ContextAssembled, count: Count, *, alone: bool) -> Sequence[Piece]:
    """Weigh parts as assembly does; the first one carries the heading, and the marks if they stand `alone`."""
    marks = MARKS_TOKENS if alone and assembled.layout == LAYOUT else 0
    return [
        Piece(
            "recalled",
            part.who,
            part.text,
            count(indented(part)) + 1 + (0 if number else HEADING_TOKENS + marks),
            part.because,
            part.message,
            whole=False,
        )
        for number, part in enumerate(parts)
    ]


def _excerpt(older: Mapping[int, FoundMessage], part: Recalled) -> Excerpt:
    if part.message in older:
        return part_of(older[part.message], part)
    return Excerpt(Version(part.message), "somebody", part.start, MISSING, 0, part.because)


def _piece(kind: Kind, text: str, tokens: int, because: str, role: str = "system") -> list[Piece]:
    return [Piece(kind, role, text, tokens, because)] if text else []
