"""Reconstructs a prompt from the event that recorded it: piece by piece, with the reason for each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.ids import Version
from domain.models.answers import with_hint
from domain.models.chat import ChatMessage
from domain.prompt import assemble
from domain.prompt.application_context import without_markers
from domain.prompt.assemble import HEADING_TOKENS, LAYOUT, MARKS_TOKENS, Count
from domain.recall.excerpts import Excerpt, FoundMessage, part_of
from domain.thread.events import ContextAssembled, Recalled
from domain.thread.state import Message, Running, Summary

Kind: TypeAlias = Literal["instructions", "tools", "values", "summary", "recalled", "message", "hint"]
"""Instructions and the summary are parts of the system's message, tools are next to it. Values and recalled excerpts
precede the user's last words; in prompts of layout 1 they are in the system's message. A hint is a part of the last
message."""

MISSING = "(This text is not kept here.)"


class Piece(Struct, frozen=True):
    """A piece of a prompt. `version` is that of the message that it is, or is a part of; 0 if it is none.

    `whole` is false for a message that was shortened, and for an excerpt.
    """

    kind: Kind
    role: str
    text: str | None
    tokens: int
    because: str
    version: Version = Version(0)
    whole: bool = True


class ReconstructedPrompt(Struct, frozen=True):
    """A prompt piece by piece, and as it was sent. `exact`: every text of it was found unchanged."""

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
    """Reconstruct a prompt that was assembled from the state `before`. `older` has the messages that it recalls."""
    thread = before.thread
    summary = thread.summary if assembled.summarised else None
    stored = [texts.get(name, MISSING) if name else "" for name in assembled.texts]
    # Early releases did not store values with a prompt.
    stored += ["", "", assemble.values_text(thread.values, assembled.values)][len(stored) :]
    instructions, tools, values = stored
    recalled = [_excerpt(older, part) for part in assembled.recalled]
    context = list(_context(values, recalled, assembled, count))
    pieces = [
        Piece("instructions", "system", instructions, count(instructions), "the agent's instructions"),
        Piece("tools", "system", tools, count(tools), "the tools that the agent has"),
    ]
    if summary:
        why = f"stands for the messages up to version {summary.through}"
        pieces.append(Piece("summary", "system", summary.text, assemble.summary_tokens(summary), why))
    pieces = [piece for piece in pieces if piece.text]
    shown = list(_messages(before, assembled, count))
    messages = [message for _, message in shown]
    question = assemble.last_question(messages) if assembled.layout == LAYOUT else None
    pieces += [] if question else context
    for piece, message in shown:
        pieces += [*context, piece] if message is question else [piece]
    lay_out = assemble.prompt_messages if assembled.layout == LAYOUT else layout_1_messages
    sent = lay_out(instructions, values, summary, recalled, messages)
    found = MISSING not in {instructions, tools, values, *(part.text for part in recalled)}
    return ReconstructedPrompt(pieces, sent, found and is_whole(assembled))


def hinted(prompt: ReconstructedPrompt, hint: str, count: Count) -> ReconstructedPrompt:
    """Add the hint that ended the last message, because the model's first answer was empty."""
    messages = with_hint(prompt.messages, hint)
    piece = Piece("hint", messages[-1].role, hint, count(hint), "the model's first answer to this was empty")
    return ReconstructedPrompt([*prompt.pieces, piece], messages, prompt.exact)


def layout_1_messages(
    instructions: str, values: str, summary: Summary | None, recalled: Sequence[Excerpt], shown: Sequence[Message]
) -> Sequence[ChatMessage]:
    """Write a prompt of layout 1: everything except the messages was in the system's message."""
    again = "\n".join(f"- {part.who}: " + "\n  ".join(part.text.splitlines()) for part in recalled)
    parts = (
        instructions,
        f"What is known:\n{values}" if values else "",
        f"Earlier in this conversation:\n{summary.text}" if summary else "",
        f"Said before, word for word:\n{again}" if again else "",
    )
    heading = "\n\n".join(filter(None, parts))
    said = [replace(assemble.chat_message(each), content=each.content) for each in shown]
    return [*([ChatMessage("system", heading)] if heading else []), *said]


def is_whole(assembled: ContextAssembled) -> bool:
    """Say whether an event records all of its prompt: early releases recorded neither instructions nor their tokens."""
    return assembled.fixed > 0


def _messages(before: Running, assembled: ContextAssembled, count: Count) -> Iterator[tuple[Piece, Message]]:
    lengths = dict(assembled.shortened)
    window = before.thread.window
    question = next((message.version for message in reversed(window) if message.role == "user"), 0)
    for message in window:
        in_range = assembled.first <= message.version <= assembled.last
        if not in_range and message.version != assembled.pinned:
            continue
        why = "the newest messages that fit"
        if message.version == question:
            why = "what the user said last" if in_range else "what the user said last, though older than the rest"
        shown = assemble.recounted(message, count) if assembled.layout == LAYOUT else message
        if message.version in lengths:
            text = assemble.shortened_text(message.content or "", lengths[message.version])
            tokens = count(without_markers(text) if assembled.layout == LAYOUT else text)
            shown = replace(message, content=text, tokens=tokens, extra={}, origin="")
            why += f"; only its first {lengths[message.version]:,} characters fit"
        version, whole = message.version, message.version not in lengths
        yield Piece("message", message.role, shown.content, assemble.message_tokens(shown), why, version, whole), shown


def _context(values: str, recalled: Sequence[Excerpt], assembled: ContextAssembled, count: Count) -> Iterator[Piece]:
    """Count as assembly does: values and the first excerpt include their headings, the first of all also the marks."""
    now = assembled.layout == LAYOUT
    extra = HEADING_TOKENS + (MARKS_TOKENS if now else 0)
    if values:
        tokens, role = count(without_markers(values) if now else values) + extra, "user" if now else "system"
        yield Piece("values", role, values, tokens, "values of the thread that the agent shows its model")
        extra = HEADING_TOKENS
    for part in recalled:
        tokens, extra = assemble.excerpt_tokens(part, count) + extra, 0
        yield Piece("recalled", part.who, part.text, tokens, part.because, part.message, whole=False)


def _excerpt(older: Mapping[int, FoundMessage], part: Recalled) -> Excerpt:
    if part.message in older:
        return part_of(older[part.message], part)
    return Excerpt(Version(part.message), "somebody", part.start, MISSING, 0, part.because)
