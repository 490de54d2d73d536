"""A cursor holds for the list that gave it: its thread, its filters, its order. So does a version to go on after."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from infrastructure.signing import new_key
from tests.support.http import Api, running_api


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url, signing_key=new_key()[0]) as client:
        yield client


@pytest.fixture
async def threads(api: Api) -> tuple[str, str]:
    """Make two threads in which the same was said, and wait until every list has them."""
    made = str(uuid4()), str(uuid4())
    for thread in made:
        for _ in range(2):
            said = {"thread_id": thread, "user_input": "What is 1 + 1?", "strategy": "enqueue"}
            headers = {"X-Actor": "ada", "X-Correlation-ID": "c1"}
            assert (await api.post("/v1/agent/invoke", json=said, headers=headers)).is_success
            await api.service.runtime.sealer.make()
        await api.turn(thread, "hello")
    await api.get("/v1/audit?consistency=strong")
    await api.get("/v1/threads?consistency=strong")
    await api.get("/v1/turns?consistency=strong")
    await api.get("/v1/instant?consistency=strong&at=2999-01-01T00:00:00Z")
    return made


def lists(one: str, other: str) -> dict[str, list[str]]:
    """Give lists; of each the first one's cursor must not be taken by the others."""
    return {
        "events": [
            f"/v1/threads/{one}/events?",
            f"/v1/threads/{other}/events?",
            f"/v1/threads/{one}/messages?",
            f"/v1/threads/{one}/events?order=desc",
            f"/v1/threads/{one}/events?at_version=9",
            f"/v1/threads/{one}/diff?from=0",
        ],
        "events at a version": [
            f"/v1/threads/{one}/events?at_version=9",
            f"/v1/threads/{one}/events?",
            f"/v1/threads/{other}/events?at_version=9",
            f"/v1/threads/{one}/events?at_version=8",
            f"/v1/threads/{one}/events?at_time=2999-01-01T00:00:00Z",
        ],
        "events at an instant": [
            f"/v1/threads/{one}/events?at_time=2999-01-01T00:00:00Z",
            f"/v1/threads/{one}/events?at_time=2999-01-01T00:00:01Z",
            f"/v1/threads/{other}/events?at_time=2999-01-01T00:00:00Z",
        ],
        "messages": [
            f"/v1/threads/{one}/messages?order=desc",
            f"/v1/threads/{other}/messages?order=desc",
            f"/v1/threads/{one}/messages?",
            f"/v1/threads/{one}/events?order=desc",
        ],
        "diff": [
            f"/v1/threads/{one}/diff?from=0",
            f"/v1/threads/{other}/diff?from=0",
            f"/v1/threads/{one}/diff?from=1",
            f"/v1/threads/{one}/diff?from=0&to=9",
            f"/v1/threads/{one}/events?",
        ],
        "threads": [
            "/v1/threads?",
            "/v1/threads?order=asc",
            "/v1/threads?sort=tokens",
            "/v1/threads?status=idle",
            "/v1/threads?search=hello",
            "/v1/threads?title=What",
            "/v1/threads?graph=assistant",
            "/v1/threads?active_since=2000-01-01T00:00:00Z",
            "/v1/audit?",
            "/v1/audit/reads?",
            "/v1/seals?",
        ],
        "turns": [
            "/v1/turns?",
            "/v1/turns?order=asc",
            "/v1/turns?sort=cost",
            "/v1/turns?outcome=completed",
            "/v1/turns?tool=calculate",
            "/v1/turns?graph=assistant",
            "/v1/turns?min_cost_usd=0",
            "/v1/turns?created_since=2000-01-01T00:00:00Z",
            f"/v1/threads/{one}/turns?",
            "/v1/threads?",
        ],
        "turns of a thread": [
            f"/v1/threads/{one}/turns?",
            f"/v1/threads/{other}/turns?",
            f"/v1/threads/{one}/turns?max_duration_ms=1000000",
            f"/v1/threads/{one}/messages?",
            "/v1/turns?",
        ],
        "audit": [
            "/v1/audit?",
            f"/v1/audit?thread_id={one}",
            "/v1/audit?actor=ada",
            "/v1/audit?correlation=c1",
            "/v1/audit?by=caller",
            "/v1/audit?from=2000-01-01T00:00:00Z",
            "/v1/threads?",
        ],
        "reads": ["/v1/audit/reads?", f"/v1/audit/reads?thread_id={one}", "/v1/audit/reads?what=events", "/v1/seals?"],
        "seals": ["/v1/seals?", "/v1/threads?", "/v1/audit/reads?", f"/v1/threads/{one}/events?"],
        "instant": [
            "/v1/instant?at=2999-01-01T00:00:00Z&status=open",
            "/v1/instant?at=2999-01-01T00:00:01Z&status=open",
            "/v1/instant?at=2999-01-01T00:00:00Z&status=running",
            "/v1/threads?",
        ],
    }


