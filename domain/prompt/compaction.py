"""Compaction: which messages leave the live window, and the summary that replaces them.

A model writes the summary; see `domain.prompt.summary`. If none answers in time, it is an extract: the beginning of
each message. Nothing is lost in either case: the log keeps every message, and recall finds what matters later.
"""

from collections.abc import Sequence

from domain.prompt.assemble import Count, groups, message_tokens, stable_tokens
from domain.prompt.summary import SummaryContent, fitted_text, message_line
from domain.thread.events import HistoryCompacted
from domain.thread.state import Message, Thread

FULL_SHARE = 0.75
"""A prompt is full above this share of its limit, not counting what belongs to its turn only."""

KEPT_SHARE = 0.01
"""The share of the limit that may stay in the live window. Each compaction changes prompts from the summary on and so
misses the prefix cache: it removes much at once."""

SUMMARY_SHARE = 0.1
"""The share of the limit that the summary may take."""

MAX_LINE_CHARS = 200
"""What an extract keeps of a message."""


def is_full(thread: Thread) -> bool:
    """Say whether the last prompt left little room for what follows."""
    return thread.prompt is not None and stable_tokens(thread) > FULL_SHARE * thread.prompt.limit


def is_outgrown(thread: Thread) -> bool:
    """Say whether the last prompt omitted messages of the live window."""
    return thread.prompt is not None and any(message.version < thread.prompt.first for message in thread.window)


def overflows(window: Sequence[Message], limit: int) -> bool:
    """Say whether the live window holds more than a prompt could."""
    return sum(map(message_tokens, window)) > limit


def leaving(window: Sequence[Message], limit: int) -> Sequence[Message]:
    """Return the older messages that leave the window, in whole groups. The last exchange always stays."""
    room = KEPT_SHARE * limit
    parts = groups(window)
    newest_question = max((i for i, part in enumerate(parts) if part[0].role == "user"), default=0)
    stays = len(parts)
    while stays > 0:
        room -= sum(map(message_tokens, parts[stays - 1]))
        if room < 0 and stays <= newest_question:
            break
        stays -= 1
    return [message for part in parts[:stays] for message in part]


def compacted(thread: Thread, limit: int, count: Count) -> HistoryCompacted | None:
    """Return the event that replaces older messages by an extract; None if all of them stay."""
    if not (messages := leaving(thread.window, limit)):
        return None
    former = thread.summary.text.split("\n") if thread.summary else []
    lines = [*former, *(message_line(message, MAX_LINE_CHARS) for message in messages if message.content)]
    summary = extract(lines, int(SUMMARY_SHARE * limit), count)
    return HistoryCompacted(messages[-1].version, summary, count(summary))


def remembered(
    messages: Sequence[Message], content: SummaryContent, by: str, limit: int, count: Count
) -> HistoryCompacted | None:
    """Return the event that replaces messages by a summary that the model `by` wrote; None if nothing of it fits."""
    summary = fitted_text(content, int(SUMMARY_SHARE * limit), count)
    return HistoryCompacted(messages[-1].version, summary, count(summary), by) if summary else None


def extract(lines: Sequence[str], room: int, count: Count) -> str:
    """Keep the last lines that fit into `room` tokens, each with its line break."""
    kept: list[str] = []
    for line in reversed(lines):
        room -= count(line) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join(reversed(kept))
