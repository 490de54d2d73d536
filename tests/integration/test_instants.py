"""The system as of an instant is what the events of all threads say, through days in which budgets come and go."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from domain.ids import DEFAULT_TENANT
from tests.support import naive, naive_budgets
from tests.support.http import Api, running_api
from tests.support.naive import Json, Naive
from tests.support.plain import Plain, whole_log
from tests.support.projected import differences
from tests.support.runtime import Clock

PRICES = Path(__file__).parents[1] / "support/prices.json"
PRICED = {"threadfold-offline": (2_500_000, 10_000_000)}
AGENTS = ("tests.support.agents:cashier",)
LISTS = ("open", "running", "waiting", "over_budget")
TICK = timedelta(microseconds=1)


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url, prices=PRICES, agents=AGENTS, snapshot_every=10) as client:
        client.service.runtime.repository.clock = Clock()
        yield client


def clock(api: Api) -> Clock:
    found = api.service.runtime.repository.clock
    assert isinstance(found, Clock)
    return found


async def limit(api: Api, thread: str, *limits: Json) -> None:
    answer = await api.put(f"/v1/threads/{thread}/budget", json={"limits": limits})
    assert answer.is_success, answer.text


async def instant(api: Api, at: datetime, **params: Any) -> Json:
    answer = await api.get("/v1/instant", params={"at": naive.written(at), "consistency": "strong", **params})
    assert answer.is_success, answer.text
    return dict(answer.json())


async def paged(api: Api, at: datetime, status: str, size: int) -> list[Json]:
    """Follow a list to its end."""
    found: list[Json] = []
    params: Json = {"status": status, "limit": size}
    while True:
        answer = await instant(api, at, **params)
        assert answer.keys() == {"at", status}
        assert len(answer[status]["items"]) <= size
        found += answer[status]["items"]
        if answer[status]["next_cursor"] is None:
            return found
        params["cursor"] = answer[status]["next_cursor"]


async def live(api: Api, chance: random.Random) -> list[str]:
    """Let ten threads spend and be limited for some weeks, some of them waiting for a person, or forked."""
    threads = [await api.opened(graph="assistant" if number % 3 else "cashier") for number in range(8)]
    windows = ["hour", "day", "month", "lifetime"]
    # What is spent already is over some of these at once; nobody can get over a limit any more by spending.
    amounts: list[Json] = [{"tokens": 1}, {"tokens": 30}, {"tokens": 300}, {"tokens": 2_000}, {"cost_usd": 0.002}]
    for step in range(90):
        clock(api).pass_(chance.choice([0, 1, 300, 1_500, 3_600, 20_000, 86_400 * chance.randrange(5)]))
        thread = chance.choice(threads)
        match chance.randrange(4):
            case 0:
                kinds = chance.sample(windows, chance.randrange(4))
                await limit(api, thread, *({"window": kind, **chance.choice(amounts)} for kind in kinds))
            case 1 if step % 20 == 1:
                body = {"resume": chance.random() < 0.5}
                threads.append((await api.post(f"/v1/threads/{thread}/fork", json=body)).json()["thread_id"])
            case _:
                said = chance.choice(["hello", "What is 3 * 4?", "/refund 5"])
                await api.post(f"/v1/threads/{thread}/turns", json={"user_input": said})
                await settled(api, thread)
    over = await api.opened()
    await api.turn(over, "hello")
    await limit(api, over, {"window": "lifetime", "tokens": 1})  # so that one of them is over its budget for sure
    return [*threads, over]


async def settled(api: Api, thread: str) -> None:
    async with asyncio.timeout(60):
        while (await api.get(f"/v1/threads/{thread}")).json()["status"] == "running":
            await asyncio.sleep(0.005)


def stood(events: dict[str, Sequence[Json]], at: datetime) -> dict[str, list[tuple[str, str]]]:
    """Which threads stood how at an instant and since when, by what all of their events say."""
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in LISTS}
    for thread, recorded in events.items():
        version, written = naive.version_at(recorded, at), naive.written(at)
        if not version:
            continue
        then = recorded[:version]
        own = max((place for place, event in enumerate(then) if event["type"] == "ThreadForked"), default=0)
        found["open"].append((then[own]["recorded_at"], thread))
        status, begun = Naive(then).status, version
        while begun > own + 1 and Naive(then[: begun - 1]).status == status:
            begun -= 1
        if status != "idle":
            found[status].append((then[begun - 1]["recorded_at"], thread))
        if since := naive_budgets.over_since(then, written, PRICED):
            found["over_budget"].append((since, thread))
    return {name: sorted(threads) for name, threads in found.items()}


async def test_who_stood_how_at_any_instant_is_what_all_events_say(api: Api) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)  # noqa: T201  (pytest shows it when the test fails)
    chance = random.Random(seed)
    threads = await live(api, chance)
    events = {}
    for thread in threads:
        events[thread] = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 1_000})).json()["items"]
    moments = sorted({datetime.fromisoformat(event["recorded_at"]) for found in events.values() for event in found})
    hours = [moment.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1) for moment in moments]
    days = [moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1) for moment in moments]
    between = [early + (late - early) / 2 for early, late in pairwise(moments)]
    chosen = [
        *chance.sample(moments, 25),
        *chance.sample(hours, 10),
        *chance.sample(days, 10),
        *chance.sample(between, 10),
    ]
    seen = 0
    for at in [*chosen, *(moment - TICK for moment in chosen), moments[-1] + timedelta(days=400)]:
        expected = stood(events, at)
        everything = await instant(api, at)
        for name in LISTS:
            listed = [(one["since"], one["thread_id"]) for one in everything[name]["items"]]
            assert listed == expected[name], (name, at)
        name = chance.choice(LISTS)
        assert await paged(api, at, name, chance.randrange(1, 4)) == everything[name]["items"]
        seen += len(expected["over_budget"])
        thread = chance.choice(threads)
        if naive.version_at(events[thread], at):
            budget = (await api.get(f"/v1/threads/{thread}/budget", params={"at_time": naive.written(at)})).json()
            then = naive_budgets.budget(
                events[thread][: naive.version_at(events[thread], at)], naive.written(at), PRICED
            )
            assert {key: budget[key] for key in then} == then
            assert budget["over"] == (thread in {one for _, one in expected["over_budget"]})
    assert seen, "some thread was over its budget at some of these instants"


async def test_a_thread_is_over_budget_until_the_window_ends_and_no_longer(api: Api) -> None:
    """It is ten o'clock when it begins: the hour ends at eleven, and the day at midnight."""
    thread = await api.opened()
    await api.turn(thread, "hello")
    clock(api).pass_(60)
    begun = clock(api).now()
    spent = (await api.get(f"/v1/threads/{thread}/budget")).json()["windows"][-1]["tokens"]
    await limit(api, thread, {"window": "hour", "tokens": 1}, {"window": "day", "tokens": spent})
    eleven, midnight = datetime(2026, 11, 23, 11, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)

    async def over(at: datetime) -> list[str]:
        items = (await instant(api, at, status="over_budget"))["over_budget"]["items"]
        assert {one["thread_id"] for one in items} <= {thread}
        return [one["since"] for one in items]

    since = [naive.written(begun)]
    assert [await over(at) for at in (begun - TICK, begun, midnight - TICK, midnight)] == [[], since, since, []]
    await limit(api, thread, {"window": "hour", "tokens": 1})
    assert [await over(at) for at in (begun - TICK, begun, eleven - TICK, eleven)] == [[], since, since, []]
    clock(api).pass_(60)
    await limit(api, thread, {"window": "hour", "tokens": 1}, {"window": "day", "tokens": spent})
    assert [await over(at) for at in (eleven - TICK, eleven, midnight - TICK, midnight)] == [since, since, since, []]
    clock(api).pass_(60)
    await limit(api, thread, {"window": "day", "tokens": 61_000})
    lifted = clock(api).now()
    assert [await over(at) for at in (lifted - TICK, lifted, eleven)] == [since, [], []]
    await limit(api, thread, {"window": "lifetime", "tokens": 5})
    assert await over(lifted + timedelta(days=10_000)) == [naive.written(lifted)]


