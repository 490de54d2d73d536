"""What /schema says is as strict as the checks behind it. `make fuzz-api` tries that with thousands of requests."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.http import Api, running_api

THREAD = "e3e70682-c209-4cac-a29f-6fbed82c07cd"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api(database_url="memory://") as client:
        yield client


@pytest.fixture
async def schema(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = (await api.get("/schema/openapi.json")).json()
    return found


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def parts(value: object) -> Iterator[dict[str, Any]]:
    """Walk through a schema."""
    if isinstance(value, dict):
        yield value
    inside = [v for k, v in value.items() if k != "default"] if isinstance(value, dict) else value
    for inner in inside if isinstance(inside, list) else ():
        yield from parts(inner)


async def test_every_parameter_says_what_it_takes(schema: dict[str, Any]) -> None:
    vague = []
    for name, operation in operations(schema):
        for parameter in operation.get("parameters", ()):
            said = parameter["schema"]
            free = parameter["name"] == "User-Agent"  # what cannot be kept of it is left out
            if not free and said.get("type") == "string" and not {"pattern", "format", "enum"} & said.keys():
                vague.append(f"{name}: {parameter['name']}")
            if "null" in str(said.get("type")) or {"type": "null"} in said.get("oneOf", ()):
                vague.append(f"{name}: {parameter['name']} may be null, which no text is")
            if "pattern" in said:
                re.compile(said["pattern"])
    assert vague == []


async def test_every_operation_says_what_goes_wrong(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        assert {"400", "403", "500"} <= operation["responses"].keys(), name
        for status, response in operation["responses"].items():
            if status >= "400" and name != "GET /health/ready":
                assert list(response["content"]) == ["application/problem+json"], f"{name}: {status}"
        if "requestBody" in operation:
            assert {"413", "415"} <= operation["responses"].keys(), name
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ())):
            assert "422" in operation["responses"], name
        if any(parameter["name"] == "If-Match" for parameter in operation.get("parameters", ())):
            assert "412" in operation["responses"], name


async def test_bodies_take_their_fields_and_no_others(schema: dict[str, Any]) -> None:
    bodies = {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        for _, operation in operations(schema)
        if "requestBody" in operation
    }
    assert len(bodies) > 8
    for name in (*bodies, "LimitBody", "MessageEdit", "Output"):
        body = schema["components"]["schemas"][name]
        assert body["additionalProperties"] is False, name
        assert {} not in [part for field in body["properties"].values() for part in parts(field)], name
        for field, said in body["properties"].items():
            if "string" in str(said.get("type")):
                assert {"pattern", "format", "enum"} & said.keys(), f"{name}.{field}"


async def test_the_agents_that_there_are_are_named(api: Api, schema: dict[str, Any]) -> None:
    known = [graph["name"] for graph in (await api.get("/v1/graphs")).json()]
    assert schema["components"]["schemas"]["OpenThread"]["properties"]["graph"]["enum"] == known
    assert (await api.get("/schema")).json() == schema, "once made, it stays"


@pytest.mark.parametrize("value", ["null", "NULL", "Null"])
async def test_null_is_no_value_of_a_parameter(api: Api, value: str) -> None:
    """The framework takes it for "not given": a wrong `at_version` would silently mean now."""
    await api.opened(thread_id=THREAD)
    for path, field in (
        (f"/v1/threads/{THREAD}/state?at_version=", "at_version"),
        (f"/v1/threads/{THREAD}/events?at_time=", "at_time"),
        (f"/v1/threads/{THREAD}/stream?until_idle=true&after=", "after"),
        ("/v1/threads?active_since=", "active_since"),
        ("/v1/usage?bucket=", "bucket"),
        ("/v1/audit?by=", "by"),
        ("/v1/instant?at=2026-11-23T10:00:00Z&status=", "status"),
    ):
        answer = await api.get(path + value)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field), path
    for path in ("/v1/threads?title=", "/v1/audit?actor=", "/v1/usage?model="):
        assert (await api.get(path + value)).status_code == 200, path


@pytest.mark.parametrize("value", ["0", "0.5", "-1", "1700000000", "20261123"])
async def test_a_number_is_no_instant(api: Api, value: str) -> None:
    for path, field in (
        ("/v1/threads?active_since=", "active_since"),
        ("/v1/usage?to=", "to"),
        ("/v1/instant?at=", "at"),
    ):
        answer = await api.get(path + value)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field), path
