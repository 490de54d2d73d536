"""Whoever is shown what threads hold over HTTP is recorded, once and before; sums and figures leave no trace."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4, uuid5

import httpx
import pytest

from api.http.cursors import encode_cursor
from api.services.history import HistoryCursor, pages_of
from api.services.threads import turn_of_command
from domain.errors import BehindLog, StoreUnavailable
from domain.ids import DEFAULT_TENANT, CommandId, ThreadId
from domain.ports.access_log import Access, AccessFilter
from infrastructure.signing import new_key
from tests.support.http import Api, matches, running_api

KEY = new_key()[0]
NO_FILTER = ("reads", DEFAULT_TENANT, AccessFilter())
"""What the cursors of the whole list of reads are of."""

ADA = {"X-Actor": "ada", "X-Correlation-ID": "ticket-7", "User-Agent": "console/1"}
READS = "/v1/audit/reads"

CONTENT: Mapping[str, tuple[str, str]] = {
    "a list": ("/v1/threads", "list"),
    "a search": ("/v1/threads?search=amount&title=%2Frefund", "list"),
    "turns": ("/v1/turns?tool=refund", "list"),
    "the turns of a thread": ("/v1/threads/{thread}/turns", "list"),
    "a summary": ("/v1/threads/{thread}", "summary"),
    "a summary of the read model": ("/v1/threads/{thread}?consistency=eventual", "summary"),
    "a summary of then": ("/v1/threads/{thread}?at_version=2", "summary"),
    "the state": ("/v1/threads/{thread}/state", "state"),
    "the state of then": ("/v1/threads/{thread}/state?at_version=2", "state"),
    "a context": ("/v1/threads/{thread}/context/{turn}", "context"),
    "messages": ("/v1/threads/{thread}/messages?order=desc&limit=1", "messages"),
    "events": ("/v1/threads/{thread}/events?limit=2", "events"),
    "a diff": ("/v1/threads/{thread}/diff?from=0", "diff"),
    "a stream": ("/v1/threads/{thread}/stream?after=0&until_idle=true", "stream"),
    "approvals": ("/v1/threads/{thread}/approvals", "approvals"),
    "a proof": ("/v1/threads/{thread}/events/2/proof", "proof"),
    "the feed": ("/v1/feed?types=MessageAppended", "feed"),
}
"""What shows something of a thread, and what it is recorded as."""

OTHERS = {
    "/v1/threads/{thread}/messages?cursor={after_messages}",
    "/v1/threads/{thread}/events?cursor={after_events}",
    "/v1/feed?types=TurnRolledBack",
    "/v1/usage",
    "/v1/analytics/turns",
    "/v1/budgets?group_by=thread_id",
    "/v1/threads/{thread}/budget",
    "/v1/limits",
    "/v1/limits/history",
    "/v1/instant?at=2026-11-23T10:00:00Z",
    "/v1/audit",
    "/v1/audit/reads",
    "/v1/projections",
    "/v1/projections/parked",
    "/v1/seals",
    "/v1/seals/1",
    "/v1/me",
    "/v1/keys",
    "/v1/tenants",
    "/v1/graphs",
    "/v1/graphs/cashier",
    "/v1/workers",
    "/health/live",
    "/health/ready",
    "/metrics",
}
"""What shows nothing that is in threads: empty pages, sums, names, and how things are."""


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    agents = ("tests.support.agents:cashier",)
    async with running_api(database_url=url, agents=agents, signing_key=KEY, seal_every=3600) as client:
        yield client


@pytest.fixture
async def thread(api: Api) -> str:
    """Name a thread in which a refund waits for a person, and whose events are sealed and in the read models."""
    thread, store = await api.opened(graph="cashier"), api.service.runtime.repository.store
    said = {"user_input": '/refund {"amount": 5}'}
    await api.post(f"/v1/threads/{thread}/turns", json=said, headers={"Idempotency-Key": "refund"})
    async with asyncio.timeout(60):
        while not any(row.waiting for row in await store.threads(DEFAULT_TENANT, None, 1)):
            await asyncio.sleep(0.02)
    await api.service.runtime.sealer.make()
    async with asyncio.timeout(60):
        for projection in ("threads", "messages"):
            while True:
                with suppress(BehindLog):  # on a busy machine
                    await api.service.reading.fresh(projection)
                    break
    return thread


def turn_of(thread: str) -> UUID:
    """Name the thread's turn."""
    return turn_of_command(CommandId(uuid5(UUID(thread), "refund")))


