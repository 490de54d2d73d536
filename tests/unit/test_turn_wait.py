"""Waiting for the end of a turn: what is told suffices, and what was not told is read."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest

from domain.agents.assistant import assistant
from domain.application.turns.wait import TurnWaiter
from domain.ids import MAX_VERSION, TurnId, Version
from domain.ports.wakeups import Delta, NewEvents
from domain.thread.codec import Recorded
from domain.thread.events import TurnCompleted, TurnStarted
from tests.support.runtime import Stage, calls, double, says, stage
from tests.support.storing import run

BEFORE = Version(1)
"""The thread was opened, and its turn begins after that."""


class Played:
    """A turn that has ended, and its events."""

    def __init__(self, played: Stage, events: Sequence[Recorded]) -> None:
        self.played = played
        self.events = events
        assert isinstance(events[0].event, TurnStarted)
        self.turn_id = TurnId(events[0].event.turn_id)

    def ending(self, turn_id: TurnId | None = None) -> TurnWaiter:
        return TurnWaiter(self.played.repository, self.played.thread_id, turn_id or self.turn_id, BEFORE)


@pytest.fixture
async def turn() -> Played:
    played = stage(assistant(tools=[double]), calls(("double", {"number": 4})), says("eight"))
    await run(played, "sync")
    return Played(played, await played.repository.history(played.thread_id, BEFORE))


async def is_over(ending: TurnWaiter) -> bool:
    waiting = asyncio.create_task(ending.end())
    await asyncio.sleep(0.01)
    over = waiting.done()
    waiting.cancel()
    return over


async def test_a_turn_that_is_told_is_not_read(turn: Played) -> None:
    ending = turn.ending()
    for recorded in turn.events[:-1]:
        ending.tell(recorded)
        ending.tell(Delta(recorded.thread_id, recorded.version, 0, "provisional"))
    assert not await is_over(ending)

    ending.tell(turn.events[-1])
    assert await is_over(ending)
    assert (ending.events, ending.missed) == (list(turn.events), False)


async def test_what_was_not_told_is_read(turn: Played) -> None:
    ending = turn.ending()
    for recorded in (*turn.events[:3], *turn.events[5:6]):
        ending.tell(recorded)
    assert await is_over(ending)
    assert (ending.events, ending.missed) == (list(turn.events), True)


@pytest.mark.parametrize("ended", [False, True])
async def test_of_another_process_it_matters_whether_a_turn_may_have_ended(turn: Played, *, ended: bool) -> None:
    ending = turn.ending()
    ending.tell(NewEvents(turn.events[0].thread_id, MAX_VERSION, ended))
    assert await is_over(ending) is ended


async def test_a_turn_that_was_queued_begins_after_the_one_before(turn: Played) -> None:
    later = await follow_up(turn)
    ending = turn.ending(later)
    ending.miss()
    assert await is_over(ending)
    assert isinstance(ending.events[0].event, TurnStarted)
    assert isinstance(ending.events[-1].event, TurnCompleted)
    assert {recorded.version > turn.events[-1].version for recorded in ending.events} == {True}


async def follow_up(turn: Played) -> TurnId:
    turn.played.script.lines.append(says("nine"))
    await run(turn.played, "sync")
    started = [r.event for r in await turn.played.repository.history(turn.played.thread_id)]
    return next(TurnId(event.turn_id) for event in reversed(started) if isinstance(event, TurnStarted))


async def test_a_turn_that_never_began_has_an_end_alone(turn: Played) -> None:
    never, last = TurnId(uuid4()), turn.events[-1]
    end = Recorded(
        last.thread_id, Version(last.version + 1), last.position, last.recorded_at, TurnCompleted(never), last.metadata
    )
    ending = turn.ending(never)
    for recorded in (*turn.events, end):
        ending.tell(recorded)
    assert (ending.ended, ending.events) == (True, [end])


async def test_what_is_not_stored_counts_only_with_the_turns_end(turn: Played) -> None:
    ending = turn.ending()
    assert not ending.foresee(turn.events[:-1])
    assert not ending.seen(turn.events[0].version)
    assert ending.foresee(turn.events)
    assert ending.events == list(turn.events)
