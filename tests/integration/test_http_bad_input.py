"""Bad input gets a 4xx problem that names the field, and changes nothing."""

import base64
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from api.http.cursors import encode_cursor
from api.services.history import HistoryCursor, pages_of
from api.services.read_models import Filters
from domain.ids import DEFAULT_TENANT, SLICES, Position, Slice, ThreadId
from tests.support.http import Api, running_api

UNKNOWN = str(UUID(int=99))
THREAD = UUID(int=98)
"""The thread that there is."""
INVOKE = ("POST", "/v1/agent/invoke")
OPEN = ("POST", "/v1/threads")
TURNS = ("POST", "/v1/threads/{thread}/turns")
VALUES = ("PATCH", "/v1/threads/{thread}/values")
BUDGET = ("PUT", "/v1/threads/{thread}/budget")
STATE = ("GET", "/v1/threads/{thread}/state")
MESSAGES = ("GET", "/v1/threads/{thread}/messages")
EVENTS = ("GET", "/v1/threads/{thread}/events")
DIFF = ("GET", "/v1/threads/{thread}/diff")
LIST = ("GET", "/v1/threads")
SUMMARY = ("GET", "/v1/threads/{thread}")
AUDIT = ("GET", "/v1/audit")
REBUILD = ("POST", "/v1/projections/rebuild")
EVENTUAL = {"consistency": "eventual"}
JSON = {"Content-Type": "application/json"}

LATE, EARLY = "2026-11-23T10:00:00+01:00", "2026-11-23T08:59:59Z"
INSTANTS = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-23T10:00:00", "then", 7)
NUMBERS = ("abc", "12", 2**63, -(2**63) - 1, 1.5, None)
FORGED = {"opened_at": INSTANTS, "last_event_at": INSTANTS, "tokens": NUMBERS, "cost": (*NUMBERS, INSTANTS[0])}

EVENTS_OF = pages_of("events", DEFAULT_TENANT, ThreadId(THREAD))
ASCENDING = encode_cursor(HistoryCursor("asc", 1), EVENTS_OF)
BEYOND = encode_cursor(HistoryCursor("asc", 1, 99), EVENTS_OF)


def nested(levels: int) -> str:
    return '{"values": {"a": ' + "[" * levels + "]" * levels + "}}"


def limited(**limit: Any) -> dict[str, Any]:
    return {"json": {"limits": [{"window": "day", **limit}]}}


def forged_place(sort: Any, value: object) -> str:
    return encode_cursor(
        [value, UNKNOWN, 0],
        (
            "threads",
            DEFAULT_TENANT,
            Filters(sort=sort),
        ),
    )


Case = tuple[tuple[str, str], dict[str, Any], int, str]

