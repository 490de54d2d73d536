"""An event that a projection cannot take keeps its own thread, visibly, and nobody else's."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from domain.budget.prices import Prices
from domain.ids import ThreadId, slice_of
from domain.read_models.tables import Change
from domain.thread.events import Event, MessageAppended, ModelCalled, TurnCompleted
from domain.thread.evolve import evolve as evolved
from domain.thread.state import State
from projections import messages
from projections.engine import projection as projection_module
from projections.engine.projection import EventContext, FoldedThread, Projection
from projections.registry import PROJECTIONS
from tests.support.http import Api, running_api
from tests.support.reading import strong, talk, wrong


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url) as client:
        yield client


def poisoned(bad: str) -> Projection:
    """Make the projection of messages fail at those that say something."""
    said = messages.PROJECTION.events[MessageAppended]

    def handler(context: EventContext[Any]) -> Iterable[Change]:
        event = context.recorded.event
        if isinstance(event, MessageAppended) and event.role == "user" and bad in (event.content or ""):
            raise ValueError(f"cannot take {bad}")
        return said(context)

    return replace(messages.PROJECTION, events={**messages.PROJECTION.events, MessageAppended: handler})


async def test_a_poison_event_parks_its_thread_and_no_other_one(api: Api) -> None:
    runner = api.service.runtime.runner
    runner.projections = [poisoned("poison") if p.name == "messages" else p for p in PROJECTIONS]
    bad = await talk(api, "greetings", "this is poison", "and after it")
    good = [await talk(api, "greetings", "What is 1 + 1?") for _ in range(3)]
    assert len((await strong(api, "/v1/threads", search="greetings"))["items"]) == 4
    assert {one["thread_id"]: one["turns"] for one in (await strong(api, "/v1/threads"))["items"]} == {
        bad: 3,
        **dict.fromkeys(good, 2),
    }
    (parked,) = (await api.get("/v1/projections/parked")).json()
    assert (parked["projection"], parked["thread_id"], parked["type"]) == ("messages", bad, "MessageAppended")
    assert "cannot take poison" in parked["error"]
    assert "messages" in (await api.get("/health/ready")).json()["detail"]
    assert re.search(r'parked_threads\{.*projection="messages".*\} 1', (await api.get("/metrics")).text)
    again = await api.post(f"/v1/projections/messages/parked/{bad}/retry")
    assert again.json()["outcome"] == "parked_again"
    assert (await api.get("/v1/projections/parked")).json()[0]["attempts"] == 6

    runner.projections = PROJECTIONS
    mended = await api.post(f"/v1/projections/messages/parked/{bad}/retry")
    assert mended.json()["outcome"] == "current"
    assert (await api.get("/v1/projections/parked")).json() == []
    assert "detail" not in (await api.get("/health/ready")).json()
    assert await wrong(api) == []
    assert (await api.post(f"/v1/projections/messages/parked/{bad}/retry")).status_code == 404


async def test_a_poison_event_can_be_skipped(api: Api) -> None:
    runner = api.service.runtime.runner
    runner.projections = [poisoned("poison") if p.name == "messages" else p for p in PROJECTIONS]
    bad = await talk(api, "this is poison", "marmalade")
    assert (await strong(api, "/v1/threads", search="marmalade"))["items"] == []
    assert (await api.post(f"/v1/projections/messages/parked/{bad}/skip")).json()["outcome"] == "current"
    assert len((await strong(api, "/v1/threads", search="marmalade"))["items"]) == 1


async def test_a_thread_that_cannot_be_summarised_is_parked_and_no_other_one(api: Api) -> None:
    summarised, bad = next(p for p in PROJECTIONS if p.name == "threads"), str(uuid4())

    def broken(folded: FoldedThread, prices: Prices) -> Iterable[Change]:
        if str(folded.thread_id) == bad:
            raise ValueError("cannot summarise it")
        return summarised.thread(folded, prices) if summarised.thread else ()

    runner = api.service.runtime.runner
    runner.projections = [replace(summarised, thread=broken) if p.name == "threads" else p for p in PROJECTIONS]
    await api.opened(thread_id=bad)
    await asyncio.gather(api.turn(bad, "greetings"), *[talk(api, "greetings") for _ in range(3)])
    turns = {one["thread_id"]: one["turns"] for one in (await strong(api, "/v1/threads"))["items"]}
    assert bad not in turns
    assert list(turns.values()) == [1, 1, 1]
    (parked,) = (await api.get("/v1/projections/parked")).json()
    assert (parked["projection"], parked["thread_id"]) == ("threads", bad)
    version = (await api.get(f"/v1/threads/{bad}")).json()["version"]
    behind = await api.get("/v1/threads", params={"min_version": f"{bad}:{version}"})
    assert (behind.status_code, "has parked this thread" in behind.text) == (503, True)
    skipped = await api.post(f"/v1/projections/threads/parked/{bad}/skip")
    assert skipped.json()["outcome"] == "parked_again", "it is the thread that cannot be summarised, not an event"

    runner.projections = PROJECTIONS
    mended = await api.post(f"/v1/projections/threads/parked/{bad}/retry")
    assert mended.json()["outcome"] == "current"
    assert await wrong(api) == []


async def test_rows_that_several_tables_refuse_of_several_threads_of_a_slice_keep_nobody_else(api: Api) -> None:
    first = ThreadId(uuid4())
    bad = {str(first), str(next(t for _ in range(10**6) if slice_of(t := ThreadId(uuid4())) == slice_of(first)))}

    def exaggerated(projection: Projection) -> Projection:
        def handler(context: EventContext[Any]) -> Iterable[Change]:
            for table, row in projection.events[ModelCalled](context):
                values = dict(zip(table.names, row, strict=True))
                if str(context.thread_id) in bad and "calls" in values:
                    values["calls"] = 2**80
                yield table, table.row(**values)

        return replace(projection, events={**projection.events, ModelCalled: handler})

    runner = api.service.runtime.runner
    runner.projections = [exaggerated(p) if p.name in {"usage", "budgets"} else p for p in PROJECTIONS]
    for thread in bad:
        await api.opened(thread_id=thread)
        await api.turn(thread, "greetings")
    await talk(api, "greetings")
    assert (await strong(api, "/v1/usage"))["items"][0]["calls"] == 1
    parked = (await api.get("/v1/projections/parked")).json()
    assert sorted((one["projection"], one["thread_id"]) for one in parked) == [
        (name, thread) for name in ("budgets", "usage") for thread in sorted(bad)
    ]
    again = await api.post(f"/v1/projections/usage/parked/{first}/retry")
    assert again.json()["outcome"] == "parked_again"
    runner.projections = PROJECTIONS
    for one in parked:
        await api.post(f"/v1/projections/{one['projection']}/parked/{one['thread_id']}/retry")
    assert await wrong(api) == []


async def test_a_fold_that_was_not_made_for_an_event_keeps_no_other_thread(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evolve(state: State, event: Event, at: datetime | None = None) -> State:
        if isinstance(event, MessageAppended) and event.content == "poison":
            raise IndexError(event.content)
        return evolved(state, event, at)

    monkeypatch.setattr(projection_module, "evolve", evolve)
    bad = await talk(api, "greetings", "poison")
    await talk(api, "greetings")
    turns = {one["thread_id"]: one["turns"] for one in (await strong(api, "/v1/threads"))["items"]}
    assert sorted(turns.values()) == [1, 2]
    parked = (await api.get("/v1/projections/parked")).json()
    assert {one["projection"] for one in parked} == {projection.name for projection in PROJECTIONS}
    assert {one["thread_id"] for one in parked} == {bad}
    monkeypatch.undo()
    for one in parked:
        mended = await api.post(f"/v1/projections/{one['projection']}/parked/{bad}/retry")
        assert mended.json()["outcome"] == "current"
    assert await wrong(api) == []


async def test_a_row_that_the_table_does_not_take_parks_its_thread(api: Api) -> None:
    completed = next(p for p in PROJECTIONS if p.name == "turns")

    def broken(context: EventContext[Any]) -> Iterable[Change]:
        for table, row in completed.events[TurnCompleted](context):
            values = dict(zip(table.names, row, strict=True))
            if str(context.thread_id) == bad and "completed" in values:
                values["completed"] = 2**80
            yield table, table.row(**values)

    bad = await talk(api, "greetings")
    await strong(api, "/v1/threads")
    turns = replace(completed, events={**completed.events, TurnCompleted: broken})
    api.service.runtime.runner.projections = [turns if p.name == "turns" else p for p in PROJECTIONS]
    await asyncio.gather(*[api.turn(bad, "again"), *[talk(api, "greetings") for _ in range(5)]])
    assert (await strong(api, "/v1/analytics/turns"))["items"][0]["completed"] == 6
    (parked,) = (await api.get("/v1/projections/parked")).json()
    assert (parked["projection"], parked["thread_id"], parked["type"]) == ("turns", bad, "TurnCompleted")
    api.service.runtime.runner.projections = PROJECTIONS
    await api.post(f"/v1/projections/turns/parked/{bad}/retry")
    assert await wrong(api) == []
