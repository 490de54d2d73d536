"""A thread's status."""

from typing import Literal, TypeAlias

from domain.ports.log import ThreadRow
from domain.thread.state import State

Status: TypeAlias = Literal["idle", "running", "waiting"]
"""`waiting`: the turn needs a person's decision."""


def status_of(of: ThreadRow | State) -> Status:
    """Return the status of a thread."""
    if of.in_turn:
        return "running"
    return "waiting" if of.waiting else "idle"
