"""The thread as a decider: its initial state, what a command causes in a state, and what an event makes of a state."""

from collections.abc import Callable
from typing import NamedTuple

from domain.thread.commands import Command
from domain.thread.decide import decide
from domain.thread.events import Event
from domain.thread.evolve import evolve
from domain.thread.state import INITIAL, State
from domain.thread.turn_end import Events


class Decider(NamedTuple):
    """Everything that a thread's behaviour consists of. `decide` raises `ThreadfoldError`, `evolve` `CorruptLog`."""

    decide: Callable[[Command, State], Events]
    evolve: Callable[[State, Event], State]
    initial: State


decider = Decider(decide, evolve, INITIAL)
