"""The memory of a conversation, as a small model would be asked for it: here an extract, by simple rules.

Nothing is made up: each entry is a sentence, or the beginning of a line, of what was sent along. Lines begin with who
speaks (`user: ...`, `assistant: ...`, `get_user_details: ...`), or else go on with what the last one said. What an
earlier memory says, as a list below its heading or as JSON, is kept.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache

from examples.airline.recordings import DATA, Message

ASKED = "You keep the memory of a conversation"
"""The beginning of the system message of whoever wants a memory."""

KINDS = ("facts", "decisions", "open_questions", "tool_outcomes")

SPOKEN = "spoken"
"""Not kept: the customer has spoken, so what the agent had asked is open no more."""

KEPT = 8
"""Entries of each kind: the newest ones."""

LENGTH = 160
"""Characters of an entry."""

SPEAKER = re.compile(r"(\w+)[^:\n]{0,40}:\s*(.*)")
CUSTOMER, AGENT = ("user", "customer"), ("assistant", "agent")

NAMED = re.compile(r"\$ ?\d|\b[a-z]+_[a-z]+_\d+\b|\b(?=[A-Z]*\d)[A-Z0-9]{6}\b|\b\d{4}-\d\d-\d\d\b|\b\w+_\d{6,}\b")
"""Amounts, users, reservations and flights, days, means of payment."""

DECIDED = re.compile(r"\b(yes|please|go ahead|proceed|confirm\w*|i(?:'d| would) like|i want|i need)\b", re.IGNORECASE)


def asks_for_memory(messages: Sequence[Message]) -> bool:
    """Say whether a request wants a memory rather than an answer."""
    return any(m["role"] == "system" and str(m.get("content")).startswith(ASKED) for m in messages)


def remembered(messages: Sequence[Message]) -> Message:
    """Write the memory of what a request's other messages say."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, entry in _entries(_lines(messages)):
        if kind == SPOKEN:
            found["open_questions"].clear()
        elif entry not in found[kind]:
            found[kind].append(entry)
    return {"role": "assistant", "content": json.dumps({kind: entries[-KEPT:] for kind, entries in found.items()})}


def _lines(messages: Sequence[Message]) -> Iterator[str]:
    """List what is said, line by line."""
    for message in messages:
        if message["role"] != "system":
            yield from filter(None, (line.strip() for line in str(message.get("content") or "").splitlines()))


def _entries(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Tell what is worth keeping, with its kind."""
    speaker = ""
    for line in lines:
        earlier = _earlier(line)
        if earlier:
            yield from earlier
            continue
        said = line
        if begun := SPEAKER.fullmatch(line):
            name = begun[1].lower()
            speaker, said = (name, begun[2]) if name in _speakers() else (speaker, line)
        if said:
            yield from _worth(speaker, said)


@cache
def _speakers() -> frozenset[str]:
    """Name whatever a line may begin with: who speaks, the desk's tools, and the headings of an earlier memory."""
    tools = [tool["function"]["name"] for tool in json.loads((DATA / "tools.json").read_bytes())]
    return frozenset({*KINDS, *CUSTOMER, *AGENT, "tool", *tools})


def _earlier(line: str) -> Sequence[tuple[str, str]]:
    """Read an earlier memory that is written as JSON."""
    if not line.startswith("{"):
        return ()
    try:
        memory = json.loads(line)
        return [(kind, str(entry)[:LENGTH]) for kind in KINDS for entry in memory.get(kind) or ()]
    except (ValueError, TypeError):
        return ()


def _worth(speaker: str, said: str) -> Iterator[tuple[str, str]]:
    """Tell what of a line is worth keeping."""
    if speaker in KINDS:
        yield speaker, said.removeprefix("- ")[:LENGTH]
    elif speaker in CUSTOMER:
        yield SPOKEN, ""
        for sentence in _sentences(said):
            if DECIDED.search(sentence):
                yield "decisions", sentence
            elif NAMED.search(sentence):
                yield "facts", sentence
    elif speaker in AGENT:
        yield from (("open_questions", sentence) for sentence in _sentences(said) if sentence.endswith("?"))
    elif speaker:
        yield "tool_outcomes", f"{speaker}: {said}"[:LENGTH]


def _sentences(said: str) -> Sequence[str]:
    return [sentence[:LENGTH] for sentence in re.split(r"(?<=[.!?])\s+", said)]