async def reads(api: Api, **params: Any) -> list[dict[str, Any]]:
    answer = await api.get(READS, params=params)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


@pytest.mark.parametrize("name", CONTENT)
async def test_content_is_recorded_once_with_who_was_shown_it(api: Api, thread: str, name: str) -> None:
    path, what = CONTENT[name]
    path = path.format(thread=thread, turn=turn_of(thread))
    async with httpx.AsyncClient(base_url=api.base_url) as client:
        answer = await client.get(path, headers=ADA)
    assert answer.status_code == 200, answer.text
    (read,) = await reads(api)
    assert read.pop("at").endswith("Z")
    assert read == {
        "what": what,
        "request": path,
        "actor": "ada",
        "client": "console/1",
        "principal": None,
        "correlation": "ticket-7",
        "threads": [thread],
    }


async def test_what_shows_nothing_of_a_thread_is_not_recorded(api: Api, thread: str) -> None:
    head = (await api.service.runtime.repository.load(ThreadId(UUID(thread)))).head.version
    after_events, after_messages = (
        encode_cursor(HistoryCursor("asc", head), pages_of(what, DEFAULT_TENANT, ThreadId(UUID(thread))))
        for what in ("events", "messages")
    )
    for path in OTHERS:
        answer = await api.get(
            path.format(thread=thread, after_events=after_events, after_messages=after_messages), headers=ADA
        )
        assert answer.status_code == 200, answer.text
    assert await reads(api) == []


@pytest.mark.parametrize(
    "path", ["/v1/threads?status=running", "/v1/threads?search=unmentioned", "/v1/turns?tool=unused"]
)
async def test_a_search_without_results_is_recorded(api: Api, thread: str, path: str) -> None:
    answer = await api.get(path, headers=ADA)
    assert answer.json()["items"] == []
    (read,) = await reads(api)
    assert (read["what"], read["actor"], read["request"], read["threads"]) == ("list", "ada", path, [])


async def operations(api: Api) -> list[tuple[str, str, str, list[str]]]:
    return [(one["what"], one["actor"], one["request"], one["threads"]) for one in await reads(api)]


async def test_what_an_operator_does_is_recorded(api: Api, thread: str) -> None:
    body = {"projections": ["usage", "tools"], "throttle": 100_000}
    assert (await api.post("/v1/projections/rebuild", json=body, headers=ADA)).status_code == 202
    assert (await api.post("/v1/projections/turns/rollback", headers=ADA)).status_code == 409
    assert (await api.post("/v1/projections/turns/drop", headers=ADA)).status_code == 200
    assert (await api.post("/v1/verify", headers=ADA)).status_code == 200
    assert (await api.post(f"/v1/threads/{thread}/verify", headers=ADA)).status_code == 200
    assert await operations(api) == [
        ("verify", "ada", f"/v1/threads/{thread}/verify", [thread]),
        ("verify", "ada", "/v1/verify", []),
        ("drop", "ada", "/v1/projections/turns/drop", []),
        ("rollback", "ada", "/v1/projections/turns/rollback", []),
        ("rebuild", "ada", "/v1/projections/rebuild projections=usage,tools throttle=100000", []),
    ]
    assert [one["what"] for one in await reads(api, what="drop")] == ["drop"]


