"""What agents do to the world outside, written to a file at the moment that they do it, so that it can be counted.

`CHAOS_EFFECTS` names the file. Each line is one write of its own: processes that die in between leave whole lines.
"""

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

EFFECTS = "CHAOS_EFFECTS"


class Effect(msgspec.Struct, frozen=True):
    """Something that an agent did: what, for which call or item, by which process, and when."""

    kind: str
    key: str
    pid: int
    at: float


def effect(kind: str, key: str) -> None:
    """Write down that something is done now."""
    line = msgspec.json.encode(Effect(kind, key, os.getpid(), time.time())) + b"\n"
    descriptor = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read_effects(path: Path) -> Sequence[Effect]:
    """Read what was done, in the order in which it was."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Effect) for line in path.read_bytes().splitlines()]


def repeated(effects: Sequence[Effect], kind: str) -> list[str]:
    """List what was done more than once of what may be done only once."""
    times = Counter(one.key for one in effects if one.kind == kind)
    return [f"{kind} {key} was done {count} times" for key, count in times.items() if count > 1]
