"""Given these events, when this command comes, then these events follow: the language of the domain's tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import pytest

from domain.errors import ThreadfoldError
from domain.ids import TurnId
from domain.thread.commands import Command
from domain.thread.decider import decider
from domain.thread.events import Event, MessageAppended, ThreadOpened, TurnStarted
from domain.thread.evolve import fold
from domain.thread.state import Running, State

TURN = TurnId(UUID(int=1))
OTHER_TURN = TurnId(UUID(int=2))

OPENED = ThreadOpened("assistant")
STARTED = TurnStarted(TURN, "route_intent", "f00")
ASKED = MessageAppended("user", "hello", 1)
A_RUNNING_TURN = (OPENED, STARTED, ASKED)


@dataclass
class Given:
    """A thread's history, and what a command does to it."""

    events: Sequence[Event]
    command: Command | None = None

    @property
    def state(self) -> State:
        return fold(decider.initial, self.events)

    def when(self, command: Command) -> Self:
        self.command = command
        return self

    def then(self, *expected: Event) -> None:
        assert self.command is not None
        assert decider.decide(self.command, self.state) == expected

    def then_nothing(self) -> None:
        self.then()

    def then_refused(self, error: type[ThreadfoldError], match: str | None = None) -> None:
        assert self.command is not None
        with pytest.raises(error, match=match):
            decider.decide(self.command, self.state)


def given(*events: Event) -> Given:
    return Given(events)


def running(*events: Event) -> Running:
    state = fold(decider.initial, events)
    assert isinstance(state, Running)
    return state
