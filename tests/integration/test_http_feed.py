"""The feed over HTTP: everything at least once, in order within each slice, whatever the writers do meanwhile."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from domain.ids import DEFAULT_TENANT, SLICES, Position, Slice, Tenant, ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Head, chain_records
from domain.ports.log import Append
from domain.thread.codec import Metadata, encode
from domain.thread.events import StateUpdated, ThreadOpened
from infrastructure.postgres.log.append import Storing
from infrastructure.postgres.pool import open_pool
from tests.streams import NOON, new_thread, threads_of
from tests.support.http import Api, running_api

WRITERS, THREADS, ROUNDS = 16, 60, 20
HERE = [Slice(number) for number in (0, 1, 2, 63)]


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    """Name an empty log of each kind of stores."""
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url) as api:
        yield api


async def page(api: httpx.AsyncClient, after: str | None = None, **params: Any) -> dict[str, Any]:
    given = {**params, **({"after": after} if after is not None else {})}
    response = await api.get("/v1/feed", params=given)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def all_of(api: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    """Read until there is no more."""
    items: list[dict[str, Any]] = []
    after, more = None, True
    while more:
        answer = await page(api, after, **params)
        items += answer["items"]
        after, more = answer["next_cursor"], answer["more"]
    return items


def places(items: list[dict[str, Any]]) -> dict[int, list[int]]:
    found = defaultdict(list)
    for item in items:
        found[item["slice"]].append(item["position"])
    return dict(found)


def appended(thread_id: ThreadId, after: Head, count: int, tenant: Tenant = DEFAULT_TENANT, size: int = 10) -> Append:
    """Seal events of a real thread: its opening, then changes of its values."""
    opening = [] if after.version else [ThreadOpened("assistant")]
    changes = [StateUpdated({"n": n, "text": "x" * size}) for n in range(count - len(opening))]
    drafts = [encode(event, Metadata()) for event in (*opening, *changes)]
    records, head = chain_records(tenant, thread_id, after, drafts, NOON)
    return Append(tenant, thread_id, after, head, records, in_turn=False)


async def store(api: Api, append: Append) -> None:
    await api.service.runtime.repository.store.append(append)


# --- what it tells


async def test_an_item_is_an_event_with_its_thread_and_its_place(api: Api) -> None:
    thread = await api.opened()
    await api.turn(thread, "/calculate 2 + 3")

    items = (await page(api))["items"]

    events = (await api.get(f"/v1/threads/{thread}/events")).json()["items"]
    number = slice_of(ThreadId(UUID(thread)))
    assert items == [
        {"thread_id": thread, "slice": number, "position": place, **event} for place, event in enumerate(events, 1)
    ]


async def test_pages_hold_everything_once_and_in_order(api: Api) -> None:
    for count in range(1, 30):
        await store(api, appended(new_thread(), EMPTY_HEAD, count))
    heads = await api.service.runtime.repository.store.slice_heads()
    expected = {number: list(range(1, head + 1)) for number, head in enumerate(heads) if head}

    for limit in (3, 100, 1_000):
        items = await all_of(api, limit=limit)
        assert places(items) == expected
        assert len(items) == sum(heads)


async def test_each_slice_gets_its_turn(api: Api) -> None:
    busy, quiet = (next(threads_of(Slice(number))) for number in (3, 4))
    await store(api, appended(busy, EMPTY_HEAD, 50))
    await store(api, appended(quiet, EMPTY_HEAD, 1))

    first = await page(api, limit=5)
    second = await page(api, first["next_cursor"], limit=5)

    assert places(first["items"]) == {3: [1, 2, 3, 4, 5]}
    assert places(second["items"]) == {4: [1], 3: [6, 7, 8, 9]}


async def test_nobody_sees_another_tenants_events_and_gets_past_them(api: Api) -> None:
    theirs, ours = islice(threads_of(Slice(9)), 2)
    await store(api, appended(theirs, EMPTY_HEAD, 3, Tenant("other")))
    await store(api, appended(ours, EMPTY_HEAD, 2))

    answer = await page(api)

    assert [(item["thread_id"], item["position"]) for item in answer["items"]] == [(str(ours), 4), (str(ours), 5)]
    assert (await page(api, answer["next_cursor"]))["items"] == []


async def test_types_leave_others_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domain.application.streaming.feed.MAX_SCANNED_RECORDS", 3)
    thread = await api.opened()
    await api.turn(thread, "/calculate 2 + 3")

    items = await all_of(api, types="TurnCompleted,MessageAppended")

    assert [item["type"] for item in items] == [
        "MessageAppended",
        "MessageAppended",
        "MessageAppended",
        "TurnCompleted",
    ]
    assert (await page(api, types="TurnCompleted", wait=5))["items"][0]["type"] == "TurnCompleted"


async def test_slices_can_be_shared_among_consumers(api: Api) -> None:
    for _ in range(60):
        await store(api, appended(new_thread(), EMPTY_HEAD, 2))
    begun = await page(api, limit=20)

    rest: list[dict[str, Any]] = []
    for slices in ("0-511", "512-1022", "1023"):
        answer = await page(api, begun["next_cursor"], slices=slices, limit=1_000)
        assert not answer["more"]
        rest += answer["items"]
        assert (await page(api, answer["next_cursor"]))["items"] == []

    assert len(begun["items"]) + len(rest) == 120
    assert places(begun["items"] + rest).keys() == places(await all_of(api)).keys()
    assert {(i["slice"], i["position"]) for i in begun["items"]} & {(i["slice"], i["position"]) for i in rest} == set()


async def test_a_page_ends_when_it_is_heavy_and_nothing_is_skipped(api: Api) -> None:
    for number in (5, 6):
        await store(api, appended(next(threads_of(Slice(number))), EMPTY_HEAD, 12, size=65_000))

    first = await page(api, limit=100)
    second = await page(api, first["next_cursor"], limit=100)

    assert 10 < len(first["items"]) < 20
    assert first["more"]
    everything = first["items"] + second["items"]
    assert {s: sorted(p) for s, p in places(everything).items()} == {5: list(range(1, 13)), 6: list(range(1, 13))}


# --- waiting


async def test_waits_until_something_comes(api: Api) -> None:
    cursor = (await page(api))["next_cursor"]
    begun = time.monotonic()
    waiting = asyncio.create_task(page(api, cursor, wait=20))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    thread = await api.opened()

    answer = await waiting

    assert time.monotonic() - begun < 15, "it did not wait for all of its 20 s"
    assert [item["thread_id"] for item in answer["items"]] == [thread]


async def test_what_no_signal_tells_of_is_found_soon(database_url: str, pool: asyncpg.Pool) -> None:
    async with running_api(database_url=database_url) as api:
        waiting = [asyncio.create_task(page(api, wait=20)) for _ in range(5)]
        await asyncio.sleep(0.3)
        await Storing(pool).store([appended(new_thread(), EMPTY_HEAD, 1)])
        begun = time.monotonic()
        answers = await asyncio.gather(*waiting)
        assert time.monotonic() - begun < 15, "it did not wait for all of its 20 s"
        assert [len(answer["items"]) for answer in answers] == [1] * 5


async def test_waits_no_longer_than_it_is_told(api: Api) -> None:
    theirs = appended(new_thread(), EMPTY_HEAD, 1, Tenant("other"))
    begun = time.monotonic()
    waiting = asyncio.create_task(page(api, wait=1))
    await asyncio.sleep(0.2)
    await store(api, theirs)

    answer = await waiting

    assert 0.9 < time.monotonic() - begun < 15
    assert (answer["items"], answer["more"]) == ([], False)
    assert (await page(api, answer["next_cursor"]))["next_cursor"] == answer["next_cursor"]


# --- what is refused


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"after": "x"}, "after"),
        ({"after": ""}, "after"),
        ({"after": "eJwLSS0uKVZIzs8rSc0rAQAcLgSI"}, "after"),
        ({"slices": "5-4"}, "slices"),
        ({"slices": "0-1024"}, "slices"),
        ({"slices": "-1"}, "slices"),
        ({"slices": "1,2"}, "slices"),
        ({"slices": ""}, "slices"),
        ({"types": "Nothing"}, "types"),
        ({"types": ""}, "types"),
        ({"wait": 31}, "wait"),
        ({"wait": -1}, "wait"),
        ({"wait": "nan"}, "wait"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"cursor": "x"}, "cursor"),
    ],
    ids=str,
)
async def test_bad_parameters_are_refused_by_their_names(running: Api, params: dict[str, Any], field: str) -> None:
    refused = await running.get("/v1/feed", params=params)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field), refused.text


@pytest.fixture
async def running() -> AsyncIterator[Api]:
    async with running_api(database_url="memory://") as api:
        yield api


async def test_a_cursor_says_nothing_about_other_slices(running: Api) -> None:
    cursor = (await page(running, slices="10-20"))["next_cursor"]
    refused = await running.get("/v1/feed", params={"after": cursor, "slices": "5-20"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "slices")


async def test_a_cursor_of_another_log_is_refused(running: Api) -> None:
    await running.opened()
    cursor = (await page(running))["next_cursor"]
    async with running_api(database_url="memory://") as other:
        refused = await other.get("/v1/feed", params={"after": cursor})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "after")


# --- while others write


class Writers:
    """Append to threads of a few slices, each in a transaction that waits before its end, and often rolls back."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.threads = [id_ for slice_ in HERE for id_ in islice(threads_of(slice_), THREADS // len(HERE))]
        self.heads: dict[ThreadId, Head] = {}
        self.rolled_back = 0
        self._random = random.Random(20)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(self._write())

    async def _write(self) -> None:
        for _ in range(ROUNDS):
            thread_id = self._random.choice(self.threads)
            append = appended(thread_id, self.heads.get(thread_id, EMPTY_HEAD), self._random.randint(1, 4))
            async with self.pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                (position,) = await Storing(connection).store([append])
                await asyncio.sleep(self._random.choice([0, 0.002, 0.01, 0.05]))
                if position is None or self._random.random() < 0.3:
                    await transaction.rollback()
                    self.rolled_back += 1
                    continue
                await transaction.commit()
            self.heads[thread_id] = append.head