CASES: dict[str, Case] = {
    "no body": (INVOKE, {"content": b"", "headers": JSON}, 400, "body"),
    "body is no object": (INVOKE, {"json": []}, 400, "body"),
    "body is null": (INVOKE, {"content": b"null", "headers": JSON}, 400, "body"),
    "body is cut off": (INVOKE, {"content": b'{"user_input": "a', "headers": JSON}, 400, "body"),
    "body is not UTF-8": (INVOKE, {"content": b'{"user_input": "\xff"}', "headers": JSON}, 400, "body"),
    "body is two documents": (INVOKE, {"content": b'{"user_input": "a"} {}', "headers": JSON}, 400, "body"),
    "body is a form": (INVOKE, {"data": {"user_input": "a"}}, 415, "Content-Type"),
    "body is declared as text": (
        INVOKE,
        {"content": b'{"user_input": "a"}', "headers": {"Content-Type": "text/plain"}},
        415,
        "Content-Type",
    ),
    "body is oversized": (INVOKE, {"json": {"user_input": "a", "graph": "x" * 1_100_000}}, 413, "body"),
    "body is compressed": (
        INVOKE,
        {"content": b'{"user_input": "a"}', "headers": {**JSON, "Content-Encoding": "gzip"}},
        415,
        "Content-Encoding",
    ),
    "a field is given twice": (
        INVOKE,
        {"content": b'{"user_input": "a", "user_input": "b"}', "headers": JSON},
        400,
        "user_input",
    ),
    "a value is given twice": (OPEN, {"content": b'{"values": {"a": {"b": 1, "b": 2}}}', "headers": JSON}, 400, "b"),
    "called by another host's name": (
        INVOKE,
        {"json": {"user_input": "a"}, "headers": {"Host": "evil.test"}},
        400,
        "Host",
    ),
    "called by a page of another site": (
        INVOKE,
        {"json": {"user_input": "a"}, "headers": {"Origin": "https://evil.test"}},
        403,
        "Origin",
    ),
    "called by a page without origin": (
        INVOKE,
        {"json": {"user_input": "a"}, "headers": {"Origin": "null"}},
        403,
        "Origin",
    ),
    "input is missing": (INVOKE, {"json": {}}, 400, "user_input"),
    "input is null": (INVOKE, {"json": {"user_input": None}}, 400, "user_input"),
    "input is a number": (INVOKE, {"json": {"user_input": 5}}, 400, "user_input"),
    "input is a list": (INVOKE, {"json": {"user_input": ["a"]}}, 400, "user_input"),
    "input is empty": (INVOKE, {"json": {"user_input": ""}}, 400, "user_input"),
    "input is too long": (INVOKE, {"json": {"user_input": "a" * 200_001}}, 400, "user_input"),
    "input holds NUL": (INVOKE, {"json": {"user_input": "a\0"}}, 400, "user_input"),
    "input holds a lone surrogate": (
        INVOKE,
        {"content": b'{"user_input": "\\ud800"}', "headers": JSON},
        400,
        "user_input",
    ),
    "unknown field": (INVOKE, {"json": {"user_input": "a", "user_inputs": "b"}}, 400, "user_inputs"),
    "thread id is no UUID": (INVOKE, {"json": {"user_input": "a", "thread_id": "me"}}, 400, "thread_id"),
    "thread id is a number": (INVOKE, {"json": {"user_input": "a", "thread_id": 7}}, 400, "thread_id"),
    "graph is not the thread's": (
        INVOKE,
        {"json": {"user_input": "a", "thread_id": "{thread}", "graph": "other"}},
        409,
        "graph",
    ),
    "unknown graph": (INVOKE, {"json": {"user_input": "a", "graph": "nobody"}}, 422, "graph"),
    "graph is a number": (OPEN, {"json": {"graph": 1}}, 400, "graph"),
    "unknown graph to open": (OPEN, {"json": {"graph": "nobody"}}, 422, "graph"),
    "values are a list": (OPEN, {"json": {"values": [1]}}, 400, "values"),
    "values hold NUL": (OPEN, {"json": {"values": {"a": {"b": ["\0"]}}}}, 400, "values.a.b.0"),
    "a key holds NUL": (OPEN, {"json": {"values": {"\0": 1}}}, 400, "values"),
    "values hold a lone surrogate": (
        OPEN,
        {"content": b'{"values": {"a": "\\udfff"}}', "headers": JSON},
        400,
        "values.a",
    ),
    "values hold a huge integer": (
        OPEN,
        {"content": b'{"values": {"a": 1' + b"0" * 400 + b"}}", "headers": JSON},
        400,
        "values.a",
    ),
    "values hold an endless integer": (
        OPEN,
        {"content": b'{"values": {"a": 1' + b"0" * 5000 + b"}}", "headers": JSON},
        400,
        "values.a",
    ),
    "values hold a float beyond range": (
        OPEN,
        {"content": b'{"values": {"a": 1e400}}', "headers": JSON},
        400,
        "values.a",
    ),
    "values hold NaN": (OPEN, {"content": b'{"values": {"a": NaN}}', "headers": JSON}, 400, "values.a"),
    "values are nested too deep": (OPEN, {"content": nested(65), "headers": JSON}, 400, "values.a" + ".0" * 63),
    "values are nested very deep": (OPEN, {"content": nested(9_000), "headers": JSON}, 400, "body"),
    "a budget without limits": (BUDGET, {"json": {}}, 400, "limits"),
    "limits are a number": (BUDGET, {"json": {"limits": 5}}, 400, "limits"),
    "a limit is a number": (BUDGET, {"json": {"limits": [5]}}, 400, "limits.0"),
    "a limit of nothing": (BUDGET, {"json": {"limits": [{"window": "day"}]}}, 400, "limits.0"),
    "a limit for no window": (BUDGET, {"json": {"limits": [{"tokens": 5}]}}, 400, "limits.0.window"),
    "a limit for an unknown window": (BUDGET, limited(window="week", tokens=5), 400, "limits.0.window"),
    "a limit with another field": (BUDGET, limited(tokens=5, dollars=5), 400, "limits.0.dollars"),
    "two limits for a window": (
        BUDGET,
        {"json": {"limits": [{"window": "day", "tokens": 5}, {"window": "day", "cost_usd": 5}]}},
        400,
        "limits.1.window",
    ),
    "more limits than windows": (BUDGET, {"json": {"limits": [{"window": "day", "tokens": 5}] * 6}}, 400, "limits"),
    "warns from the beginning": (BUDGET, limited(tokens=5, warn_at=0), 400, "limits.0.warn_at"),
    "warns too late": (BUDGET, limited(tokens=5, warn_at=1.01), 400, "limits.0.warn_at"),
    "no tokens": (BUDGET, limited(tokens=0), 400, "limits.0.tokens"),
    "negative tokens": (BUDGET, limited(tokens=-5), 400, "limits.0.tokens"),
    "half a token": (BUDGET, limited(tokens=1.5), 400, "limits.0.tokens"),
    "tokens are a text": (BUDGET, limited(tokens="5"), 400, "limits.0.tokens"),
    "tokens are true": (BUDGET, limited(tokens=True), 400, "limits.0.tokens"),
    "too many tokens": (BUDGET, limited(tokens=10**15 + 1), 400, "limits.0.tokens"),
    "endless tokens": (
        BUDGET,
        {"content": b'{"limits": [{"window": "day", "tokens": 1' + b"0" * 5000 + b"}]}", "headers": JSON},
        400,
        "limits.0.tokens",
    ),
    "no money": (BUDGET, limited(cost_usd=0), 400, "limits.0.cost_usd"),
    "negative money": (BUDGET, limited(cost_usd=-0.5), 400, "limits.0.cost_usd"),
    "less money than can be counted": (BUDGET, limited(cost_usd=1e-13), 400, "limits.0.cost_usd"),
    "too much money": (BUDGET, limited(cost_usd=1_000_000.5), 400, "limits.0.cost_usd"),
    "money is a text": (BUDGET, limited(cost_usd="1.5"), 400, "limits.0.cost_usd"),
    "money is NaN": (
        BUDGET,
        {"content": b'{"limits": [{"window": "day", "cost_usd": NaN}]}', "headers": JSON},
        400,
        "limits.0.cost_usd",
    ),
    "money beyond range": (
        BUDGET,
        {"content": b'{"limits": [{"window": "day", "cost_usd": 1e400}]}', "headers": JSON},
        400,
        "limits.0.cost_usd",
    ),
    "a budget of an unknown thread": (
        ("PUT", f"/v1/threads/{UNKNOWN}/budget"),
        {"json": {"limits": []}},
        404,
        "thread_id",
    ),
    "a budget with a stale checkpoint": (
        BUDGET,
        {"json": {"limits": [], "checkpoint_ref": "1-00000000"}},
        412,
        "checkpoint_ref",
    ),
    "a budget with an unquoted If-Match": (
        BUDGET,
        {"json": {"limits": []}, "headers": {"If-Match": "1-00000000"}},
        400,
        "If-Match",
    ),
    "a used key with a budget": (
        BUDGET,
        {"json": {"limits": []}, "headers": {"Idempotency-Key": "used"}},
        422,
        "Idempotency-Key",
    ),
    "a budget at version 0": (
        ("GET", "/v1/threads/{thread}/budget"),
        {"params": {"at_version": 0}},
        400,
        "at_version",
    ),
    "a budget at an instant without zone": (
        ("GET", "/v1/threads/{thread}/budget"),
        {"params": {"at_time": "2026-11-23T10:00:00"}},
        400,
        "at_time",
    ),
    "opened otherwise before": (OPEN, {"json": {"thread_id": "{thread}", "values": {"b": 1}}}, 409, "thread_id"),
    "turn in an unknown thread": (
        ("POST", f"/v1/threads/{UNKNOWN}/turns"),
        {"json": {"user_input": "a"}},
        404,
        "thread_id",
    ),
    "turn in no thread": (("POST", "/v1/threads/me/turns"), {"json": {"user_input": "a"}}, 400, "thread_id"),
    "wait is no boolean": (TURNS, {"json": {"user_input": "a"}, "params": {"wait": "soon"}}, 400, "wait"),
    "unknown parameter": (TURNS, {"json": {"user_input": "a"}, "params": {"await": "true"}}, 400, "await"),
    "checkpoint_ref is stale": (
        TURNS,
        {"json": {"user_input": "a", "checkpoint_ref": "1-00000000"}},
        412,
        "checkpoint_ref",
    ),
    "checkpoint_ref is garbage": (TURNS, {"json": {"user_input": "a", "checkpoint_ref": "now"}}, 400, "checkpoint_ref"),
    "checkpoint_ref is a number": (TURNS, {"json": {"user_input": "a", "checkpoint_ref": 3}}, 400, "checkpoint_ref"),
    "checkpoint_ref of a thread that is not there": (
        INVOKE,
        {"json": {"user_input": "a", "thread_id": UNKNOWN, "checkpoint_ref": "1-00000000"}},
        412,
        "checkpoint_ref",
    ),
    "If-Match is stale": (
        TURNS,
        {"json": {"user_input": "a"}, "headers": {"If-Match": '"9-00000000"'}},
        412,
        "If-Match",
    ),
    "If-Match is any, and there is none": (
        INVOKE,
        {"json": {"user_input": "a", "thread_id": UNKNOWN}, "headers": {"If-Match": "*"}},
        412,
        "If-Match",
    ),
    "If-Match has no quotes": (
        TURNS,
        {"json": {"user_input": "a"}, "headers": {"If-Match": "1-00000000"}},
        400,
        "If-Match",
    ),
    "If-Match contradicts checkpoint_ref": (
        TURNS,
        {"json": {"user_input": "a", "checkpoint_ref": "1-00000000"}, "headers": {"If-Match": '"2-00000000"'}},
        400,
        "checkpoint_ref",
    ),
    "Idempotency-Key with blanks": (
        TURNS,
        {"json": {"user_input": "a"}, "headers": {"Idempotency-Key": "a b"}},
        400,
        "Idempotency-Key",
    ),
    "Idempotency-Key too long": (
        TURNS,
        {"json": {"user_input": "a"}, "headers": {"Idempotency-Key": "k" * 256}},
        400,
        "Idempotency-Key",
    ),
    "Idempotency-Key with another body": (
        VALUES,
        {"json": {"values": {"z": 2}}, "headers": {"Idempotency-Key": "used"}},
        422,
        "Idempotency-Key",
    ),
    "X-Correlation-ID with a line break's like": (
        TURNS,
        {"json": {"user_input": "a"}, "headers": {"X-Correlation-ID": "a b"}},
        400,
        "X-Correlation-ID",
    ),
    "X-Actor with a space": (
        TURNS,
        {"json": {"user_input": "a"}, "headers": {"X-Actor": "Ada Lovelace"}},
        400,
        "X-Actor",
    ),
    "X-Actor of a reader is too long": (STATE, {"headers": {"X-Actor": "a" * 256}}, 400, "X-Actor"),
    "values to change are text": (VALUES, {"json": {"values": "x"}}, 400, "values"),
    "values to change in an unknown thread": (
        ("PATCH", f"/v1/threads/{UNKNOWN}/values"),
        {"json": {"values": {"a": 1}}},
        404,
        "thread_id",
    ),
    "state of an unknown thread": (("GET", f"/v1/threads/{UNKNOWN}/state"), {}, 404, "thread_id"),
    "summary of an unknown thread": (("GET", f"/v1/threads/{UNKNOWN}"), {}, 404, "thread_id"),
    "messages of an unknown thread": (("GET", f"/v1/threads/{UNKNOWN}/messages"), {}, 404, "thread_id"),
    "at_version is beyond the end": (STATE, {"params": {"at_version": 3}}, 400, "at_version"),
    "at_version is beyond any": (STATE, {"params": {"at_version": 10**30}}, 400, "at_version"),
    "at_version is zero": (STATE, {"params": {"at_version": 0}}, 400, "at_version"),
    "at_version is negative": (STATE, {"params": {"at_version": -1}}, 400, "at_version"),
    "at_version is no number": (STATE, {"params": {"at_version": "last"}}, 400, "at_version"),
    "at_time is before the beginning": (STATE, {"params": {"at_time": "2001-01-01T00:00:00Z"}}, 400, "at_time"),
    "at_time has no zone": (STATE, {"params": {"at_time": "2026-01-01T00:00:00"}}, 400, "at_time"),
    "at_time is no time": (STATE, {"params": {"at_time": "yesterday"}}, 400, "at_time"),
    "at_time is after the last year of UTC": (
        STATE,
        {"params": {"at_time": "9999-12-31T23:59:59-23:59"}},
        400,
        "at_time",
    ),
    "at_time is before the first year of UTC": (
        STATE,
        {"params": {"at_time": "0001-01-01T00:00:00+14:00"}},
        400,
        "at_time",
    ),
    "at_time is the first instant": (STATE, {"params": {"at_time": "0001-01-01T00:00:00Z"}}, 400, "at_time"),
    "at_time is the year zero": (STATE, {"params": {"at_time": "0000-01-01T00:00:00Z"}}, 400, "at_time"),
    "at_time and at_version": (
        STATE,
        {"params": {"at_time": "2026-01-01T00:00:00Z", "at_version": 1}},
        400,
        "at_time",
    ),
    "limit is given twice": (EVENTS, {"params": [("limit", 1), ("limit", 2)]}, 400, "limit"),
    "a parameter is a header's": (TURNS, {"json": {"user_input": "a"}, "params": {"if_match": "1"}}, 400, "if_match"),
    "schema that is not there": (("GET", "/schema/swagger"), {}, 404, "path"),
    "at_version misspelt": (STATE, {"params": {"at_verson": 1}}, 400, "at_verson"),
    "limit is zero": (MESSAGES, {"params": {"limit": 0}}, 400, "limit"),
    "limit is too large": (EVENTS, {"params": {"limit": 1_001}}, 400, "limit"),
    "messages beyond the end": (MESSAGES, {"params": {"at_version": 99}}, 400, "at_version"),
    "messages at version zero": (MESSAGES, {"params": {"at_version": 0}}, 400, "at_version"),
    "events before the beginning": (EVENTS, {"params": {"at_time": "2001-01-01T00:00:00Z"}}, 400, "at_time"),
    "events at a time without a zone": (EVENTS, {"params": {"at_time": "2026-01-01T00:00:00"}}, 400, "at_time"),
    "events at a time and a version": (
        EVENTS,
        {"params": {"at_time": "2026-01-01T00:00:00Z", "at_version": 1}},
        400,
        "at_time",
    ),
    "events of an unknown thread": (("GET", f"/v1/threads/{UNKNOWN}/events"), {}, 404, "thread_id"),
    "messages of an unknown thread at a version": (
        ("GET", f"/v1/threads/{UNKNOWN}/messages"),
        {"params": {"at_version": 1}},
        404,
        "thread_id",
    ),
    "order is unknown": (MESSAGES, {"params": {"order": "random"}}, 400, "order"),
    "cursor of the other order": (EVENTS, {"params": {"order": "desc", "cursor": ASCENDING}}, 400, "cursor"),
    "cursor of a list without an end": (EVENTS, {"params": {"at_version": 1, "cursor": ASCENDING}}, 400, "cursor"),
    "cursor of another end": (EVENTS, {"params": {"at_version": 1, "cursor": BEYOND}}, 400, "cursor"),
    "diff from nowhere": (DIFF, {}, 400, "from"),
    "diff from beyond the end": (DIFF, {"params": {"from": 99}}, 400, "from"),
    "diff from before zero": (DIFF, {"params": {"from": -1}}, 400, "from"),
    "diff to beyond the end": (DIFF, {"params": {"from": 0, "to": 99}}, 400, "to"),
    "diff to zero": (DIFF, {"params": {"from": 0, "to": 0}}, 400, "to"),
    "diff from after to": (DIFF, {"params": {"from": 1, "to_time": "2001-01-01T00:00:00Z"}}, 400, "to_time"),
    "diff from a word": (DIFF, {"params": {"from": "then"}}, 400, "from"),
    "diff from a time without a zone": (DIFF, {"params": {"from_time": "2026-01-01T00:00:00"}}, 400, "from_time"),
    "diff from a version and a time": (
        DIFF,
        {"params": {"from": 1, "from_time": "2026-01-01T00:00:00Z"}},
        400,
        "from_time",
    ),
    "diff to a version and a time": (
        DIFF,
        {"params": {"from": 0, "to": 1, "to_time": "2026-01-01T00:00:00Z"}},
        400,
        "to_time",
    ),
    "diff by a parameter's inner name": (DIFF, {"params": {"since": 1}}, 400, "since"),
    "diff with another list's cursor": (DIFF, {"params": {"from": 0, "cursor": BEYOND}}, 400, "cursor"),
    "diff of an unknown thread": (("GET", f"/v1/threads/{UNKNOWN}/diff"), {"params": {"from": 0}}, 404, "thread_id"),
    "cursor is garbage": (EVENTS, {"params": {"cursor": "***"}}, 400, "cursor"),
    "cursor is of another list": (LIST, {"params": {"cursor": "MTI"}}, 400, "cursor"),
    "cursor is negative": (EVENTS, {"params": {"cursor": "LTE"}}, 400, "cursor"),
    "cursor is beyond any version": (EVENTS, {"params": {"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTk"}}, 400, "cursor"),
    "least version of a summary is negative": (
        SUMMARY,
        {"params": {**EVENTUAL, "min_version": -1}},
        400,
        "min_version",
    ),
    "least version of a summary is too large": (
        SUMMARY,
        {"params": {**EVENTUAL, "min_version": 2**31}},
        400,
        "min_version",
    ),
    "throttle is too large": (REBUILD, {"json": {"projections": ["usage"], "throttle": 2**31}}, 400, "throttle"),
    "throttle is zero": (REBUILD, {"json": {"projections": ["usage"], "throttle": 0}}, 400, "throttle"),
    **{
        f"range of {path} is reversed": (("GET", path), {"params": {"from": LATE, "to": EARLY}}, 400, "to")
        for path in ("/v1/usage", "/v1/analytics/nodes", "/v1/audit", "/v1/audit/reads")
    },
    "activity is to end before it begins": (
        LIST,
        {"params": {"active_since": LATE, "active_before": EARLY}},
        400,
        "active_before",
    ),
    "cursor is nested very deep": (
        LIST,
        {"params": {"cursor": base64.urlsafe_b64encode(b'{"x":' + b"[" * 9_000).decode()}},
        400,
        "cursor",
    ),
    **{
        f"cursor of threads with {value!r} in the order of {sort}": (
            LIST,
            {"params": {"sort": sort, "cursor": forged_place(sort, value)}},
            400,
            "cursor",
        )
        for sort, values in FORGED.items()
        for value in values
    },
    **{
        f"cursor of the audit with {forged!r}": (
            AUDIT,
            {
                "params": {
                    "cursor": encode_cursor([forged[0], UNKNOWN, UNKNOWN, forged[1]], ("audit", DEFAULT_TENANT, ()))
                }
            },
            400,
            "cursor",
        )
        for forged in (*((instant, "caller") for instant in INSTANTS), ("2026-11-23T10:00:00Z", "a\0"))
    },
    "graph that is not there": (("GET", "/v1/graphs/nobody"), {}, 404, "path"),
    "path that is not there": (("GET", "/v1/nothing"), {}, 404, "path"),
    "method that is not there": (("DELETE", "/v1/threads"), {}, 405, "method"),
}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=database_url, agents=("tests.support.http:OTHER",)) as api:
        yield api