async def first_page(api: Api, path: str) -> dict[str, Any]:
    answer = await api.get(f"{path}&limit=1")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return dict(found.get("happened") or found.get("open") or found)


def refused(answer: Any, field: str) -> bool:
    return bool(answer.status_code == 400 and answer.json()["errors"][0]["field"] == field)


@pytest.mark.parametrize("name", lists("", ""))
async def test_a_cursor_goes_on_in_its_own_list_alone(api: Api, threads: tuple[str, str], name: str) -> None:
    await api.get(f"/v1/threads/{threads[0]}/events?limit=1")  # so that two reads, at least, are recorded
    await api.get(f"/v1/threads/{threads[0]}/events?limit=1")
    own, *others = lists(*threads)[name]
    page = await first_page(api, own)
    cursor = page["next_cursor"]
    assert cursor is not None
    following = await api.get(f"{own}&limit=2&cursor={cursor}")
    assert following.status_code == 200, following.text
    assert page["items"][0] not in following.json().get("items", [])
    taken = [other for other in others if not refused(await api.get(f"{other}&cursor={cursor}"), "cursor")]
    assert taken == []
    assert refused(await api.get("/v1/feed", params={"after": cursor}), "after")


async def test_a_cursor_with_other_characters_is_none(api: Api, threads: tuple[str, str]) -> None:
    own = f"/v1/threads/{threads[0]}/events?"
    cursor = (await first_page(api, own))["next_cursor"]
    feed = (await api.get("/v1/feed?limit=1")).json()["next_cursor"]
    for wrong in (f"{cursor}!", f"{cursor}%0A", f" {cursor}", "", cursor[:-1], cursor[:8], f"{cursor}==", feed):
        assert refused(await api.get(f"{own}&cursor={wrong}"), "cursor"), wrong


class TestAStream:
    async def ask(self, api: Api, thread: str, query: str = "", last: str | None = None) -> Any:
        headers = {} if last is None else {"Last-Event-ID": last}
        return await api.get(f"/v1/threads/{thread}/stream?until_idle=true{query}", headers=headers)

    async def test_after_a_version_that_is_not_there_is_refused(self, api: Api, threads: tuple[str, str]) -> None:
        thread, _ = threads
        last = (await api.get(f"/v1/threads/{thread}")).json()["version"]
        assert (await self.ask(api, thread, last=str(last))).status_code == 200
        assert (await self.ask(api, thread, f"&after={last}")).status_code == 200
        for version in (str(last + 1), "2147483647", "2147483648", "9" * 400, "-1", "1.5", "a", "1e3", "0x1", "\u0661"):
            if version.isascii():
                assert refused(await self.ask(api, thread, last=version), "Last-Event-ID"), version
            assert refused(await self.ask(api, thread, f"&after={version}"), "after"), version
        both = await self.ask(api, thread, "&after=1", last=str(last + 1))
        assert refused(both, "Last-Event-ID")
        assert str(last) in both.json()["detail"]

    async def test_of_a_fork_begins_anywhere_in_its_past(self, api: Api, threads: tuple[str, str]) -> None:
        fork = (await api.post(f"/v1/threads/{threads[0]}/fork", json={"at_version": 12})).json()["thread_id"]
        last = (await api.get(f"/v1/threads/{fork}")).json()["version"]
        for version in (0, 3, 11, 12, last):
            answer = await self.ask(api, fork, last=str(version))
            assert answer.status_code == 200
            assert answer.text.count("\nid: ") + answer.text.startswith("id: ") == last - version
        assert refused(await self.ask(api, fork, last=str(last + 1)), "Last-Event-ID")
