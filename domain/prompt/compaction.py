"""Making room: which messages leave the live window, and the summary that stands for them.

A model writes the summary; see `domain.prompt.summary`. Where none answers in time, it is an extract: who said what,
shortened. Nothing is lost in either case; the log keeps every message, and what matters is recalled.
"""

from collections.abc import Sequence

from domain.prompt.assemble import Count, cost, groups, stable_tokens
from domain.prompt.summary import Memory, fitted
from domain.thread.events import HistoryCompacted
from domain.thread.state import Message, Summary, Thread

FULL = 0.75
"""The share of a prompt's limit from which on it counts as full, without what belongs to its turn only."""

KEPT = 0.01
"""The share of the limit that stays in the live window after compaction, at most. Each compaction changes prompts from
the summary on, so it takes much at once."""

SUMMARY = 0.1
"""The share of the limit that the summary may take."""

LINE_LENGTH = 200


def is_full(thread: Thread) -> bool:
    """Say whether the next prompt would begin with so much that hardly anything could follow."""
    return thread.prompt is not None and stable_tokens(thread) > FULL * thread.prompt.limit


def is_outgrown(thread: Thread) -> bool:
    """Say whether the last prompt did not hold all of the live window."""
    return thread.prompt is not None and any(message.version < thread.prompt.first for message in thread.window)


def overflows(window: Sequence[Message], limit: int) -> bool:
    """Say whether the live window holds more than a prompt could."""
    return sum(map(cost, window)) > limit


def leaving(window: Sequence[Message], limit: int) -> Sequence[Message]:
    """Return the older messages that leave, whole groups only. The last exchange always stays."""
    room = KEPT * limit
    parts = groups(window)
    newest_question = max((i for i, part in enumerate(parts) if part[0].role == "user"), default=0)
    stays = len(parts)
    while stays > 0:
        room -= sum(map(cost, parts[stays - 1]))
        if room < 0 and stays <= newest_question:
            break
        stays -= 1
    return [message for part in parts[:stays] for message in part]


def compacted(thread: Thread, limit: int, count: Count) -> HistoryCompacted | None:
    """Return the fact that older messages leave the live window for a summary; None if all of them stay."""
    messages = leaving(thread.window, limit)
    if not messages:
        return None
    lines = [*_lines(thread.summary), *(_line(message) for message in messages if message.content)]
    summary = extract(lines, int(SUMMARY * limit), count)
    return HistoryCompacted(messages[-1].version, summary, count(summary))


def remembered(
    messages: Sequence[Message], memory: Memory, by: str, limit: int, count: Count
) -> HistoryCompacted | None:
    """Return the fact that messages left the live window for the memory that a model has written of them.

    None if nothing of that memory fits.
    """
    summary = fitted(memory, int(SUMMARY * limit), count)
    return HistoryCompacted(messages[-1].version, summary, count(summary), by) if summary else None


def extract(lines: Sequence[str], room: int, count: Count) -> str:
    """Keep the last lines that fit into so many tokens, each with its line break."""
    kept: list[str] = []
    for line in reversed(lines):
        room -= count(line) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join(reversed(kept))


def _lines(summary: Summary | None) -> list[str]:
    return summary.text.split("\n") if summary else []


def _line(message: Message) -> str:
    text = " ".join((message.content or "").split())
    shortened = text if len(text) <= LINE_LENGTH else f"{text[:LINE_LENGTH]}…"
    return f"{message.name or message.role}: {shortened}"