async def count_events(api: Api) -> int:
    store = api.service.runtime.repository.store
    return sum([len(await store.read_slice(Slice(n), Position(0), 1_000)) for n in range(SLICES)])


async def test_bad_input_gets_a_problem_that_names_the_field_and_changes_nothing(api: Api) -> None:
    thread = await api.opened(thread_id=str(THREAD), values={"a": 1})
    key = {"Idempotency-Key": "used"}
    assert (await api.patch(f"/v1/threads/{thread}/values", json={"values": {"z": 1}}, headers=key)).is_success
    before = await count_events(api)
    wrong = []
    for name, ((method, path), request, status, field) in CASES.items():
        if isinstance(request.get("json"), dict) and request["json"].get("thread_id") == "{thread}":
            request = {**request, "json": {**request["json"], "thread_id": thread}}  # noqa: PLW2901
        response = await api.request(method, path.format(thread=thread), **request)
        if not is_problem(response.status_code, response.headers, response, status, field):
            wrong.append(f"{name}: {response.status_code} {response.text[:300]}, expected {status} {field}")
    assert not wrong, "\n".join(wrong)
    assert await count_events(api) == before == 2


async def test_no_parameter_of_any_path_may_hold_nul(api: Api) -> None:
    tried = []
    for template, operations in api.schema["paths"].items():
        for method, operation in operations.items():
            names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            tried += [(method, re.sub(r"\{\w+\}", UNKNOWN, template), name) for name in names]
    assert {name for _, _, name in tried} >= {"search", "title", "graph", "tool", "reason", "actor", "correlation"}
    for method, path, name in tried:
        refused = await api.request(method, path, params={name: "a\0b"})
        assert is_problem(refused.status_code, refused.headers, refused, 400, name), f"{path} {name}: {refused.text}"