@pytest.mark.parametrize("path", ["rebuild", "turns/rollback", "turns/drop", "verify"])
async def test_nothing_is_operated_without_a_record(api: Api, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    async def fail(access: Access) -> None:
        raise StoreUnavailable(f"{access.what} cannot be recorded")

    monkeypatch.setattr(api.service.runtime.log.accesses, "record", fail)
    before = (await api.get("/v1/projections")).json()
    answer = await api.post(
        "/v1/verify" if path == "verify" else f"/v1/projections/{path}",
        json={"projections": ["usage"]} if path == "rebuild" else None,
    )
    assert answer.status_code == 503
    names = [[one["instance"] for one in of["instances"]] for of in (await api.get("/v1/projections")).json()]
    assert names == [[one["instance"] for one in of["instances"]] for of in before]


async def test_an_operation_on_what_does_not_exist_is_not_recorded(api: Api, thread: str) -> None:
    for path in ("projections/none/drop", "projections/none/rollback", f"threads/{uuid4()}/verify"):
        assert (await api.post(f"/v1/{path}")).status_code == 404
    assert (await api.post(f"/v1/projections/usage/parked/{thread}/skip")).status_code == 404
    assert await reads(api) == []


async def test_operations_are_recorded_without_the_record_of_reads(url: str) -> None:
    async with running_api(database_url=url, audit_reads=False) as api:
        assert (await api.get("/v1/threads?search=nothing")).status_code == 200
        assert (await api.post("/v1/verify", headers=ADA)).status_code == 200
        assert [one["what"] for one in await reads(api)] == ["verify"]


async def test_of_every_path_it_is_known_whether_it_shows_content(api: Api) -> None:
    """Who adds a path says here which kind it is; then the tests above ask it."""
    paths = {path for path, operations in api.schema["paths"].items() if "get" in operations}
    asked = {path.partition("?")[0] for path in (*OTHERS, *(path for path, _ in CONTENT.values()))}
    templates = {
        path
        for path in paths
        if any(matches(path, one.replace("{thread}", "x").replace("{turn}", "y")) for one in asked)
    }
    assert paths == templates


@pytest.mark.parametrize("name", [name for name, (path, _) in CONTENT.items() if "{thread}" in path])
async def test_an_unknown_thread_leaves_no_record(api: Api, name: str) -> None:
    answer = await api.get(CONTENT[name][0].format(thread=uuid4(), turn=uuid4()), headers=ADA)
    assert answer.status_code == 404
    assert await reads(api) == []


async def test_a_read_that_is_refused_leaves_no_record(api: Api, thread: str) -> None:
    for path in ("state?at_version=99", "messages?cursor=x", "diff?from=9&to=1", "stream?after=-1", "events?order=up"):
        assert (await api.get(f"/v1/threads/{thread}/{path}")).status_code == 400
    bad = await api.get(f"/v1/threads/{thread}/stream", headers={"Last-Event-ID": "x"})
    assert bad.status_code == 400
    assert (await api.get(f"/v1/threads/{thread}/state", headers={"X-Actor": "a b"})).status_code == 400
    assert await reads(api) == []


@pytest.mark.parametrize("name", CONTENT)
async def test_what_cannot_be_recorded_is_not_shown(
    api: Api, thread: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: Access) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(api.service.runtime.log.accesses, "record", away)
    answer = await api.get(CONTENT[name][0].format(thread=thread, turn=turn_of(thread)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["type"] == "urn:threadfold:store-unavailable"
    assert "refund" not in answer.text


async def test_the_record_is_there_before_the_answer(api: Api, thread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, begun, record = asyncio.Event(), asyncio.Event(), api.service.runtime.log.accesses.record

    async def slow(access: Access) -> None:
        begun.set()
        await go_on.wait()
        await record(access)

    monkeypatch.setattr(api.service.runtime.log.accesses, "record", slow)
    asked = asyncio.create_task(api.get(f"/v1/threads/{thread}/state"))
    await begun.wait()
    await asyncio.sleep(0.1)
    assert not asked.done()
    go_on.set()
    assert (await asked).status_code == 200
    assert len(await reads(api)) == 1


async def test_commands_are_no_reads_but_one_that_changes_nothing_is(api: Api, thread: str) -> None:
    other = await api.opened(values={"a": 1})
    assert (await api.turn(other, "What is 2 + 2?")).json()["answer"]
    assert (await api.patch(f"/v1/threads/{other}/values", json={"values": {"b": 2}})).status_code == 200
    assert (await api.post(f"/v1/threads/{thread}/fork", json={})).status_code == 201
    assert await reads(api) == []
    shown = await api.patch(f"/v1/threads/{other}/values", json={"values": {"b": 2}}, headers=ADA)
    assert shown.json()["window"]
    (read,) = await reads(api)
    assert (read["what"], read["actor"], read["threads"]) == ("state", "ada", [other])


async def test_who_reads_a_fork_reads_what_it_left(api: Api, thread: str) -> None:
    fork = (await api.post(f"/v1/threads/{thread}/fork", json={"at_version": 3})).json()["thread_id"]
    again = (await api.post(f"/v1/threads/{fork}/fork", json={})).json()["thread_id"]
    await api.get(f"/v1/threads/{again}/messages")
    await api.get(f"/v1/threads/{again}/events/2/proof")
    proof, messages = await reads(api, thread_id=thread)
    assert messages["threads"] == [again, fork, thread]
    assert (proof["what"], proof["threads"]) == ("proof", [again, thread])


async def test_a_list_names_each_thread_once(api: Api) -> None:
    opened = {await api.opened() for _ in range(3)}
    for thread in opened:
        await api.patch(f"/v1/threads/{thread}/values", json={"values": {"a": 1}})
    await api.service.reading.fresh("threads")
    await api.get("/v1/threads")
    assert len((await api.get("/v1/feed")).json()["items"]) == 6
    found = await reads(api)
    assert [read["what"] for read in found] == ["feed", "list"]
    for read in found:
        assert len(read["threads"]) == 3
        assert set(read["threads"]) == opened


async def test_reads_are_filtered_and_come_in_pages(api: Api, thread: str) -> None:
    other = await api.opened()
    for actor in ("ada", "bob"):
        for one in (thread, other):
            for what in ("state", "events"):
                await api.get(f"/v1/threads/{one}/{what}", headers={"X-Actor": actor})
    everything = await reads(api)
    assert len(everything) == 8
    assert [read["at"] for read in everything] == sorted((read["at"] for read in everything), reverse=True)
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await api.get(READS, params={"limit": 3, **cursor})).json()
        assert "items" in page, page
        found += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == everything
    middle = everything[3]["at"]
    fits: Mapping[str, tuple[dict[str, str], Callable[[dict[str, Any]], bool]]] = {
        "thread": ({"thread_id": other}, lambda read: read["threads"] == [other]),
        "actor": ({"actor": "ada"}, lambda read: read["actor"] == "ada"),
        "kind": ({"what": "events"}, lambda read: read["what"] == "events"),
        "from": ({"from": middle}, lambda read: read["at"] >= middle),
        "to": ({"to": middle}, lambda read: read["at"] < middle),
        "nobody": ({"actor": "eve"}, lambda _: False),
    }
    for name, (params, fit) in fits.items():
        assert await reads(api, **params) == list(filter(fit, everything)), name
    both = await reads(api, actor="bob", what="state", thread_id=thread)
    assert [read["request"] for read in both] == [f"/v1/threads/{thread}/state"]


BAD = {
    "thread_id": {"thread_id": "x"},
    "actor": {"actor": "a\0"},
    "what": {"what": "gossip"},
    "from": {"from": "2026-11-23T10:00:00"},
    "to": {"to": "0001-01-01T00:00:00+14:00"},
    "limit": {"limit": "0"},
    "client": {"client": "curl"},
}


@pytest.mark.parametrize(
    ("field", "params"),
    [
        *BAD.items(),
        ("cursor", {"cursor": "*"}),
        ("cursor", {"cursor": encode_cursor(("2026-11-23T10:00:00", 1), NO_FILTER)}),
        ("cursor", {"cursor": encode_cursor(("0001-01-01T00:00:00+14:00", 1), NO_FILTER)}),
        ("cursor", {"cursor": encode_cursor(("9999-12-31T23:59:59-14:00", 1), NO_FILTER)}),
        ("cursor", {"cursor": encode_cursor(("2026-11-23T10:00:00Z", 2**63), NO_FILTER)}),
        ("cursor", {"cursor": encode_cursor(("2026-11-23T10:00:00Z", "a\0"), NO_FILTER)}),
    ],
)
async def test_bad_filters_get_a_problem_that_names_them(api: Api, field: str, params: dict[str, str]) -> None:
    answer = await api.get(READS, params=params)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field), answer.text


async def test_of_what_is_too_long_the_beginning_is_kept(api: Api, thread: str) -> None:
    path = f"/v1/threads?graph=cashier&active_since=2000-01-01T00:00:00Z&search={'amount+' * 200}"
    assert (await api.get(path, headers={"User-Agent": "x" * 500})).json()["items"][0]["thread_id"] == thread
    (read,) = await reads(api)
    assert (read["request"], read["client"]) == (path[:1_000], "x" * 100)


async def test_nothing_is_recorded_where_that_is_switched_off(url: str) -> None:
    async with running_api(database_url=url, audit_reads=False) as api:
        thread = await api.opened()
        assert (await api.get(f"/v1/threads/{thread}/state")).status_code == 200
        assert (await api.get("/v1/feed")).json()["items"]
        assert await reads(api) == []
