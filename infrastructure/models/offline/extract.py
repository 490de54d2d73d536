"""The built-in model's summary: the beginning of each message, sorted by who said it."""

from domain.prompt.summary import FORMER, NOTHING, SINCE, SummaryContent, cut, parse_written
from domain.thread.codec import to_json

MAX_LINE_CHARS = 200
"""What is kept of a message."""


def extracted(request: str) -> str:
    """Return the summary, as JSON, of a request that `domain.prompt.summary.summary_request` wrote."""
    former, _, said = request.removeprefix(FORMER).partition(SINCE)
    before = SummaryContent() if former == NOTHING else parse_written(former)
    spoken = (line.partition(": ") for line in said.split("\n") if ": " in line)
    lines = [(who, cut(text, MAX_LINE_CHARS)) for who, _, text in spoken]
    users = tuple(text for who, text in lines if who == "user")
    agents = tuple(text for who, text in lines if who == "assistant")
    tools = tuple(f"{who}: {text}" for who, text in lines if who not in {"user", "assistant"})
    last_who, last = lines[-1] if lines else ("", "")
    asked = (last,) if last_who == "user" and last.endswith("?") else ()
    return to_json(SummaryContent(before.facts + users, before.decisions + agents, asked, before.tool_outcomes + tools))
