"""Calls of tools that a turn makes again and again, and that tell the model nothing new.

A call counts as repeated if the same tool was given the same arguments and gave the same result. Whatever is new in a
turn, be it a call or a result, starts all counts from the beginning: the turn gets on. A few calls are remembered, so
that it is noticed, too, if the model asks for two or three in turns.
"""

import hashlib
import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from domain.models.chat import ToolCall

MAX_REMEMBERED_CALLS = 8
"""Different calls that are remembered."""

_FAULT_TEXT = "cannot be run"

_encode = msgspec.json.Encoder(order="sorted").encode
_IDENTICAL_CALL = "identical call in this turn with the same result"
_NOTE = re.compile(rf"\n\n\[This is the \d+(?:st|nd|rd|th) {_IDENTICAL_CALL}\.\]\Z")


class Repeat(Struct, frozen=True, gc=False):
    """A call with its result, and how often the model has asked for it, the last time in the turn's `step`."""

    digest: str
    count: int
    step: int


def digest_of(call: ToolCall, told: str) -> str:
    """Name a call together with what the model was told: 16 hexadecimal digits.

    All calls that cannot be run have the same name: another fault is no progress.
    """
    parts = ("", {}, _FAULT_TEXT) if call.fault else (call.name, call.arguments, without_note(told))
    return hashlib.blake2b(_encode(parts), digest_size=8).hexdigest()


def repeated(repeats: tuple[Repeat, ...], digest: str, step: int) -> tuple[Repeat, ...]:
    """Count a call. Several calls of the same message count as one."""
    known = next((repeat for repeat in repeats if repeat.digest == digest), None)
    if known is None:
        before = tuple(repeat if repeat.count == 1 else Repeat(repeat.digest, 1, repeat.step) for repeat in repeats)
        return (*before[1 - MAX_REMEMBERED_CALLS :], Repeat(digest, 1, step))
    others = tuple(repeat for repeat in repeats if repeat is not known)
    return (*others, Repeat(digest, known.count + (known.step != step), step))


def most_repeated(repeats: Sequence[Repeat]) -> int:
    """Return how often the most repeated call was made."""
    return max((repeat.count for repeat in repeats), default=0)


def complaint(repeats: Sequence[Repeat], tool: str) -> str:
    """Say why a turn is ended that has repeated a call of a tool too often."""
    most = max(repeats, key=lambda repeat: repeat.count)
    asked = f"asked {most.count} times for {tool[:100]!r} with the same arguments, and got the same result each time"
    if most.digest == FAULTY_DIGEST:
        asked = f"made a call that cannot be run in {most.count} answers"
    return (
        f"The model {asked}, while nothing else was new. A retry goes on with a fresh allowance; raise repeat_limit "
        "where the agent is defined if such calls are meant."
    )


def with_note(told: str, count: int, *, faulty: bool = False) -> str:
    """Tell the model how often it has made a call, or one that cannot be run."""
    ending = "th" if count % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    what = "answer in this turn with a call that cannot be run" if faulty else _IDENTICAL_CALL
    return f"{without_note(told)}\n\n[This is the {count}{ending} {what}.]"


def without_note(told: str) -> str:
    """Leave out what was added to a result."""
    return _NOTE.sub("", told) if told.endswith(".]") else told


FAULTY_DIGEST = digest_of(ToolCall("", "", {}, fault=_FAULT_TEXT), "")
"""What all calls that cannot be run are counted as."""
