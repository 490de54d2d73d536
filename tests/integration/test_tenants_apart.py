"""What one tenant has is, to the keys of another one, as if it did not exist."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import pytest

from api.http.caller import Caller
from tests.integration.test_http_authentication import OPERATOR, a_key, bearer
from tests.support.http import Api, running_api

MARKER = "xylophone"
SCOPES_OF_A_TENANT = ("threads:read", "threads:write", "approvals:decide", "audit:read", "limits:write")

LISTS = (
    "/v1/threads",
    f"/v1/threads?search={MARKER}",
    "/v1/turns",
    "/v1/feed",
    "/v1/usage?consistency=strong",
    "/v1/analytics/nodes?consistency=strong",
    "/v1/analytics/tools?consistency=strong",
    "/v1/analytics/turns?consistency=strong",
    "/v1/budgets?group_by=thread_id",
    "/v1/limits",
    "/v1/limits/history",
    "/v1/audit?consistency=strong",
    "/v1/audit/reads?what=state",
)


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url, auth="required") as client:
        for name in ("acme", "other", "empty"):
            await client.service.identity.create_tenant(name, OPERATOR, Caller())
        yield client


async def key_of(api: Api, tenant: str) -> Mapping[str, str]:
    return bearer(await a_key(api, *SCOPES_OF_A_TENANT, tenant=tenant))


async def a_thread(api: Api, headers: Mapping[str, str]) -> tuple[str, str]:
    """Open a thread with a turn and a budget, read it, and limit its tenant. Return its id and its turn's."""
    body = {"user_input": f"What is 2 + 3? {MARKER}", "subject": "ann", "values": {"note": MARKER}}
    invoked = (await api.post("/v1/agent/invoke", json=body, headers={**headers, "Idempotency-Key": "one"})).json()
    thread_id, turn_id = invoked["thread_id"], invoked["turn_id"]
    assert (await api.get(f"/v1/threads/{thread_id}/stream?until_idle=true", headers=headers)).is_success
    limits = {"limits": [{"window": "day", "tokens": 1_000_000}]}
    for path in (f"/v1/threads/{thread_id}/budget", "/v1/limits"):
        assert (await api.put(path, json=limits, headers=headers)).is_success
    assert MARKER in (await api.get(f"/v1/threads/{thread_id}/state", headers=headers)).text
    return thread_id, turn_id


def without(answer: Any, *ids: str) -> str:
    """Return an answer's text without these ids and without times, which differ anyway."""
    text = answer.text
    for one in ids:
        text = text.replace(one, "ID")
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "AT", text)


async def test_a_foreign_thread_is_answered_like_a_missing_one(api: Api) -> None:
    acme, other = await key_of(api, "acme"), await key_of(api, "other")
    thread_id, turn_id = await a_thread(api, acme)
    missing, tried = str(uuid4()), 0
    for template, methods in api.schema["paths"].items():
        if "{thread_id}" not in template or template.startswith("/v1/projections"):
            continue
        for method in methods:
            answers = []
            for thread in (thread_id, missing):
                path = template.replace("{thread_id}", thread).replace("{turn_id}", turn_id)
                path = re.sub(r"\{\w+\}", "2", path)
                bodies: dict[str, dict[str, object]] = {
                    "turns": {"user_input": "Hi"},
                    "budget": {"limits": []},
                    "values": {"values": {}},
                    "fork": {},
                }
                body = bodies.get(path.rsplit("/", 1)[1], {"decision": "deny", "hash": "x"})
                sent = body if method in {"post", "put", "patch"} else None
                answers.append(await api.request(method.upper(), path, headers=other, json=sent))
            foreign, unknown = answers
            assert foreign.status_code == unknown.status_code, f"{method} {template}: {foreign.text} {unknown.text}"
            assert without(foreign, thread_id) == without(unknown, missing), f"{method} {template}"
            assert not foreign.is_success, f"{method} {template}"
            tried += 1
    assert tried > 15
    before = (await api.get(f"/v1/threads/{thread_id}/events", headers=acme)).json()["items"]
    assert {event["metadata"].get("principal") for event in before} <= {"test", None}
    assert before[-1]["type"] == "BudgetSet"


async def test_lists_sums_and_searches_are_those_of_an_empty_tenant(api: Api) -> None:
    acme, other, empty = [await key_of(api, tenant) for tenant in ("acme", "other", "empty")]
    thread_id, turn_id = await a_thread(api, acme)
    for path in LISTS:
        assert thread_id in (mine := (await api.get(path, headers=acme)).text) or "tokens" in mine or "items" in mine
        foreign = await api.get(path, headers=other)
        assert foreign.is_success, foreign.text
        for secret in (thread_id, turn_id, MARKER, "ann"):
            assert secret not in foreign.text, path
        if path != "/v1/feed":  # whose cursor has positions of the whole log
            assert without(foreign) == without(await api.get(path, headers=empty)), path


async def test_an_idempotency_key_is_the_tenants_own(api: Api) -> None:
    acme, other = await key_of(api, "acme"), await key_of(api, "other")
    threads = {(await a_thread(api, headers))[0] for headers in (acme, other)}
    assert len(threads) == 2