async def test_of_many_wrong_fields_the_first_are_listed_and_the_rest_is_counted(api: Api) -> None:
    response = await api.post("/v1/threads", json={f"field_{n}": n for n in range(100)})
    problem = response.json()
    assert response.status_code == 400
    assert len(problem["errors"]) == 21
    assert problem["errors"][-1]["message"] == "… and 80 more"
    assert problem["detail"].endswith("; … and 97 more")


async def test_a_problem_says_what_helps(api: Api) -> None:
    body = {"user_input": "a", "thread_id": UNKNOWN}
    nothing = await api.post("/v1/agent/invoke", json={**body, "checkpoint_ref": "1-00000000"})
    assert "There is no such thread yet" in nothing.json()["detail"]
    large = await api.post("/v1/agent/invoke", json={"user_input": "a" * 1_100_000})
    assert "1,000,000 bytes" in large.json()["detail"]
    nowhere = await api.get("/v1/nothing")
    assert nowhere.json()["detail"] == "There is no path /v1/nothing. /schema lists all paths."
    other = (await api.post(f"/v1/threads/{UNKNOWN}/messages", json={})).json()
    takes = "does not take POST; it takes GET, OPTIONS. /schema lists all paths."
    assert other["detail"] == other["errors"][0]["message"] == f"/v1/threads/{UNKNOWN}/messages {takes}"
    misplaced = await api.post(f"/v1/threads/{UNKNOWN}/turns", json={"user_input": "a", "wait": True})
    assert "wait: is not a field of the body but a parameter of the query: ?wait=..." in misplaced.json()["detail"]
    digits = b'{"values": {"a": 1' + b"0" * 5000 + b"}}"
    endless = await api.post("/v1/threads", content=digits, headers=JSON)
    assert "integers must be between" in endless.json()["detail"]


async def test_a_path_tells_its_methods(api: Api) -> None:
    refused, told = await api.delete("/v1/threads"), await api.options("/v1/threads")
    for response in (refused, told):
        assert set(response.headers["allow"].split(", ")) == {"GET", "OPTIONS", "POST"}
    one = await api.options(f"/v1/threads/{UNKNOWN}/turns")
    assert (one.status_code, one.headers["allow"]) == (204, "GET, OPTIONS, POST")


def is_problem(got: int, headers: Any, response: Any, status: int, field: str) -> bool:
    if got != status or headers["content-type"] != "application/problem+json":
        return False
    document = response.json()
    fields = [error["field"] for error in document.get("errors", [])]
    complete = document["status"] == status and document["type"] and document["title"] and document["detail"]
    return bool(complete) and (field in fields or not field)


def test_the_table_has_at_least_forty_cases() -> None:
    assert len(CASES) >= 40