async def consume(api: Api, slices: str, items: list[dict[str, Any]], done: asyncio.Event) -> None:
    """Read on and on, in pages of all sizes; now and then forget the last page, as who dies before noting it."""
    chance, cursor = random.Random(slices), None
    async with httpx.AsyncClient(base_url=api.base_url, timeout=60) as client:
        while True:
            finished = done.is_set()
            wait = 0 if finished else chance.choice([0, 0.1, 1])
            answer = await page(client, cursor, slices=slices, limit=chance.choice([1, 3, 10, 50]), wait=wait)
            if chance.random() < 0.1:
                continue
            cursor = answer["next_cursor"]
            items += answer["items"]
            if finished and not answer["more"] and not answer["items"]:
                return


async def test_nothing_is_skipped_and_nothing_out_of_order_while_writers_commit_late_and_roll_back(
    database_url: str,
) -> None:
    consumed: dict[str, list[dict[str, Any]]] = {"0-1023": [], "0-1": [], "2-1023": []}
    done = asyncio.Event()
    async with running_api(database_url=database_url) as api, await open_pool(database_url, max_size=WRITERS) as pool:
        writers = Writers(pool)
        async with asyncio.TaskGroup() as group:
            for slices, items in consumed.items():
                group.create_task(consume(api, slices, items, done))
            await writers.run()
            done.set()
        log = api.service.runtime.repository.store
        stored = [r for number in range(SLICES) for r in await log.read_slice(Slice(number), Position(0), 10_000)]

    assert min(len(stored), writers.rolled_back) > 100, "the test must be about something"
    for items in (consumed["0-1023"], consumed["0-1"] + consumed["2-1023"]):
        for slice_, positions in places(items).items():
            assert positions == list(range(1, len(positions) + 1)), slice_
        told = {(item["thread_id"], item["version"], item["position"]) for item in items}
        assert told == {(str(r.thread_id), r.version, r.position) for r in stored}
