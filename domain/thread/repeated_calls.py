"""Detects tool calls that a turn repeats without progress.

A call is repeated if the same tool returns the same result for the same arguments. A new call or a new result resets
all counts, because the turn makes progress. Several calls are remembered, so that a model which alternates between two
or three calls is noticed, too.
"""

import hashlib
import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from domain.models.chat import ToolCall

MAX_REMEMBERED_CALLS = 8
"""Maximum number of different calls that are remembered."""

_FAULT_TEXT = "cannot be run"

_encode = msgspec.json.Encoder(order="sorted").encode
_IDENTICAL_CALL = "identical call in this turn with the same result"
_NOTE = re.compile(rf"\n\n\[This is the \d+(?:st|nd|rd|th) {_IDENTICAL_CALL}\.\]\Z")


class Repeat(Struct, frozen=True, gc=False):
    """The digest of a call and its result, how often it was made, and the turn's `step` that made it last."""

    digest: str
    count: int
    step: int


def digest_of(call: ToolCall, told: str) -> str:
    """Return a digest of a call and what the model was told: 16 hexadecimal digits.

    All calls that cannot be run have the same digest, because a different fault is no progress.
    """
    parts = ("", {}, _FAULT_TEXT) if call.fault else (call.name, call.arguments, without_note(told))
    return hashlib.blake2b(_encode(parts), digest_size=8).hexdigest()


def repeated(repeats: tuple[Repeat, ...], digest: str, step: int) -> tuple[Repeat, ...]:
    """Count a call. Identical calls of the same message count once."""
    known = next((repeat for repeat in repeats if repeat.digest == digest), None)
    if known is None:
        before = tuple(repeat if repeat.count == 1 else Repeat(repeat.digest, 1, repeat.step) for repeat in repeats)
        return (*before[1 - MAX_REMEMBERED_CALLS :], Repeat(digest, 1, step))
    others = tuple(repeat for repeat in repeats if repeat is not known)
    return (*others, Repeat(digest, known.count + (known.step != step), step))


def most_repeated(repeats: Sequence[Repeat]) -> int:
    """Return how often the most frequent call was made."""
    return max((repeat.count for repeat in repeats), default=0)


def repeat_error(repeats: Sequence[Repeat], tool: str) -> str:
    """Return the reason why a turn fails that repeated a tool call too often."""
    most = max(repeats, key=lambda repeat: repeat.count)
    asked = f"asked {most.count} times for {tool[:100]!r} with the same arguments, and got the same result each time"
    if most.digest == FAULTY_DIGEST:
        asked = f"made a call that cannot be run in {most.count} answers"
    return (
        f"The model {asked}, and made no other progress. A retry of the turn starts counting again. If the agent is "
        "meant to repeat such calls, raise its repeat_limit."
    )


def with_note(told: str, count: int, *, faulty: bool = False) -> str:
    """Add a note to a result that tells the model how often it has made the call, or one that cannot be run."""
    ending = "th" if count % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    what = "answer in this turn with a call that cannot be run" if faulty else _IDENTICAL_CALL
    return f"{without_note(told)}\n\n[This is the {count}{ending} {what}.]"


def without_note(told: str) -> str:
    """Remove the note from a result."""
    return _NOTE.sub("", told) if told.endswith(".]") else told


FAULTY_DIGEST = digest_of(ToolCall("", "", {}, fault=_FAULT_TEXT), "")
"""The digest of all calls that cannot be run."""
