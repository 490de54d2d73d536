"""Who may call which route: the table of docs/security.md, walked with every kind of key."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from litestar import get

from api.app import create_app
from api.http.authentication import UndeclaredScope, check_scopes
from api.http.caller import Caller
from api.routes import ROUTES
from api.schemas.identity import CreateKey
from api.schemas.requests import Body
from domain.identity.api_keys import ENTROPY_BYTES, new_token
from domain.identity.principal import Principal
from domain.identity.scopes import SCOPES
from domain.ids import Tenant
from infrastructure.settings import BadSetting, Settings
from tests.support.http import Api, running_api

ANY = "any key"
PUBLIC = "public"

TABLE = {
    "GET /health/live": PUBLIC,
    "GET /health/ready": PUBLIC,
    "GET /metrics": "operate",
    "GET /v1/me": ANY,
    "GET /v1/audit": "audit:read",
    "GET /v1/audit/reads": "audit:read",
    "GET /v1/seals": "operate",
    "GET /v1/seals/{number}": "operate",
    "GET /v1/threads/{thread_id}/events/{version}/proof": "audit:read",
    "POST /v1/threads/{thread_id}/verify": "audit:read",
    "POST /v1/verify": "operate",
    "GET /v1/workers": "operate",
    "GET /v1/projections": "operate",
    "GET /v1/projections/parked": "operate",
    "POST /v1/projections/rebuild": "operate",
    "POST /v1/projections/{name}/drop": "operate",
    "POST /v1/projections/{name}/parked/{thread_id}/{decision}": "operate",
    "POST /v1/projections/{name}/rollback": "operate",
    "GET /v1/tenants": "operate",
    "POST /v1/tenants": "operate",
    "POST /v1/tenants/{tenant}/resume": "operate",
    "POST /v1/tenants/{tenant}/suspend": "operate",
    "GET /v1/keys": "admin",
    "POST /v1/keys": "admin",
    "POST /v1/keys/{key_id}/revoke": "admin",
    "POST /v1/keys/{key_id}/rotate": "admin",
    "PUT /v1/limits": "limits:write",
    "PUT /v1/threads/{thread_id}/budget": "limits:write",
    "POST /v1/threads/{thread_id}/approvals/{approval_id}": "approvals:decide",
    "PATCH /v1/threads/{thread_id}/values": "threads:write",
    "POST /v1/agent/invoke": "threads:write",
    "POST /v1/replays": "threads:write",
    "POST /v1/threads": "threads:write",
    "POST /v1/threads/{thread_id}/fork": "threads:write",
    "POST /v1/threads/{thread_id}/turns": "threads:write",
    "POST /v1/threads/{thread_id}/turns/{turn_id}/cancel": "threads:write",
    "POST /v1/threads/{thread_id}/turns/{turn_id}/retry": "threads:write",
}
"""What each route takes. The routes that are not listed read threads."""

IDS = {"number": "1", "version": "1", "approval_id": "1", "name": "threads", "decision": "retry", "tenant": "acme"}

Json = dict[str, Any]

OPERATOR = Principal(Tenant(""), "ada", SCOPES)
"""The command line: it needs no key."""


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api(database_url="memory://", auth="required") as client:
        yield client


def bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def a_key(api: Api, *scopes: str, tenant: str = "default", **more: object) -> str:
    asked = CreateKey.model_validate({"name": "test", "scopes": scopes or ["threads:read"], "tenant": tenant, **more})
    made = await api.service.identity.create_key(asked, OPERATOR, Caller())
    await api.authenticator.poll()
    return made.token


def operations(api: Api) -> list[tuple[str, str, str]]:
    """List each operation of /schema: its line in the table, its method, and a path."""
    found = []
    for template, methods in api.schema["paths"].items():
        path = re.sub(r"\{(\w+)\}", lambda name: IDS.get(name[1], str(uuid4())), template)
        found += [(f"{method.upper()} {template}", method.upper(), path) for method in methods]
    return found


async def statuses(api: Api, headers: Mapping[str, str]) -> dict[str, int]:
    """Call every operation with these headers, without a body, and return its status."""
    found = {}
    for line, method, path in operations(api):
        found[line] = (await api.request(method, path, headers=headers)).status_code
    return found


def test_the_table_has_no_route_that_is_gone(api: Api) -> None:
    assert TABLE.keys() <= {line for line, _, _ in operations(api)}


async def invalid_keys(api: Api) -> AsyncIterator[tuple[str, Mapping[str, str]]]:
    """Yield headers with every kind of key that is not valid."""
    token = await a_key(api, *SCOPES)
    yield "none", {}
    yield "malformed", bearer("sk-1234")
    yield "altered", bearer(token[:30] + ("a" if token[30] != "a" else "b") + token[31:])
    yield "cut", bearer(token[:-1])
    yield "unknown", bearer(new_token(bytes(ENTROPY_BYTES)))
    yield "two", {**bearer(token), "x-api-key": await a_key(api, *SCOPES)}
    yield "basic", {"Authorization": "Basic YWRhOnNlY3JldA=="}
    soon = datetime.now(UTC) + timedelta(milliseconds=100)
    expired = await a_key(api, *SCOPES, expires_at=soon)
    await asyncio.sleep(0.15)
    yield "expired", bearer(expired)
    await api.service.identity.create_tenant("acme", OPERATOR, Caller())
    foreign = await a_key(api, *SCOPES, tenant="acme")
    for one in (token, foreign):
        assert (await api.get("/v1/me", headers=bearer(one))).is_success
    await api.service.identity.revoke_key(token.split("_")[2], OPERATOR, Caller())
    await api.service.identity.suspend_tenant("acme", OPERATOR, Caller())
    await api.authenticator.poll()
    yield "revoked", bearer(token)
    yield "suspended", bearer(foreign)


async def test_without_a_valid_key_only_health_is_shown(api: Api) -> None:
    public = {line for line, scope in TABLE.items() if scope == PUBLIC}
    async for kind, headers in invalid_keys(api):
        answers = await statuses(api, headers)
        assert {line for line, status in answers.items() if status != 401} == public, kind


async def test_each_scope_opens_its_own_routes_only(api: Api) -> None:
    for scope in SCOPES:
        answers = await statuses(api, {"x-api-key": await a_key(api, scope)})
        opened = {line for line, status in answers.items() if status not in {401, 403}}
        wanted = {line for line in answers if TABLE.get(line, "threads:read") in {scope, ANY, PUBLIC}}
        assert opened == wanted, scope


async def test_a_refusal_says_what_is_missing(api: Api) -> None:
    refused = await api.get("/v1/threads")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert "threadfold keys create" in refused.json()["detail"]
    refused = await api.post("/v1/threads", json={}, headers=bearer(await a_key(api, "threads:read")))
    assert refused.status_code == 403
    assert "threads:write" in refused.json()["detail"]


async def test_me_shows_what_the_key_is(api: Api) -> None:
    me = (await api.get("/v1/me", headers=bearer(await a_key(api, "admin", principal="shop")))).json()
    assert (me["tenant"], me["principal"], me["scopes"]) == ("default", "shop", ["admin"])
    assert me["authentication"] == "required"


async def test_only_with_its_scope_a_key_names_the_person_that_it_acts_for(api: Api) -> None:
    plain = await a_key(api, "threads:write", principal="shop")
    proxy = await a_key(api, "threads:write", "threads:read", "audit:read", "actor:impersonate", principal="proxy")
    refused = await api.post("/v1/threads", json={}, headers={**bearer(plain), "X-Actor": "ann"})
    assert refused.status_code == 403
    assert refused.json()["errors"][0]["field"] == "X-Actor"
    for headers in (bearer(plain), {**bearer(proxy), "X-Actor": "ann"}):
        assert (await api.post("/v1/threads", json={}, headers=headers)).is_success
    audit = (await api.get("/v1/audit?consistency=strong", headers=bearer(proxy))).json()["items"]
    assert {(one["principal"], one["actor"]) for one in audit} == {("shop", "shop"), ("proxy", "ann")}
    await api.get("/v1/threads", headers={**bearer(proxy), "X-Actor": "ann"})
    (read,) = (await api.get("/v1/audit/reads?what=list", headers=bearer(proxy))).json()["items"]
    assert (read["principal"], read["actor"]) == ("proxy", "ann")


async def test_an_open_server_closes_with_its_first_key() -> None:
    async with running_api(database_url="memory://") as api:
        assert (await api.get("/v1/me")).json()["authentication"] == "open"
        made = await api.post("/v1/keys", json={"name": "first", "scopes": ["admin", "threads:read"]})
        assert made.status_code == 201
        await api.authenticator.poll()
        assert (await api.get("/v1/threads")).status_code == 401
        key = made.json()
        mine = bearer(key["token"])
        assert (await api.get("/v1/threads", headers=mine)).is_success
        revoked = await api.post(f"/v1/keys/{key['key']['id']}/revoke", headers=mine)
        assert revoked.json()["status"] == "revoked"
        await api.authenticator.poll()
        assert (await api.get("/v1/threads", headers=mine)).status_code == 401
        assert (await api.get("/v1/threads")).status_code == 401, "without a valid key it stays closed"


async def test_an_admin_gives_no_scope_over_the_instance(api: Api) -> None:
    await api.service.identity.create_tenant("acme", OPERATOR, Caller())
    admin = bearer(await a_key(api, "admin"))
    foreign = (await a_key(api, "threads:read", tenant="acme")).split("_")[2]
    mighty = (await a_key(api, "operate")).split("_")[2]
    for body in ({"scopes": ["operate"]}, {"scopes": ["threads:read"], "tenant": "acme"}):
        assert (await api.post("/v1/keys", json={"name": "x", **body}, headers=admin)).status_code == 403
    assert (await api.get("/v1/keys?tenant=acme", headers=admin)).status_code == 403
    for key_id in (foreign, mighty, "unknown"):
        for answer in (
            await api.post(f"/v1/keys/{key_id}/revoke", headers=admin),
            await api.post(f"/v1/keys/{key_id}/rotate", json={}, headers=admin),
        ):
            assert answer.status_code == 404
            assert answer.json()["detail"] == f"There is no API key {key_id!r}."
    listed = (await api.get("/v1/keys?limit=1", headers=admin)).json()
    more = (await api.get("/v1/keys", params={"cursor": listed["next_cursor"]}, headers=admin)).json()
    assert all(key["tenant"] == "default" for key in [*listed["items"], *more["items"]])


async def test_a_rotated_key_and_its_successor_are_both_valid_for_the_overlap(api: Api) -> None:
    admin, old = bearer(await a_key(api, "admin")), await a_key(api, "threads:read", "audit:read")
    key_id = old.split("_")[2]
    answer = await api.post(f"/v1/keys/{key_id}/rotate", json={"overlap_seconds": 1_000}, headers=admin)
    made = answer.json()
    assert (made["key"]["replaces"], made["key"]["scopes"]) == (key_id, ["threads:read", "audit:read"])
    for token in (old, made["token"]):
        assert (await api.get("/v1/threads", headers=bearer(token))).is_success
    await api.post(f"/v1/keys/{made['key']['id']}/rotate", json={"overlap_seconds": 0}, headers=admin)
    await api.authenticator.poll()
    assert (await api.get("/v1/threads", headers=bearer(made["token"]))).status_code == 401


BAD_KEYS: list[tuple[Json, str]] = [
    ({}, "name"),
    ({"name": "", "scopes": ["admin"]}, "name"),
    ({"name": "x" * 101, "scopes": ["admin"]}, "name"),
    ({"name": "a\0b", "scopes": ["admin"]}, "name"),
    ({"name": "x", "scopes": []}, "scopes"),
    ({"name": "x", "scopes": ["everything"]}, "scopes"),
    ({"name": "x", "scopes": ["admin"] * 9}, "scopes"),
    ({"name": "x", "scopes": "admin"}, "scopes"),
    ({"name": "x", "scopes": ["admin"], "tenant": "A B"}, "tenant"),
    ({"name": "x", "scopes": ["admin"], "tenant": "nowhere"}, "tenant"),
    ({"name": "x", "scopes": ["admin"], "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ({"name": "x", "scopes": ["admin"], "expires_at": "9999-01-01T00:00:00Z"}, "expires_at"),
    ({"name": "x", "scopes": ["admin"], "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
    ({"name": "x", "scopes": ["admin"], "principal": ""}, "principal"),
    ({"name": "x", "scopes": ["admin"], "secret": "mine"}, "secret"),
]


async def test_a_key_that_cannot_be_is_refused_by_its_field(api: Api) -> None:
    headers = bearer(await a_key(api, "admin", "operate"))
    for body, field in BAD_KEYS:
        answer = await api.post("/v1/keys", json=body, headers=headers)
        assert answer.status_code in {400, 404}, answer.text
        assert answer.json()["errors"][0]["field"].startswith(field), (body, answer.text)
    assert len((await api.get("/v1/keys", headers=headers)).json()["items"]) == 1


ODD_TOKENS = ("", "x", "x" * 60_000, "tf_live_", "tf_live_" + "a" * 50, "a.b.c", "\xff\xfe", "tf_live_\t_x_y", "null")


async def test_odd_tokens_are_refused(api: Api) -> None:
    for token in ODD_TOKENS:
        for header, value in (("Authorization", f"Bearer {token}".rstrip()), ("x-api-key", token)):
            answer = await api.get("/v1/threads", headers=[(header.encode(), value.encode("latin-1"))])
            assert answer.status_code in {400, 401, 431}, value
            if answer.status_code == 401:
                assert answer.json()["status"] == 401


async def test_streams_and_waiting_requests_end_when_their_key_is_revoked(api: Api) -> None:
    token = await a_key(api, "threads:read", "threads:write")
    thread_id = (await api.post("/v1/threads", json={}, headers=bearer(token))).json()["thread_id"]
    feed = {"wait": "30", "types": "TurnStarted"}
    waiting = asyncio.create_task(api.get("/v1/feed", params=feed, headers=bearer(token)))
    async with api.stream("GET", f"/v1/threads/{thread_id}/stream", headers=bearer(token)) as stream:
        parts = stream.aiter_text()
        assert "connected" in await anext(parts)
        await api.service.identity.revoke_key(token.split("_")[2], OPERATOR, Caller())
        async with asyncio.timeout(30):  # the poll ends it: in 0.3 s where the machine is not busy
            assert "".join([part async for part in parts]) == ""
    assert (await waiting).status_code == 401


async def test_a_server_for_other_machines_needs_keys() -> None:
    exposed = create_app(Settings(_env_file=None, database_url="memory://", host="0.0.0.0"))  # type: ignore[call-arg]
    with pytest.raises(ExceptionGroup) as refusal:
        async with exposed.lifespan():
            pass
    (error,) = refusal.value.exceptions
    assert isinstance(error, BadSetting)
    assert "threadfold keys create NAME" in str(error)
    async with running_api(database_url="memory://", host="0.0.0.0", auth="none") as api:
        assert (await api.get("/v1/me")).json()["authentication"] == "open"


async def test_a_route_without_a_scope_stops_the_start() -> None:
    @get("/v1/secrets")
    async def secrets() -> str:
        return ""

    with pytest.raises(UndeclaredScope, match="secrets"):
        check_scopes([secrets])


async def test_the_schema_says_what_each_route_takes(api: Api) -> None:
    schema = (await api.get("/schema/openapi.json")).json()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            scope = TABLE.get(f"{method.upper()} {path}", "threads:read")
            roles = [] if scope == ANY else [scope]
            expected = [] if scope == PUBLIC else [{"bearer": roles}, {"x-api-key": roles}]
            assert operation["security"] == expected, f"{method} {path}"


async def test_httpx_and_other_clients_may_send_either_header(api: Api) -> None:
    token = await a_key(api)
    for headers in ({"x-api-key": token}, {"authorization": f"bearer  {token}"}, {**bearer(token), "x-api-key": token}):
        answer: httpx.Response = await api.get("/v1/threads", headers=headers)
        assert answer.is_success


def test_no_field_of_a_body_is_called_like_a_dependency() -> None:
    """The framework would answer 500 to an invalid one."""
    app = create_app(Settings(_env_file=None))  # type: ignore[call-arg]
    dependencies = {name for handler in ROUTES for name in handler.resolve_dependencies()} | app.dependencies.keys()
    assert {"service", "verified"} <= dependencies
    assert not {name for body in Body.__subclasses__() for name in body.model_fields} & dependencies


async def test_a_key_and_a_tenant_have_their_rates() -> None:
    limits = {"key_requests_per_second": 0.001, "tenant_requests_per_second": 0.0015}  # bursts of one
    async with running_api(database_url="memory://", auth="required", **limits) as api:
        await api.service.identity.create_tenant("acme", OPERATOR, Caller())
        one, two, foreign = [await a_key(api), await a_key(api), await a_key(api, tenant="acme")]
        first = await api.get("/v1/threads", headers=bearer(one))
        assert first.status_code == 200
        assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("1", "0")
        for token in (one, two):  # the second key has a rate of its own, but the tenant has spent its own
            refused = await api.get("/v1/threads", headers=bearer(token))
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) > 500
            assert refused.json()["type"] == "urn:threadfold:too-many-requests"
        assert (await api.get("/v1/threads", headers=bearer(foreign))).status_code == 200
        assert (await api.get("/health/live")).status_code == 200


async def test_a_tenant_has_so_many_streams() -> None:
    async with running_api(database_url="memory://", auth="required", tenant_streams=2) as api:
        await api.service.identity.create_tenant("acme", OPERATOR, Caller())
        mine, foreign = (
            bearer(await a_key(api, "threads:read", "threads:write")),
            bearer(await a_key(api, tenant="acme")),
        )
        thread_id = (await api.post("/v1/threads", json={}, headers=mine)).json()["thread_id"]
        path, feed = f"/v1/threads/{thread_id}/stream", "/v1/feed"
        async with api.stream("GET", path, headers=mine) as one, api.stream("GET", path, headers=mine) as two:
            assert [one.status_code, two.status_code] == [200, 200]
            refused = await api.get(path, headers=mine)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
            assert (await api.get(feed, headers=mine)).status_code == 429
            assert (await api.get(feed, headers=foreign)).status_code == 200
        async with asyncio.timeout(60):
            while (await api.get(feed, headers=mine)).status_code == 429:
                await asyncio.sleep(0.05)
