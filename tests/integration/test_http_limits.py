"""Limits of tenants over HTTP: what may be spent, what was, and who said so."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.ids import DEFAULT_TENANT, ThreadId
from domain.ports.ledger import Amount, Granted, Reservation
from tests.support.http import Api, running_api

PRICES = Path(__file__).parents[1] / "support/prices.json"
MODEL = "threadfold-offline"
Json = dict[str, Any]
MUCH = 10**9


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url, prices=PRICES, agents=("tests.support.http:OTHER",)) as client:
        yield client


async def limited(api: Api, *limits: Json, actor: str = "ada", **scope: str) -> Json:
    answer = await api.put("/v1/limits", json={**scope, "limits": limits}, headers={"X-Actor": actor})
    assert answer.status_code == 200, answer.text
    shown = (await api.get("/v1/limits")).json()
    assert {**answer.json(), "at": None} == {**shown, "at": None}
    return dict(shown)


async def usage(api: Api) -> tuple[int, float]:
    """Say what the log knows to be spent."""
    (found,) = (await api.get("/v1/usage", params={"consistency": "strong"})).json()["items"]
    return found["prompt_tokens"] + found["completion_tokens"], found["cost_usd"]


async def reserved(api: Api, tokens: int) -> UUID:
    call = Reservation(
        uuid4(), DEFAULT_TENANT, ThreadId(uuid4()), "assistant", MODEL, Amount(tokens), datetime.now(UTC)
    )
    assert isinstance(await api.service.runtime.reservations.reserve(call), Granted)
    return call.id


async def test_at_first_nothing_is_limited(api: Api) -> None:
    assert (await api.get("/v1/limits")).json()["scopes"] == []
    assert (await api.get("/v1/limits/history")).json() == []
    assert (await limited(api))["scopes"] == []


async def test_what_was_spent_before_counts_in_tokens_and_money(api: Api) -> None:
    await api.turn(await api.opened(), "What is 12 * 3.5?")
    tokens, cost = await usage(api)
    (scope,) = (await limited(api, {"window": "day", "cost_usd": 5}, {"window": "lifetime", "tokens": MUCH}))["scopes"]
    assert (scope["agent"], scope["model"], scope["actor"]) == (None, None, "ada")
    day, lifetime = scope["limits"]
    assert (day["window"], day["tokens"], day["cost_usd"], day["warn_at"]) == ("day", None, 5, 0.8)
    assert day["now"]["spent"] == {"tokens": tokens, "cost_usd": pytest.approx(cost)}
    assert day["now"]["left"] == {"tokens": None, "cost_usd": pytest.approx(5 - cost)}
    assert datetime.fromisoformat(day["now"]["start"]) <= datetime.now(UTC) < datetime.fromisoformat(day["now"]["end"])
    assert (lifetime["now"]["start"], lifetime["now"]["end"]) == (None, None)
    assert lifetime["now"]["left"] == {"tokens": MUCH - tokens, "cost_usd": None}
    assert (day["now"]["over"], day["now"]["strained"]) == (False, False)


async def test_an_agent_and_a_model_have_limits_of_their_own(api: Api) -> None:
    await api.turn(await api.opened(), "hello")
    spent, _ = await usage(api)
    limit = {"window": "month", "tokens": MUCH}
    await limited(api, limit, agent="assistant")
    await limited(api, limit, agent="other")
    await limited(api, limit, model=MODEL)
    await limited(api, limit, model="gpt-5")
    shown = await limited(api, limit, agent="assistant", model=MODEL)
    assert {(one["agent"], one["model"]): one["limits"][0]["now"]["spent"]["tokens"] for one in shown["scopes"]} == {
        (None, MODEL): spent,
        (None, "gpt-5"): 0,
        ("assistant", None): spent,
        ("assistant", MODEL): spent,
        ("other", None): 0,
    }


async def test_what_is_reserved_is_not_left(api: Api) -> None:
    await limited(api, {"window": "hour", "tokens": 100, "warn_at": 0.5}, {"window": "turn", "tokens": 7})
    call = await reserved(api, 50)
    (scope,) = (await api.get("/v1/limits")).json()["scopes"]
    turn, hour = scope["limits"]
    assert turn == {"window": "turn", "tokens": 7, "cost_usd": None, "warn_at": 0.8, "now": None}
    assert hour["now"]["reserved"]["tokens"] == 50
    assert (hour["now"]["left"]["tokens"], hour["now"]["over"], hour["now"]["strained"]) == (50, False, True)
    await api.service.runtime.reservations.settle(call, Amount(120))
    (scope,) = (await api.get("/v1/limits")).json()["scopes"]
    (now,) = (one["now"] for one in scope["limits"] if one["window"] == "hour")
    assert (now["spent"]["tokens"], now["reserved"]["tokens"], now["left"]["tokens"], now["over"]) == (120, 0, 0, True)
    (changed,) = (await limited(api, {"window": "hour", "tokens": 200}))["scopes"]
    assert (changed["limits"][0]["now"]["spent"]["tokens"], changed["limits"][0]["now"]["over"]) == (120, False)


async def test_a_limit_that_was_lifted_counts_what_happened_meanwhile(api: Api) -> None:
    thread = await api.opened()
    await limited(api, {"window": "lifetime", "tokens": MUCH})
    await limited(api)
    await api.turn(thread, "hello")
    (scope,) = (await limited(api, {"window": "lifetime", "tokens": MUCH}))["scopes"]
    assert scope["limits"][0]["now"]["spent"]["tokens"] == (await usage(api))[0]


async def test_the_history_says_who_limited_what_and_when(api: Api) -> None:
    await limited(api, {"window": "day", "cost_usd": 0.25}, agent="other")
    await limited(api, actor="bob", agent="other")
    lifted, first = (await api.get("/v1/limits/history")).json()
    assert (lifted["actor"], lifted["agent"], lifted["model"], lifted["limits"]) == ("bob", "other", None, [])
    assert first["limits"] == [{"window": "day", "tokens": None, "cost_usd": 0.25, "warn_at": 0.8}]
    assert lifted["set_at"] >= first["set_at"]
    assert (await api.get("/v1/limits/history", params={"limit": 1})).json() == [lifted]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "limits"),
        ({"limits": [{"window": "week", "tokens": 5}]}, "limits.0.window"),
        ({"limits": [{"window": "day"}]}, "limits.0"),
        ({"limits": [{"window": "day", "tokens": 0}]}, "limits.0.tokens"),
        ({"limits": [{"window": "day", "tokens": "5"}]}, "limits.0.tokens"),
        ({"limits": [{"window": "day", "cost_usd": 1e-13}]}, "limits.0.cost_usd"),
        ({"limits": [{"window": "day", "tokens": 5, "warn_at": 1.5}]}, "limits.0.warn_at"),
        ({"limits": [{"window": "day", "tokens": 5}, {"window": "day", "tokens": 6}]}, "limits.1.window"),
        ({"limits": [{"window": "day", "tokens": 5}], "agent": "nobody"}, "agent"),
        ({"limits": [], "agent": ""}, "agent"),
        ({"limits": [], "model": "m" * 201}, "model"),
        ({"limits": [], "tenant": "other"}, "tenant"),
    ],
)
async def test_what_is_no_limit_is_refused_by_its_name_and_changes_nothing(api: Api, body: Json, field: str) -> None:
    answer = await api.put("/v1/limits", json=body)
    assert answer.status_code == 400, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await api.get("/v1/limits/history")).json() == []


async def test_limits_of_an_agent_that_is_no_more_can_be_lifted(api: Api) -> None:
    assert (await limited(api, agent="nobody"))["scopes"] == []


async def test_limits_outlive_the_process(database_url: str) -> None:
    async with running_api(database_url=database_url, prices=PRICES) as before:
        await limited(before, {"window": "lifetime", "tokens": 1_000})
        call = await reserved(before, 300)
        await before.service.runtime.reservations.settle(call, Amount(120))
    async with running_api(database_url=database_url, prices=PRICES) as after:
        (scope,) = (await after.get("/v1/limits")).json()["scopes"]
        assert scope["limits"][0]["now"]["spent"]["tokens"] == 120
