"""Read models that are built anew, exchanged, rolled back and dropped, while others read and write."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from api.http.caller import Caller
from api.runtime.composition import ALL_SLICES
from domain.errors import NotRebuildable
from domain.ids import Position, Slice, ThreadId, Version
from domain.log.hash_chain import Record
from domain.ports.read_models import GroupId, Parked, ProjectionGroup, Shape, SliceLag
from domain.read_models.tables import Column, Table
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


async def test_read_models_are_built_anew_beside_those_that_serve(api: Api) -> None:
    for _ in range(5):
        await talk(api, "hello", "What is 3 * 3?")
    names = [projection.name for projection in PROJECTIONS]
    seen = len((await strong(api, "/v1/threads"))["items"])
    begun = await api.post("/v1/projections/rebuild", json={"projections": names})
    assert begun.status_code == 202, begun.text
    await talk(api, "while it is built")
    async with asyncio.timeout(60):
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
    busy, store, numbers = await api.opened(), api.service.runtime.repository.store, itertools.count()
    read = store.read_after

    async def overtaken(after: Mapping[Slice, Position], limit: int) -> Sequence[Record]:
        found = await read(after, limit)
        patched = await api.patch(f"/v1/threads/{busy}/values", json={"values": {"n": next(numbers)}})
        assert patched.is_success, patched.text
        return found

    monkeypatch.setattr(store, "read_after", overtaken)
    assert (await api.post("/v1/projections/rebuild", json={"projections": ["usage", "audit"]})).status_code == 202
    async with asyncio.timeout(60):
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
    models, usage = api.service.runtime.log.models, next(p for p in PROJECTIONS if p.name == "usage")
    group = await models.rebuild([Shape("usage", 99, usage.tables)])
    assert await models.switch(group)
    assert "serves version 99, which this process does not know" in (await api.get("/health/ready")).json()["detail"]
    (settled,) = [i for i in await models.instances() if i.version == 99]
    parked = Parked(settled.id, ThreadId(uuid4()), Version(1), Position(1), "ModelCalled", "no", 3, datetime.now(UTC))
    with pytest.raises(NotRebuildable, match="of a version that this process does not know"):
        await api.service.runtime.runner.retry(parked)
    await models.roll_back("usage")
    assert "detail" not in (await api.get("/health/ready")).json()


async def test_a_read_model_that_no_code_knows_any_more_can_be_forgotten(api: Api) -> None:
    models = api.service.runtime.log.models
    kept = Table("former", "What was", (Column("id", "integer", "key"),))
    group = await models.rebuild([Shape("former", 1, (kept,))])
    assert await models.switch(group)
    assert (await api.post("/v1/projections/former/drop")).json() == []
    assert "former" not in {one["name"] for one in (await api.get("/v1/projections")).json()}
    await models.rebuild([Shape("former", 1, (kept,))])


async def replace_all(api: Api, group: GroupId) -> None:
    """Let what a group builds serve, and drop what served before."""
    assert await api.service.runtime.log.models.switch(group)
    for projection in PROJECTIONS:
        await api.service.projection_admin.drop(projection.name, Caller())
    assert {one.id for one in await api.service.runtime.log.models.groups()} == {group}


@pytest.fixture
async def built(api: Api, monkeypatch: pytest.MonkeyPatch) -> GroupId:
    """Name a group that is built as far as the serving one, while an event is new and no runner advances them."""
    thread, runtime = await talk(api, "hello"), api.service.runtime
    await strong(api, "/v1/threads")
    monkeypatch.setattr(runtime.runner, "held", list)
    group = await runtime.log.models.rebuild([projection.shape for projection in PROJECTIONS])
    while await runtime.runner.advance(group, ALL_SLICES):
        pass
    await api.patch(f"/v1/threads/{thread}/values", json={"values": {"a": 1}})
    return group


async def test_who_waits_for_what_is_stored_waits_for_what_serves_by_then(api: Api, built: GroupId) -> None:
    waiting = asyncio.create_task(api.service.reading.fresh("threads"))
    await asyncio.sleep(0.1)
    await replace_all(api, built)
    await asyncio.sleep(0.1)
    assert not waiting.done(), "what it waited for first is gone, and what serves is behind"
    assert await api.service.runtime.runner.advance(built, ALL_SLICES) == 1
    await waiting


async def test_who_begins_to_wait_during_an_exchange_waits_too(
    api: Api, built: GroupId, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = api.service.runtime.log.models
    behind = models.behind

    async def exchanged(group: GroupId, slices: Collection[Slice]) -> Sequence[SliceLag]:
        if group != built:
            await replace_all(api, built)
        return await behind(group, slices)

    monkeypatch.setattr(models, "behind", exchanged)
    waiting = asyncio.create_task(api.service.reading.fresh("threads"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    assert await api.service.runtime.runner.advance(built, ALL_SLICES) == 1
    await waiting


@pytest.mark.parametrize("path", ["/v1/projections", "/metrics"])
async def test_what_is_dropped_while_it_is_listed_is_left_out(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    runtime = api.service.runtime
    monkeypatch.setattr(runtime.runner, "held", list)
    await runtime.log.models.rebuild([next(p.shape for p in PROJECTIONS if p.name == "usage")])
    groups = runtime.log.models.groups

    async def late() -> Sequence[ProjectionGroup]:
        monkeypatch.setattr(runtime.log.models, "groups", groups)
        await api.service.projection_admin.drop("usage", Caller())
        return await groups()

    monkeypatch.setattr(runtime.log.models, "groups", late)
    listed = await api.get(path)
    assert listed.status_code == 200, listed.text
    assert ("usage" in listed.text, "building" in listed.text) == (True, False)