async def test_a_fork_may_begin_with_waiting_and_over_its_budget_at_once(api: Api) -> None:
    parent = await api.opened(graph="cashier")
    await api.turn(parent, "hello")
    await limit(api, parent, {"window": "lifetime", "tokens": 1})
    await api.post(f"/v1/threads/{parent}/turns", json={"user_input": "/refund 5"})
    await settled(api, parent)
    clock(api).pass_(60)
    forked = (await api.post(f"/v1/threads/{parent}/fork", json={"resume": True})).json()["thread_id"]
    found = await instant(api, clock(api).now())
    for name in ("waiting", "over_budget"):
        assert found[name]["items"][-1] == {"thread_id": forked, "since": naive.written(clock(api).now())}


async def test_read_models_of_budgets_are_what_the_log_comes_to_also_when_they_are_told_anew(api: Api) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)  # noqa: T201  (pytest shows it when the test fails)
    chance, runtime = random.Random(seed), api.service.runtime
    threads = [await api.opened() for _ in range(4)]
    for _ in range(40):
        clock(api).pass_(chance.choice([0, 600, 3_600, 40_000]))
        thread = chance.choice(threads)
        if chance.random() < 0.3:
            kinds = chance.sample(["hour", "day", "month", "lifetime"], chance.randrange(4))
            await limit(api, thread, *({"window": kind, "tokens": chance.choice([40, 400])} for kind in kinds))
        else:
            await api.turn(thread, "hello")
        if chance.random() < 0.5:  # another process goes on, which has seen nothing of this
            await api.service.reading.fresh("spells")
            runtime.runner._cache._threads.clear()
    await limit(api, threads[0])
    await api.turn(threads[0], "hello")
    await limit(api, threads[0], {"window": "lifetime", "tokens": 1})  # over for sure, whatever chance has brought
    await api.service.reading.fresh("spells")
    plain = Plain(await whole_log(runtime.repository.store), PRICED)
    assert await differences(runtime.log.models, plain, DEFAULT_TENANT) == []
    assert any(plain.overruns.values())


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"at": "2026-11-23T10:00:00"}, "at"),
        ({"at": "yesterday"}, "at"),
        ({"status": "closed"}, "status"),
        ({"limit": 0}, "limit"),
        ({"limit": 1_001}, "limit"),
        ({"status": "open", "cursor": "***"}, "cursor"),
        ({"status": "open", "cursor": "WyJvcGVuIl0"}, "cursor"),
        ({"cursor": "{open}"}, "cursor"),
        ({"status": "waiting", "cursor": "{open}"}, "cursor"),
        ({"status": "open", "cursor": "{open}", "at": "2026-11-23T10:00:02Z"}, "cursor"),
    ],
)
async def test_what_cannot_be_asked_of_an_instant_is_told(api: Api, params: dict[str, Any], field: str) -> None:
    for _ in range(2):
        await api.opened()
    first = await instant(api, datetime(2026, 11, 23, 10, 0, 1, tzinfo=UTC), status="open", limit=1)
    given = {"at": "2026-11-23T10:00:01Z", **params}
    if given.get("cursor") == "{open}":
        given["cursor"] = first["open"]["next_cursor"]
    refused = await api.get("/v1/instant", params=given)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)
