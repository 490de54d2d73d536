"""The list of turns, made of a log with every kind of event, is the same however it is made, on every store."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, get_args
from uuid import UUID

import pytest

from api.runtime.composition import ALL_SLICES
from api.runtime.stores import LogArchive
from domain.application.archive import import_log
from domain.application.thread_repository import ThreadRepository
from domain.budget.prices import Price, Prices
from domain.ids import DEFAULT_TENANT, Tenant, ThreadId
from domain.money import units
from domain.ports.log import EventStore
from domain.ports.read_models import ReadModels
from domain.read_models.queries import Where
from infrastructure.archive.reading import ExportedFiles
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.settings import CHECKOUT
from projections.engine.runner import ProjectionRunner
from projections.turn_list import (
    PROJECTION,
    TURN_LIST,
    TURN_TOOLS,
    Sort,
    TurnFilters,
    TurnSummary,
    listing,
    summary_of,
)
from tests.support.projected import rows
from tests.support.recorded_log import turn
from tests.support.runtime import Clock

PRICES = Prices(date(2026, 11, 1), {"small": Price(1.0, 2.0)})


class Desk:
    """A log with every kind of event, and the list of its turns."""

    def __init__(self, models: ReadModels, store: EventStore) -> None:
        self.models = models
        self.repository = ThreadRepository(store, MemorySnapshotStore(), Clock(), fingerprint="test")

    async def project(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """Read the whole log, some events at a time, each batch as a process does that has just begun."""
        group = (await self.models.instances())[-1].group
        while await self._runner().advance(group, ALL_SLICES, limit):
            pass
        listed = [await rows(self.models, table) for table in (TURN_LIST, TURN_TOOLS)]
        return sorted(itertools.chain(*listed), key=str)

    async def rebuild(self) -> None:
        group = await self.models.rebuild([PROJECTION.shape])
        while await self._runner().advance(group, ALL_SLICES, 1_000):
            pass
        assert await self.models.switch(group)

    async def turns(self, thread_id: UUID | None = None, **filters: Any) -> list[TurnSummary]:
        thread = None if thread_id is None else ThreadId(thread_id)
        query = listing(DEFAULT_TENANT, TurnFilters(**filters), thread_id=thread, limit=1_000)
        return [summary_of(row) for row in await self.models.select(query)]

    def _runner(self) -> ProjectionRunner:
        return ProjectionRunner(
            self.repository, self.models, [PROJECTION], PRICES, self.repository.clock, lambda: ALL_SLICES
        )


@pytest.fixture
async def desk(read_models: ReadModels, event_store: EventStore, archive: LogArchive) -> Desk:
    files = ExportedFiles(CHECKOUT / "tests/data/log/export")
    files.check(lambda _: None)
    await import_log(archive, files, lambda *_: None)
    await read_models.register([PROJECTION.shape])
    return Desk(read_models, event_store)


async def test_a_rebuild_gives_the_rows_of_small_batches(desk: Desk) -> None:
    one_by_one = await desk.project(7)
    assert len(one_by_one) > 8

    await desk.rebuild()

    assert await desk.project(1_000) == one_by_one


@pytest.fixture
async def listed(desk: Desk) -> Desk:
    await desk.project(1_000)
    return desk


async def test_turns_are_listed_with_how_they_ended_and_what_they_did(listed: Desk) -> None:
    (denied,) = await listed.turns(reason=("approval_denied",))
    turns = {one.turn_id: one for one in await listed.turns(thread_id=denied.thread_id)}
    assert {id_: (one.outcome, one.reason, one.node, one.version, one.last_version) for id_, one in turns.items()} == {
        turn(1): ("completed", "length", "generate_response", 3, 27),
        turn(2): ("failed", "node_failed", "route_intent", 28, 39),
        turn(3): ("cancelled", "interrupted", "sort", 40, 44),
        turn(4): ("rolled_back", None, "route_intent", 45, 50),
        turn(5): ("failed", "approval_denied", "ask", 52, 56),
    }
    first, second, third, fourth = (turns[turn(number)] for number in range(1, 5))
    assert (first.user_input, first.answer) == (
        "Which parcel is late, and may I have my money back?",
        "Parcel 7 is late. Here is your",
    )
    assert (first.tools, first.tool_calls, first.tool_failures) == (("find", "pay"), 3, 2)
    assert (first.model_calls, first.prompt_tokens, first.completion_tokens, first.cost_usd) == (2, 540, 42, 0.0003)
    assert (second.detail, denied.detail) == ("ValueError: no", "Not today.")
    assert (third.retries, third.user_input, third.queued) == (turn(2), second.user_input, False)
    assert (fourth.queued, fourth.started_at) == (True, fourth.ended_at)
    assert fourth.started_at is not None
    assert fourth.started_at > fourth.created_at
    assert (denied.duration_ms, denied.waited_ms) == (1_500, 1_500)


async def test_a_fork_lists_what_it_did_itself(listed: Desk) -> None:
    (whole,) = await listed.turns(reason=("length",))
    (forked,) = [one for one in await listed.turns(outcome=("running",)) if one.user_input == whole.user_input]
    assert forked.thread_id != whole.thread_id
    assert (forked.turn_id, forked.created_at > whole.created_at) == (turn(1), True)
    assert (forked.tool_calls, forked.model_calls, forked.tools) == (0, 0, ())


async def test_a_turn_that_was_cancelled_before_it_began_is_listed(listed: Desk) -> None:
    (queued,) = [one for one in await listed.turns(outcome=("cancelled",)) if one.started_at is None]
    assert (queued.queued, queued.user_input, queued.duration_ms) == (True, "and this", None)
    assert queued.ended_at is not None
    assert queued.created_at < queued.ended_at


async def test_filters_narrow_a_list(listed: Desk) -> None:
    everything = await listed.turns()

    async def check(expected: Callable[[TurnSummary], bool], **filters: Any) -> None:
        found = await listed.turns(**filters)
        assert found == [one for one in everything if expected(one)], filters
        assert 0 < len(found) < len(everything), filters

    middle = everything[len(everything) // 2].created_at
    await check(lambda one: one.outcome in {"failed", "waiting"}, outcome=("failed", "waiting"))
    await check(lambda one: one.reason == "node_failed", reason=("node_failed",))
    await check(lambda one: bool({"find", "clock"} & set(one.tools)), tools=("find", "clock", "none"))
    await check(lambda one: one.created_at >= middle, created_since=middle)
    await check(lambda one: one.created_at < middle, created_before=middle)
    await check(lambda one: one.cost_usd >= 0.0003, min_cost=units(0.0003))
    await check(lambda one: one.cost_usd < 0.0003, max_cost=units(0.0003) - 1)
    await check(lambda one: (one.duration_ms or 0) >= 1_500, min_duration_ms=1_500)
    await check(lambda one: one.duration_ms is not None and one.duration_ms <= 0, max_duration_ms=0)
    await check(lambda one: one.thread_id == everything[0].thread_id, thread_id=everything[0].thread_id)
    assert await listed.turns(graph="assistant") == everything
    assert await listed.turns(graph="other") == []
    query = listing(Tenant("other"), TurnFilters())
    assert list(await listed.models.select(query)) == []


@pytest.mark.parametrize("sort", get_args(Sort))
@pytest.mark.parametrize("descending", [True, False])
async def test_lists_are_sorted(listed: Desk, sort: Sort, *, descending: bool) -> None:
    found = await listed.turns(sort=sort, descending=descending)
    keys = [getattr(one, "cost_usd" if sort == "cost" else sort) for one in found]
    assert keys == sorted(keys, reverse=descending)
    everything = await listed.turns()
    assert len(found) == sum(sort != "duration_ms" or one.duration_ms is not None for one in everything)


async def test_the_tools_of_turns_are_counted(listed: Desk) -> None:
    (whole,) = await listed.turns(reason=("length",))
    called = await rows(listed.models, TURN_TOOLS, Where("thread_id", "=", whole.thread_id))
    assert {(row["turn_id"], row["tool"]): (row["calls"], row["failures"]) for row in called} == {
        (turn(1), "find"): (1, 0),
        (turn(1), "pay"): (2, 2),
    }
