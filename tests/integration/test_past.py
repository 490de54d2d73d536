"""The past over HTTP is what the events say, worked out a second time: see `tests/support/naive.py`."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import naive, naive_budgets
from tests.support.http import Api, running_api
from tests.support.naive import Json, Naive

AGENTS = tuple(f"tests.support.agents:{name}" for name in ("slow", "stuck", "cashier", "clumsy"))
PRICED = {"threadfold-offline": (2_500_000, 10_000_000)}
"""What a token costs, by `tests/support/prices.json`."""
SETTINGS: dict[str, Any] = {
    "agents": AGENTS,
    "snapshot_every": 10,
    "context_window_limit": 600,
    "prices": Path(__file__).parents[1] / "support/prices.json",
}
POINTS = int(os.environ.get("PAST_POINTS", "3"))
"""Random versions and instants of each of the 20 threads; `make chaos` has more."""

TICK = timedelta(microseconds=1)


@pytest.fixture(params=["memory", "postgres"])
def log_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))


@asynccontextmanager
async def serving(log_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=log_url, **SETTINGS) as api:
        yield api


async def every(api: Api, path: str, **params: Any) -> list[Json]:
    """Follow a list to its end."""
    found: list[Json] = []
    while True:
        answer = await api.get(path, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= params["limit"]
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


class Life:
    """Twenty threads in which everything happens that can happen to one."""

    def __init__(self, api: Api, chance: random.Random) -> None:
        self.api, self.chance = api, chance

    async def threads(self) -> list[str]:
        talks = await asyncio.gather(*[self.talk() for _ in range(4)])
        refunds = await asyncio.gather(*[self.refund() for _ in range(3)])
        clumsy = await asyncio.gather(*[self.stumble() for _ in range(3)])
        busy = await asyncio.gather(*[self.crowd(strategy) for strategy in ("enqueue", "interrupt", "rollback")])
        stuck = [await self.give_up()]
        parents = [*talks[:1], *refunds[:1], *clumsy[:1], *busy[:1], *stuck]
        forks = await asyncio.gather(*[self.fork(parent) for parent in parents])
        return [*talks, *refunds, *clumsy, *busy, *stuck, *forks, await self.fork(forks[0])]

    async def idle(self, thread: str) -> None:
        async with asyncio.timeout(60):
            while (await self.api.get(f"/v1/threads/{thread}")).json()["status"] == "running":
                await asyncio.sleep(0.02)

    async def talk(self) -> str:
        thread = await self.api.opened(values={"plan": "gold", "a/b": {"c~d": 1}})
        for _ in range(6):
            number = self.chance.randrange(100)
            said = [f"What is {number} + 3 and {number} * 2?", "/calculate 1 / 0", "hello " * 60, "What time is it?"]
            await self.api.turn(thread, self.chance.choice(said))
            values = {"n": number % 3, "plan": self.chance.choice(["gold", None, True, 1]), "a/b": {"e": number}}
            await self.api.patch(f"/v1/threads/{thread}/values", json={"values": values})
            await self.limit(thread)
        return thread

    async def limit(self, thread: str) -> None:
        """Set some budget, which may be too small already, or lift it."""
        windows = self.chance.sample(["hour", "day", "month", "lifetime"], self.chance.randrange(4))
        kinds: list[Json] = [
            {"tokens": 100},
            {"tokens": 10_000},
            {"cost_usd": 0.001},
            {"tokens": 2_000, "cost_usd": 0.01},
        ]
        limits = [{"window": window, **self.chance.choice(kinds)} for window in windows]
        answer = await self.api.put(f"/v1/threads/{thread}/budget", json={"limits": limits})
        assert answer.status_code == 200, answer.text

    async def refund(self) -> str:
        thread = await self.api.opened(graph="cashier")
        decisions: list[Json] = [
            {"decision": "grant"},
            {"decision": "grant", "arguments": {"amount": 3}},
            {"decision": "deny", "reason": "Too late."},
        ]
        for decision in decisions:
            await self.say(thread, '/refund {"amount": 5}')
            await self.decide(thread, decision)
        turn = await self.say(thread, '/refund {"amount": 7}')
        await self.api.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
        await self.say(thread, '/refund {"amount": 9}')  # and this one waits for ever
        return thread

    async def say(self, thread: str, text: str, **more: object) -> str:
        answer = await self.api.post(f"/v1/threads/{thread}/turns", json={"user_input": text, **more})
        assert answer.status_code == 202, answer.text
        if not more:
            await self.idle(thread)
        return str(answer.json()["turn_id"])

    async def decide(self, thread: str, decision: Json) -> None:
        (asked,) = (await self.api.get(f"/v1/threads/{thread}/approvals")).json()["items"]
        path = f"/v1/threads/{thread}/approvals/{asked['approval_id']}"
        answer = await self.api.post(path, json={"hash": asked["hash"], **decision})
        assert answer.status_code == 200, answer.text
        await self.idle(thread)

    async def stumble(self) -> str:
        thread = await self.api.opened(graph="clumsy", values={"mood": "good"})
        for text in ("one two three", "please stumble", "some unpronounceable words", "sign here", "sign there"):
            await self.say(thread, text)
            if "sign" in text:
                await self.decide(thread, {"decision": "grant" if "here" in text[:9] else "deny"})
        turn = await self.say(thread, "fail")
        await self.api.post(f"/v1/threads/{thread}/turns/{turn}/retry")
        await self.idle(thread)
        return thread

    async def crowd(self, strategy: str) -> str:
        thread = await self.api.opened(graph="slow")
        await self.say(thread, "first")
        for number in range(3):
            await self.say(thread, f"{strategy} {number}", strategy=strategy)
            await self.api.patch(f"/v1/threads/{thread}/values", json={"values": {"n": number}})
            await self.limit(thread)
            await asyncio.sleep(self.chance.random() / 20)
        queued = await self.say(thread, "and this", strategy="enqueue")
        await self.api.post(f"/v1/threads/{thread}/turns/{queued}/cancel")
        await self.idle(thread)
        return thread

    async def give_up(self) -> str:
        thread = await self.api.opened(graph="stuck")
        answer = await self.api.post(f"/v1/threads/{thread}/turns", json={"user_input": "go"})
        turn = answer.json()["turn_id"]
        await self.api.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
        again = (await self.api.post(f"/v1/threads/{thread}/turns/{turn}/retry")).json()["turn_id"]
        await self.api.post(f"/v1/threads/{thread}/turns/{again}/cancel", params={"wait": True})
        return thread

    async def fork(self, parent: str) -> str:
        state = (await self.api.get(f"/v1/threads/{parent}/state")).json()
        said = [message["version"] for message in state["window"] if message["role"] == "user"]
        edits = [{"version": version, "content": "Something else."} for version in said[:1]]
        body = {"at_version": state["version"] - 1, "messages": edits, "values": {"forked": [parent]}}
        forked = await self.api.post(f"/v1/threads/{parent}/fork", json=body)
        assert forked.status_code == 201, forked.text
        thread = str(forked.json()["thread_id"])
        if state["graph"] != "stuck":
            await self.say(thread, '/refund {"amount": 2}' if state["graph"] == "cashier" else "one two")
        return thread


class Witness:
    """Knows all events of a thread, and holds what is answered about it against them."""

    def __init__(self, api: Api, thread: str, events: Sequence[Json], chance: random.Random) -> None:
        self.api, self.path, self.events, self.chance = api, f"/v1/threads/{thread}", events, chance

    async def check(self, version: int, params: Json) -> None:
        """Look at the thread as it was at a version, which `params` name in their way."""
        then, limit = self.events[:version], self.chance.randrange(1, 12)
        state = (await self.api.get(f"{self.path}/state", params=params)).json()
        expected = Naive(then).state()
        assert {key: state[key] for key in expected} == expected
        assert state["checkpoint"].partition("-")[0] == str(version)
        await self.check_budget(then, params)
        said = naive.transcript(then)
        assert await every(self.api, f"{self.path}/messages", limit=limit, **params) == said
        assert await every(self.api, f"{self.path}/messages", limit=limit, order="desc", **params) == said[::-1]
        assert await every(self.api, f"{self.path}/events", limit=5 * limit, **params) == then
        assert await every(self.api, f"{self.path}/events", limit=5 * limit, order="desc", **params) == then[::-1]

    async def check_budget(self, then: Sequence[Json], params: Json) -> None:
        budget = (await self.api.get(f"{self.path}/budget", params=params)).json()
        expected = naive_budgets.budget(then, str(params.get("at_time", then[-1]["recorded_at"])), PRICED)
        assert {key: budget[key] for key in expected} == expected

    async def check_diff(self, since: int, until: int, params: Json) -> None:
        limit = self.chance.randrange(1, 40)
        answer = await self.api.get(f"{self.path}/diff", params={**params, "limit": limit})
        assert answer.status_code == 200, answer.text
        diff = answer.json()
        was, now = Naive(self.events[:since]), Naive(self.events[:until])
        assert [diff["from"][key] for key in ("version", "status")] == [since, was.status]
        assert [diff["to"][key] for key in ("version", "status")] == [until, now.status]
        self.check_changes(diff["changes"], was, now)
        assert diff["counts"] == naive.counts(self.events[:until], since)
        assert (diff["counted_to"], diff["truncated"]) == (until, False)
        told = diff["happened"]["items"]
        while diff["happened"]["next_cursor"]:
            more = {**params, "limit": limit, "cursor": diff["happened"]["next_cursor"]}
            diff = (await self.api.get(f"{self.path}/diff", params=more)).json()
            assert len(diff["happened"]["items"]) <= limit
            told += diff["happened"]["items"]
        happened = self.events[since:until]
        assert [one["type"] for one in told] == [event["type"] for event in happened]
        for one, event in zip(told, happened, strict=True):
            assert [one[key] for key in ("version", "recorded_at")] == [event["version"], event["recorded_at"]]
            self.check_sentence(one["sentence"], event)

    def check_changes(self, changes: Json, was: Naive, now: Naive) -> None:
        for name in ("status", "graph", "summary"):
            before, after = (getattr(one, name) or None for one in (was, now))
            assert changes[name] == (None if before == after else {"before": before, "after": after})
        for name in ("turns", "prompt_tokens", "completion_tokens"):
            assert changes[name] == getattr(now, name) - getattr(was, name)
        found = {(value["pointer"], value["change"]) for value in changes["values"]}
        assert found == naive.changed_values(was.values, now.values)
        for value in changes["values"]:
            for state, key in ((was.values, "before"), (now.values, "after")):
                assert (key in value) == (value["change"] != ("added" if key == "before" else "removed"))
                assert key not in value or value[key] == self.at(state, value["pointer"])

    def at(self, values: Any, pointer: str) -> Any:
        for key in pointer.split("/")[1:]:
            values = values[key.replace("~1", "/").replace("~0", "~")]
        return values

    def check_sentence(self, sentence: str, event: Json) -> None:
        data = event["data"]
        match event["type"]:
            case "MessageAppended" if data["content"] and len(data["content"]) < 200:
                assert " ".join(data["content"].split()) in sentence
            case "ToolRequested":
                assert f"asked for {data['tool']}(" in sentence
            case "ToolSucceeded" | "ToolFailed":
                tools = {e["version"]: e["data"]["tool"] for e in self.events if e["type"] == "ToolRequested"}
                assert sentence.startswith(tools[data["call"]])
            case "TurnCompleted":
                assert sentence == f"Turn {data['turn_id'][:8]} completed"
            case _:
                assert sentence

    async def check_instant(self, at: datetime) -> None:
        version, params = naive.version_at(self.events, at), {"at_time": naive.written(at)}
        if version:
            return await self.check(version, params)
        for what in ("state", "messages", "events", "budget"):
            early = await self.api.get(f"{self.path}/{what}", params=params)
            assert (early.status_code, early.json()["errors"][0]["field"]) == (400, "at_time")
        return None

    def some_instant(self) -> datetime:
        first, last = (datetime.fromisoformat(self.events[place]["recorded_at"]) for place in (0, -1))
        recorded = datetime.fromisoformat(self.chance.choice(self.events)["recorded_at"])
        between = first + (last - first) * self.chance.random()
        return self.chance.choice([recorded, recorded + TICK, recorded - TICK, between, last + timedelta(days=1)])


async def check_all(api: Api, threads: Sequence[str], seed: int) -> None:
    for number, thread in enumerate(threads):
        chance = random.Random(seed + number)
        events = await every(api, f"/v1/threads/{thread}/events", limit=1_000)
        assert [event["version"] for event in events] == list(range(1, len(events) + 1))
        witness = Witness(api, thread, events, chance)
        for _ in range(POINTS):
            version = chance.randrange(1, len(events) + 1)
            await witness.check(version, {"at_version": version})
            await witness.check_instant(witness.some_instant())
            since, until = sorted(chance.choices(range(len(events) + 1), k=2))
            await witness.check_diff(since, max(until, 1), {"from": since, "to": max(until, 1)})
        begin, end = sorted(datetime.fromisoformat(chance.choice(events)["recorded_at"]) for _ in range(2))
        if since_version := naive.version_at(events, begin):
            times = {"from_time": naive.written(begin), "to_time": naive.written(end)}
            await witness.check_diff(since_version, naive.version_at(events, end), times)
        await witness.check_diff(0, len(events), {"from": 0})


async def test_state_messages_events_and_diff_are_what_the_events_say(log_url: str) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)  # noqa: T201  (pytest shows it when the test fails)
    async with serving(log_url) as api:
        threads = await Life(api, random.Random(seed)).threads()
        assert len(threads) == 20
        if log_url == "memory://":
            return await check_all(api, threads, seed)
    async with serving(log_url) as later:  # a process that has folded none of them
        return await check_all(later, threads, seed)
