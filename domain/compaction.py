"""Making room: which messages leave the live window, and the summary that stands for them.

The summary is an extract: who said what, shortened. Nothing is lost; the log keeps every message.
"""

from collections.abc import Sequence

from domain.context import cost, groups
from domain.ids import Version
from domain.state import Message, Summary, Thread

FULL = 0.75
"""The share of the limit from which on a prompt counts as full."""

KEPT = 0.25
"""The share of the limit that stays in the live window after compaction."""

SUMMARY = 0.1
"""The share of the limit that the summary may take, at four characters a token."""

LINE_LENGTH = 200


def is_full(prompt_tokens: int, limit: int) -> bool:
    """Say whether the last prompt came near its limit."""
    return prompt_tokens > FULL * limit


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


def summarise(thread: Thread, messages: Sequence[Message], limit: int) -> tuple[Version, str]:
    """Extend the thread's summary by messages that leave, dropping its oldest lines where it grows too long.

    Returns the last version covered, and the text.
    """
    lines = [*_lines(thread.summary), *(_line(message) for message in messages if message.content)]
    room = int(SUMMARY * limit * 4)
    text = "\n".join(lines)[-room:]
    return messages[-1].version, text if len(text) < room else text.partition("\n")[2]


def _lines(summary: Summary | None) -> list[str]:
    return summary.text.split("\n") if summary else []


def _line(message: Message) -> str:
    text = " ".join((message.content or "").split())
    shortened = text if len(text) <= LINE_LENGTH else f"{text[:LINE_LENGTH]}…"
    return f"{message.name or message.role}: {shortened}"
