"""A summary without understanding: what was said, sorted by who said it. Nothing is rephrased, nothing invented."""

from domain.prompt.summary import FORMER, NOTHING, SINCE, Memory, parse_written
from domain.thread.codec import to_json

LENGTH = 200
"""Characters that are kept of what somebody said."""


def extracted(told: str) -> str:
    """Write the memory that follows from what `domain.prompt.summary.ask_to_remember` tells, as JSON."""
    former, _, said = told.removeprefix(FORMER).partition(SINCE)
    before = Memory() if former == NOTHING else parse_written(former)
    lines = [_spoken(line) for line in said.split("\n") if ": " in line]
    users = tuple(text for who, text in lines if who == "user")
    agents = tuple(text for who, text in lines if who == "assistant")
    tools = tuple(f"{who}: {text}" for who, text in lines if who not in {"user", "assistant"})
    last_who, last = lines[-1] if lines else ("", "")
    asked = (last,) if last_who == "user" and last.endswith("?") else ()
    return to_json(Memory(before.facts + users, before.decisions + agents, asked, before.tool_outcomes + tools))


def _spoken(line: str) -> tuple[str, str]:
    who, _, text = line.partition(": ")
    return who, text if len(text) <= LENGTH else f"{text[:LENGTH]}…"
