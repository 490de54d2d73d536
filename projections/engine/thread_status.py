"""What a thread is doing."""

from typing import Literal, TypeAlias

from domain.ports.log import ThreadRow
from domain.thread.state import State

Status: TypeAlias = Literal["idle", "running", "waiting"]
"""`waiting`: a turn cannot go on before a person decides."""


def status_of(of: ThreadRow | State) -> Status:
    """Say what a thread is doing."""
    if of.in_turn:
        return "running"
    return "waiting" if of.waiting else "idle"
