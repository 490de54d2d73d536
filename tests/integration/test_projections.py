"""Read models of real turns, over HTTP: they are what the log comes to, whatever happens to those who write them."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from api import reading
from api.reading import ALL
from domain.chain import Record
from domain.errors import InvalidInput, NotRebuildable
from domain.events import Event, MessageAppended, ModelCalled, TurnCompleted
from domain.evolve import evolve as evolved
from domain.ids import DEFAULT_TENANT, Position, Slice, Tenant, ThreadId, Version, slice_of
from domain.prices import Prices
from domain.read_models import Line, LineId, Parked, Shape, Slot
from domain.state import State
from domain.tables import Change, Column, Table
from projections import messages
from projections import projection as projection_module
from projections.projection import Projection, Seen, Story
from projections.registry import PROJECTIONS
from tests.support.http import Api, running_api
from tests.support.plain import Plain, whole_log
from tests.support.projected import differences


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url) as client:
        yield client


@pytest.fixture
async def stored(database_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=database_url) as client:
        yield client


async def talk(api: Api, *texts: str, **headers: str) -> str:
    thread = await api.opened()
    for text in texts:
        said = await api.post(
            f"/v1/threads/{thread}/turns", params={"wait": True}, json={"user_input": text}, headers=headers
        )
        assert said.is_success, said.text
    return thread


async def strong(api: Api, path: str, **params: Any) -> Any:
    response = await api.get(path, params={"consistency": "strong", **params})
    assert response.is_success, response.text
    return response.json()


async def wrong(api: Api) -> list[str]:
    runtime = api.service.runtime
    for name in ("threads", "usage"):
        await api.service.reading.fresh(name)
    return await differences(runtime.models, Plain(await whole_log(runtime.journal.store)), DEFAULT_TENANT)


async def test_every_read_model_is_what_the_log_comes_to(api: Api) -> None:
    await asyncio.gather(*[talk(api, f"What is {n} * 7?", "thanks", "/calculate 1 / 0") for n in range(12)])
    assert await wrong(api) == []


async def test_a_list_shows_filters_searches_and_sorts_threads(api: Api) -> None:
    sums = await talk(api, "What is 12 * 3.5?")
    words = await talk(api, "Tell me about marmalade, please", "And again marmalade")
    page = await strong(api, "/v1/threads", search="marmalade")
    (found,) = page["items"]
    assert (found["thread_id"], found["title"], found["turns"]) == (words, "Tell me about marmalade, please", 2)
    assert (found["status"], found["messages"], found["queued_turns"]) == ("idle", 4, [])
    assert found == (await api.get(f"/v1/threads/{words}")).json()
    assert [one["thread_id"] for one in (await strong(api, "/v1/threads", title="What"))["items"]] == [sums]
    for sort in ("opened_at", "last_event_at", "tokens", "cost"):
        first = await strong(api, "/v1/threads", sort=sort, order="asc", limit=1)
        second = await strong(api, "/v1/threads", sort=sort, order="asc", limit=1, cursor=first["next_cursor"])
        assert second["next_cursor"] is None
        assert {first["items"][0]["thread_id"], second["items"][0]["thread_id"]} == {sums, words}
    assert (await strong(api, "/v1/threads", status="running,waiting"))["items"] == []
    other = await api.get("/v1/threads", params={"sort": "tokens", "cursor": first["next_cursor"]})
    assert (other.status_code, other.json()["errors"][0]["field"]) == (400, "cursor")


async def test_a_search_for_words_that_all_messages_have_is_told_so(stored: Api) -> None:
    await talk(stored, "What about the marmalade?")
    assert (await strong(stored, "/v1/threads", search="about marmalade"))["items"] != []
    for common in ("what about", "the", "?!"):
        refused = await stored.get("/v1/threads", params={"search": common})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "search")


async def test_a_search_has_no_operators(api: Api) -> None:
    said = await talk(api, "hello, marmalade")
    await talk(api, "hello, honey")
    for search, found in (("-marmalade", [said]), ('"marmalade hello', [said]), ("hello or zzz", []), ("-zzz", [])):
        items = (await strong(api, "/v1/threads", search=search))["items"]
        assert [one["thread_id"] for one in items] == found, search


async def test_a_reader_waits_for_what_it_has_seen(api: Api) -> None:
    thread = await talk(api, "hello")
    version = (await api.get(f"/v1/threads/{thread}")).json()["version"]
    seen = await api.get(f"/v1/threads/{thread}", params={"consistency": "eventual", "min_version": version})
    assert seen.json()["version"] == version
    listed = (await api.get("/v1/threads", params={"min_version": f"{thread}:{version}"})).json()["items"]
    assert [(one["thread_id"], one["version"]) for one in listed] == [(thread, version)]
    for bad in ("12", f"{thread}:", f"{thread}:{version + 1}", f"{UUID(int=9)}:1", "x:1"):
        refused = await api.get("/v1/usage", params={"min_version": bad})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "min_version")


async def test_nobody_can_wait_for_a_thread_of_somebody_else(api: Api) -> None:
    mine, nobodys = ThreadId(UUID(await talk(api, "hello"))), ThreadId(UUID(int=9))
    told = []
    for thread in (mine, nobodys):
        with pytest.raises(InvalidInput) as refused:
            await api.service.reading.seen("threads", Tenant("other"), thread, 1)
        told.append((refused.value.field, refused.value.why.replace(str(thread), "…")))
    assert told == [("min_version", "the thread … has no version 1")] * 2
    await api.service.reading.seen("threads", DEFAULT_TENANT, mine, 1)


async def test_sums_have_groups_widths_ranges_and_percentiles(api: Api) -> None:
    await talk(api, "What is 2 + 2?", "hello")
    usage = await strong(api, "/v1/usage", bucket="day", group_by="graph,model")
    (item,) = usage["items"]
    assert (item["graph"], item["model"], item["calls"]) == ("assistant", "threadfold-offline", 3)
    assert item["latency_ms"].keys() == {"p50", "p95", "p99"}
    by_days = (await strong(api, "/v1/usage"))["items"][0]["latency_ms"]
    assert (await strong(api, "/v1/usage", **{"from": "2001-01-01T00:30:00Z"}))["items"][0]["latency_ms"] == by_days
    assert (await strong(api, "/v1/usage", bucket="month"))["items"][-1]["latency_ms"] == by_days
    assert (await strong(api, "/v1/usage", to="2001-01-01T00:00:00Z"))["items"][0]["calls"] == 0
    tools = await strong(api, "/v1/analytics/tools", group_by="tool")
    assert [(one["tool"], one["requested"], one["succeeded"]) for one in tools["items"]] == [("calculate", 1, 1)]
    nodes = await strong(api, "/v1/analytics/nodes", group_by="node", graph="assistant")
    assert {one["node"] for one in nodes["items"]} >= {"route_intent", "generate_response", "finalize_turn"}
    (turns,) = (await strong(api, "/v1/analytics/turns"))["items"]
    assert (turns["started"], turns["completed"], turns["failed"]) == (2, 2, 0)
    (spent,) = await strong(api, "/v1/budgets", window="lifetime", group_by="thread_id,model")
    assert spent["tokens"] == usage["items"][0]["prompt_tokens"] + usage["items"][0]["completion_tokens"]
    for path, field, params in (
        ("/v1/usage", "group_by", {"group_by": "tool"}),
        ("/v1/usage", "from", {"from": "2026-01-01T00:00:00"}),
        ("/v1/budgets", "group_by", {"group_by": "graph"}),
        ("/v1/analytics/tools", "node", {"node": "x"}),
    ):
        refused = await api.get(path, params=params)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field), refused.text


async def test_a_range_whose_ends_are_the_same_is_empty(api: Api) -> None:
    await talk(api, "hello")
    ends = {"from": "2020-01-01T01:00:00+01:00", "to": "2020-01-01T00:00:00Z"}
    assert (await strong(api, "/v1/usage", **ends))["items"][0]["calls"] == 0
    assert (await strong(api, "/v1/audit", **ends))["items"] == []
    assert (await strong(api, "/v1/threads", active_since=ends["from"], active_before=ends["to"]))["items"] == []


async def test_more_sums_than_an_answer_has_are_refused_and_not_cut_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk(api, "What is 2 + 2?")
    path, by_node = "/v1/analytics/nodes", {"group_by": "node"}
    nodes = len((await strong(api, path, **by_node))["items"])
    assert nodes > 2
    monkeypatch.setattr(reading, "MOST", nodes)
    assert len((await strong(api, path, bucket="month", **by_node))["items"]) == nodes
    monkeypatch.setattr(reading, "MOST", nodes - 1)
    for params, field in ((by_node, "group_by"), ({"bucket": "month", **by_node}, "bucket")):
        refused = await api.get(path, params=params)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field), refused.text


async def test_the_audit_says_who_did_what_and_what_the_agent_did_because_of_it(api: Api) -> None:
    thread = await talk(
        api, "What is 2 + 2?", **{"X-Correlation-ID": "ticket-7", "User-Agent": "curl/8.9", "X-Actor": "ada"}
    )
    entries = (await strong(api, "/v1/audit", correlation="ticket-7"))["items"]
    agent, caller = sorted(entries, key=lambda entry: str(entry["by"]))
    assert agent["command"] == caller["command"]
    assert caller["actions"] == ["TurnStarted", "MessageAppended"]
    assert (caller["actor"], caller["client"], caller["thread_id"]) == ("ada", "curl/8.9", thread)
    assert [entry["command"] for entry in (await strong(api, "/v1/audit", actor="ada"))["items"]] == [caller["command"]]
    assert agent["actions"] == ["ToolStarted", "ToolSucceeded", "TurnCompleted"]
    everything = await strong(api, "/v1/audit", thread_id=thread, limit=1)
    rest = await strong(api, "/v1/audit", thread_id=thread, cursor=everything["next_cursor"])
    assert len(everything["items"] + rest["items"]) == 3


async def test_an_instant_names_who_ran_then(stored: Api, owner: asyncpg.Connection) -> None:
    thread = await talk(stored, "hello")
    events = (await stored.get(f"/v1/threads/{thread}/events")).json()["items"]
    begun = next(event["recorded_at"] for event in events if event["type"] == "TurnStarted")
    ended = next(event["recorded_at"] for event in events if event["type"] == "TurnCompleted")
    assert (await strong(stored, "/v1/instant", at=begun))["running"]["items"] == [
        {"thread_id": thread, "since": begun}
    ]
    assert (await strong(stored, "/v1/instant", at=ended))["running"] == {"items": [], "next_cursor": None}
    spells = await owner.fetch("SELECT status, since, until FROM analytics.spells")
    assert [row["status"] for row in spells] == ["running"]


def poisoned(bad: str) -> Projection:
    """Make the projection of messages fail at those that say something."""
    said = messages.PROJECTION.events[MessageAppended]

    def handler(seen: Seen) -> Iterable[Change]:
        event = seen.recorded.event
        if isinstance(event, MessageAppended) and event.role == "user" and bad in (event.content or ""):
            raise ValueError(f"cannot take {bad}")
        return said(seen)

    return replace(messages.PROJECTION, events={**messages.PROJECTION.events, MessageAppended: handler})


async def test_a_poison_event_parks_its_thread_and_no_other_one(api: Api) -> None:
    runner = api.service.runtime.runner
    runner.projections = [poisoned("poison") if p.name == "messages" else p for p in PROJECTIONS]
    bad = await talk(api, "hello", "this is poison", "and after it")
    good = [await talk(api, "hello", "What is 1 + 1?") for _ in range(3)]
    assert len((await strong(api, "/v1/threads", search="hello"))["items"]) == 4
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

    def broken(story: Story, prices: Prices) -> Iterable[Change]:
        if str(story.thread_id) == bad:
            raise ValueError("cannot summarise it")
        return summarised.thread(story, prices) if summarised.thread else ()

    runner = api.service.runtime.runner
    runner.projections = [replace(summarised, thread=broken) if p.name == "threads" else p for p in PROJECTIONS]
    await api.opened(thread_id=bad)
    await asyncio.gather(api.turn(bad, "hello"), *[talk(api, "hello") for _ in range(3)])
    turns = {one["thread_id"]: one["turns"] for one in (await strong(api, "/v1/threads"))["items"]}
    assert bad not in turns
    assert list(turns.values()) == [1, 1, 1]
    (parked,) = (await api.get("/v1/projections/parked")).json()
    assert (parked["projection"], parked["thread_id"]) == ("threads", bad)
    version = (await api.get(f"/v1/threads/{bad}")).json()["version"]
    behind = await api.get("/v1/threads", params={"min_version": f"{bad}:{version}"})
    assert (behind.status_code, "leaves this thread out" in behind.text) == (503, True)
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
        def handler(seen: Seen) -> Iterable[Change]:
            for table, row in projection.events[ModelCalled](seen):
                values = dict(zip(table.names, row, strict=True))
                if str(seen.thread_id) in bad and "calls" in values:
                    values["calls"] = 2**80
                yield table, table.row(**values)

        return replace(projection, events={**projection.events, ModelCalled: handler})

    runner = api.service.runtime.runner
    runner.projections = [exaggerated(p) if p.name in {"usage", "budgets"} else p for p in PROJECTIONS]
    for thread in bad:
        await api.opened(thread_id=thread)
        await api.turn(thread, "hello")
    await talk(api, "hello")
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
    bad = await talk(api, "hello", "poison")
    await talk(api, "hello")
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

    def broken(seen: Seen) -> Iterable[Change]:
        for table, row in completed.events[TurnCompleted](seen):
            values = dict(zip(table.names, row, strict=True))
            if str(seen.thread_id) == bad and "completed" in values:
                values["completed"] = 2**80
            yield table, table.row(**values)

    bad = await talk(api, "hello")
    await strong(api, "/v1/threads")
    turns = replace(completed, events={**completed.events, TurnCompleted: broken})
    api.service.runtime.runner.projections = [turns if p.name == "turns" else p for p in PROJECTIONS]
    await asyncio.gather(*[api.turn(bad, "again"), *[talk(api, "hello") for _ in range(5)]])
    assert (await strong(api, "/v1/analytics/turns"))["items"][0]["completed"] == 6
    (parked,) = (await api.get("/v1/projections/parked")).json()
    assert (parked["projection"], parked["thread_id"], parked["type"]) == ("turns", bad, "TurnCompleted")
    api.service.runtime.runner.projections = PROJECTIONS
    await api.post(f"/v1/projections/turns/parked/{bad}/retry")
    assert await wrong(api) == []


async def test_read_models_are_built_anew_beside_those_that_serve(api: Api) -> None:
    for _ in range(5):
        await talk(api, "hello", "What is 3 * 3?")
    names = [projection.name for projection in PROJECTIONS]
    seen = len((await strong(api, "/v1/threads"))["items"])
    begun = await api.post("/v1/projections/rebuild", json={"projections": names})
    assert begun.status_code == 202, begun.text
    await talk(api, "while it is built")
    async with asyncio.timeout(20):
        while any(
            one["status"] == "building"
            for view in (await api.get("/v1/projections")).json()
            for one in view["instances"]
        ):
            listed = len((await api.get("/v1/threads")).json()["items"])
            assert listed >= seen, "reads go on, and none goes back in time"
            seen = listed
            await asyncio.sleep(0.05)
    for view in (await api.get("/v1/projections")).json():
        assert [one["status"] for one in view["instances"]] == ["kept", "serving"]
    assert await wrong(api) == []
    back = await api.post("/v1/projections/usage/rollback")
    assert [one["status"] for one in back.json()[0]["instances"]] == ["serving", "kept"]
    assert await wrong(api) == []
    for name in names:
        dropped = await api.post(f"/v1/projections/{name}/drop")
        assert len(dropped.json()[0]["instances"]) == 1
    await talk(api, "after it")
    assert await wrong(api) == []
    unknown = await api.post("/v1/projections/rebuild", json={"projections": ["nothing"]})
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (404, "projection")
    assert (await api.post("/v1/projections/usage/rollback")).status_code == 409


async def test_who_names_a_read_model_twice_has_it_built_once(api: Api) -> None:
    begun = await api.post("/v1/projections/rebuild", json={"projections": ["usage", "usage"]})
    assert (begun.status_code, begun.json()["projections"]) == (202, ["usage"]), begun.text
    (usage,) = [view for view in (await api.get("/v1/projections")).json() if view["name"] == "usage"]
    assert len(usage["instances"]) == 2


async def test_what_is_built_serves_though_there_is_always_something_new(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, store, numbers = await api.opened(), api.service.runtime.journal.store, itertools.count()
    read = store.read_after

    async def overtaken(after: Mapping[Slice, Position], limit: int) -> Sequence[Record]:
        found = await read(after, limit)
        patched = await api.patch(f"/v1/threads/{busy}/values", json={"values": {"n": next(numbers)}})
        assert patched.is_success, patched.text
        return found

    monkeypatch.setattr(store, "read_after", overtaken)
    assert (await api.post("/v1/projections/rebuild", json={"projections": ["usage", "audit"]})).status_code == 202
    async with asyncio.timeout(3):
        while "building" in (await api.get("/v1/projections")).text:
            await asyncio.sleep(0.01)
    monkeypatch.undo()
    assert await wrong(api) == []


async def test_a_read_model_can_be_rolled_back_while_others_write(api: Api) -> None:
    await talk(api, "hello")
    await api.post("/v1/projections/rebuild", json={"projections": ["usage"]})
    while "building" in (await api.get("/v1/projections")).text:
        await asyncio.sleep(0.01)
    writing = asyncio.create_task(_write(api))
    try:
        for _ in range(5):
            back = await api.post("/v1/projections/usage/rollback")
            assert back.status_code == 200, back.text
    finally:
        writing.cancel()
    assert await wrong(api) == []


async def _write(api: Api) -> None:
    while True:
        await talk(api, "hello")


async def test_a_read_model_of_another_version_that_serves_is_told_of(api: Api) -> None:
    models, usage = api.service.runtime.models, next(p for p in PROJECTIONS if p.name == "usage")
    line = await models.rebuild([Shape("usage", 99, usage.tables)])
    assert await models.switch(line)
    assert "serves version 99, which this process does not know" in (await api.get("/health/ready")).json()["detail"]
    (settled,) = [i for i in await models.instances() if i.version == 99]
    parked = Parked(settled.id, ThreadId(uuid4()), Version(1), Position(1), "ModelCalled", "no", 3, datetime.now(UTC))
    with pytest.raises(NotRebuildable, match="of another version"):
        await api.service.runtime.runner.retry(parked)
    await models.roll_back("usage")
    assert "detail" not in (await api.get("/health/ready")).json()


async def test_a_read_model_that_no_code_knows_any_more_can_be_forgotten(api: Api) -> None:
    models = api.service.runtime.models
    kept = Table("former", "What was", (Column("id", "integer", "key"),))
    line = await models.rebuild([Shape("former", 1, (kept,))])
    assert await models.switch(line)
    assert (await api.post("/v1/projections/former/drop")).json() == []
    assert "former" not in {one["name"] for one in (await api.get("/v1/projections")).json()}
    await models.rebuild([Shape("former", 1, (kept,))])


async def replace_all(api: Api, line: LineId) -> None:
    """Let what a line builds serve, and drop what served before."""
    assert await api.service.runtime.models.switch(line)
    for projection in PROJECTIONS:
        await api.service.reading.drop(projection.name)
    assert {one.id for one in await api.service.runtime.models.lines()} == {line}


@pytest.fixture
async def built(api: Api, monkeypatch: pytest.MonkeyPatch) -> LineId:
    """Name a line that is built as far as the serving one, while an event is new and nobody takes either on."""
    thread, runtime = await talk(api, "hello"), api.service.runtime
    await strong(api, "/v1/threads")
    monkeypatch.setattr(runtime.runner, "held", list)
    line = await runtime.models.rebuild([projection.shape for projection in PROJECTIONS])
    while await runtime.runner.advance(line, ALL):
        pass
    await api.patch(f"/v1/threads/{thread}/values", json={"values": {"a": 1}})
    return line


async def test_who_waits_for_what_is_stored_waits_for_what_serves_by_then(api: Api, built: LineId) -> None:
    waiting = asyncio.create_task(api.service.reading.fresh("threads"))
    await asyncio.sleep(0.1)
    await replace_all(api, built)
    await asyncio.sleep(0.1)
    assert not waiting.done(), "what it waited for first is gone, and what serves is behind"
    assert await api.service.runtime.runner.advance(built, ALL) == 1
    await waiting


async def test_who_begins_to_wait_during_an_exchange_waits_too(
    api: Api, built: LineId, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = api.service.runtime.models
    behind = models.behind

    async def exchanged(line: LineId, slices: Collection[Slice]) -> Sequence[Slot]:
        if line != built:
            await replace_all(api, built)
        return await behind(line, slices)

    monkeypatch.setattr(models, "behind", exchanged)
    waiting = asyncio.create_task(api.service.reading.fresh("threads"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    assert await api.service.runtime.runner.advance(built, ALL) == 1
    await waiting


@pytest.mark.parametrize("path", ["/v1/projections", "/metrics"])
async def test_what_is_dropped_while_it_is_listed_is_left_out(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    runtime = api.service.runtime
    monkeypatch.setattr(runtime.runner, "held", list)
    await runtime.models.rebuild([next(p.shape for p in PROJECTIONS if p.name == "usage")])
    lines = runtime.models.lines

    async def late() -> Sequence[Line]:
        monkeypatch.setattr(runtime.models, "lines", lines)
        await api.service.reading.drop("usage")
        return await lines()

    monkeypatch.setattr(runtime.models, "lines", late)
    listed = await api.get(path)
    assert listed.status_code == 200, listed.text
    assert ("usage" in listed.text, "building" in listed.text) == (True, False)


async def test_forks_and_their_parents_are_summarised_by_what_each_did(api: Api) -> None:
    parent = await talk(api, "What is 2 + 2?", "thanks")
    version = (await api.get(f"/v1/threads/{parent}")).json()["version"]
    forked = (await api.post(f"/v1/threads/{parent}/fork", json={"at_version": version - 3})).json()["thread_id"]
    await api.turn(forked, "What is 5 * 5?")
    listed = {one["thread_id"]: one for one in (await strong(api, "/v1/threads"))["items"]}
    for thread in (parent, forked):
        assert listed[thread] == (await api.get(f"/v1/threads/{thread}")).json()
    (turns,) = (await strong(api, "/v1/analytics/turns"))["items"]
    assert turns["started"] == 3
    assert await api.service.reading.parked() == []


async def test_reports_see_the_stable_views_and_nothing_else(stored: Api, owner: asyncpg.Connection) -> None:
    thread = await talk(stored, "What is 2 + 2?")
    await strong(stored, "/v1/threads")
    await strong(stored, "/v1/usage")
    await owner.execute("SET ROLE threadfold_reader")
    (row,) = await owner.fetch("SELECT thread_id, title, cost_usd FROM analytics.threads")
    assert (row["thread_id"], row["title"], row["cost_usd"]) == (UUID(thread), "What is 2 + 2?", 0)
    said = await owner.fetch("SELECT role, content FROM analytics.messages WHERE role = 'user'")
    assert [tuple(row) for row in said] == [("user", "What is 2 + 2?")]
    for forbidden in ("SELECT FROM events", "SELECT FROM read_models.instances", "DELETE FROM analytics.threads"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(forbidden)


async def test_a_summary_of_the_past_is_that_of_then(api: Api) -> None:
    thread = await talk(api, "What is 2 + 2?", "thanks")
    now = (await api.get(f"/v1/threads/{thread}")).json()
    before: dict[str, Any] = {}
    for version in range(1, now["version"] + 1):
        then = (await api.get(f"/v1/threads/{thread}", params={"at_version": version})).json()
        assert then["version"] == version
        assert then["turns"] >= before.get("turns", 0)
        before = then
    assert before == now
