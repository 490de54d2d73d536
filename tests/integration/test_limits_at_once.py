"""Processes that set limits at once, while calls run, lose nothing that was spent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from domain.application.budget.limits_cache import LimitsCache
from domain.application.budget.reservations import Reservations
from domain.application.budget.turn_budget import BudgetServices, TurnBudget
from domain.application.thread_repository import ThreadRepository
from domain.budget.limits import PlannedCall
from domain.errors import BudgetExhausted
from domain.ids import ThreadId
from domain.ports.ledger import Amount, Granted, Ledger, Scope, ScopeLimits
from domain.thread.events import Limit
from domain.thread.state import Running
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.postgres.ledger import PostgresLedger
from infrastructure.postgres.pool import open_pool
from tests.contracts.test_ledger import AT, a_call
from tests.integration.test_accounts import PRICES
from tests.streams import ACME
from tests.support.given import A_RUNNING_TURN, given
from tests.support.http import running_api

WHOLE = Scope(ACME)
SPENT = 65_175
MUCH = 10**9
PRICES_FILE = Path(__file__).parents[1] / "support/prices.json"


@pytest.fixture
async def ledgers(database_url: str) -> AsyncIterator[list[PostgresLedger]]:
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(await open_pool(database_url, max_size=4)) for _ in range(3)]
        yield [PostgresLedger(pool) for pool in pools]


async def spent_in(ledger: Ledger, at: datetime = AT) -> dict[str, int]:
    return {one.limit.window: one.spent.tokens for one in await ledger.limit_usage(ACME, at)}


async def test_a_limit_that_another_setting_lifted_meanwhile_goes_on_counting(ledger: Ledger) -> None:
    """A process that changes a limit gives no count for it, and does not see another one lift it at that moment."""
    await ledger.set_limits(ScopeLimits(WHOLE, (Limit("day", 10**6),), AT, None), {"day": Amount(SPENT)})
    await ledger.set_limits(ScopeLimits(WHOLE, (Limit("month", 10**6),), AT, None), {"month": Amount(SPENT)})
    await ledger.set_limits(ScopeLimits(WHOLE, (Limit("day", 2 * 10**6),), AT, None), {})
    assert await spent_in(ledger) == {"day": SPENT}
    await ledger.set_limits(ScopeLimits(WHOLE, (), AT, None), {})
    await ledger.set_limits(ScopeLimits(WHOLE, (Limit("day", 10**6),), AT, None), {"day": Amount(SPENT - 1)})
    assert await spent_in(ledger) == {"day": SPENT}, "a read model that is behind makes nothing less"


async def test_limits_that_hold_no_more_are_not_replaced(ledger: Ledger) -> None:
    day, month = (Limit("day", 10**6),), (Limit("month", 10**6),)
    assert await ledger.set_limits(ScopeLimits(WHOLE, day, AT, None), {"day": Amount(5)}, ())
    assert not await ledger.set_limits(ScopeLimits(WHOLE, month, AT, None), {"month": Amount(5)}, ())
    assert await ledger.set_limits(ScopeLimits(WHOLE, day, AT, None), {"day": Amount(7)}, ()), (
        "it is as it should be: a repetition"
    )
    assert await ledger.set_limits(ScopeLimits(WHOLE, month, AT, None), {"month": Amount(6)}, day)
    assert await spent_in(ledger) == {"month": 6}
    assert len(await ledger.history(ACME, 9)) == 2


async def test_settings_at_once_and_calls_meanwhile_lose_nothing(ledgers: list[PostgresLedger]) -> None:
    ever = Limit("lifetime", MUCH)
    await ledgers[0].set_limits(ScopeLimits(WHOLE, (ever, Limit("day", MUCH)), AT, None), {"day": Amount(SPENT)})
    taken = 0

    async def spend(ledger: PostgresLedger) -> None:
        nonlocal taken
        call = a_call(3)
        assert isinstance(await ledger.reserve(call), Granted)
        await ledger.settle(call.id, Amount(2))
        taken += 2

    for n in range(25):
        await asyncio.gather(
            ledgers[0].set_limits(ScopeLimits(WHOLE, (ever, Limit("day", MUCH + n)), AT, None), {}),
            ledgers[1].set_limits(
                ScopeLimits(WHOLE, (ever, Limit("month", MUCH + n)), AT, None), {"month": Amount(SPENT)}
            ),
            *[spend(ledger) for ledger in ledgers for _ in range(4)],
        )
    await ledgers[0].set_limits(ScopeLimits(WHOLE, (ever, Limit("day", MUCH), Limit("month", MUCH)), AT, None), {})
    found = await spent_in(ledgers[0])
    assert found["lifetime"] == taken
    assert SPENT <= found["day"] <= SPENT + taken
    assert SPENT <= found["month"] <= SPENT + taken
    assert all(one.reserved == Amount() for one in await ledgers[0].limit_usage(ACME, AT))


async def test_over_http_what_the_log_knows_is_what_counts_at_the_end(database_url: str) -> None:
    how: dict[str, Any] = {"database_url": database_url, "prices": PRICES_FILE}
    async with running_api(**how) as one, running_api(**how) as other:
        thread = await one.opened()
        await one.turn(thread, "What is 12 * 3.5?")
        (found,) = (await one.get("/v1/usage", params={"consistency": "strong"})).json()["items"]
        tokens = found["prompt_tokens"] + found["completion_tokens"]
        windows = [["day"], ["month"], ["day"], ["lifetime", "month"], ["day"], ["lifetime"]]
        for n in range(10):
            answers = await asyncio.gather(
                *[
                    api.put("/v1/limits", json={"limits": [{"window": w, "tokens": MUCH + n + k} for w in chosen]})
                    for k, chosen in enumerate(windows)
                    for api in (one, other)
                ]
            )
            assert {answer.status_code for answer in answers} == {200}
            for scope in (await one.get("/v1/limits")).json()["scopes"]:
                assert {limit["now"]["spent"]["tokens"] for limit in scope["limits"]} == {tokens}
        shown = await one.put("/v1/limits", json={"limits": [{"window": w, "tokens": MUCH} for w in ("day", "month")]})
        (scope,) = shown.json()["scopes"]
        assert [limit["now"]["spent"]["tokens"] for limit in scope["limits"]] == [tokens, tokens]


class Skewed:
    """A clock that is hours off."""

    def __init__(self, hours: float) -> None:
        self._off = timedelta(hours=hours)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._off


@pytest.mark.parametrize("hours", [(0, 14), (0, -30), (-40, 40)])
async def test_processes_whose_clocks_are_hours_apart_spend_a_daily_budget_once(
    ledgers: list[PostgresLedger], pool: asyncpg.Pool, hours: tuple[float, float]
) -> None:
    await ledgers[0].set_limits(ScopeLimits(WHOLE, (Limit("day", 3_000),), datetime.now(UTC), None), {})
    state = given(*A_RUNNING_TURN).state
    assert isinstance(state, Running)
    granted = 0
    for ledger, off in zip(ledgers, hours, strict=False):
        clock = Skewed(off)
        repository = ThreadRepository(MemoryEventStore(), MemorySnapshotStore(), clock, fingerprint="test")
        reservations = Reservations(ledger, LimitsCache(ledger, clock), repository, PRICES)
        spending = TurnBudget(BudgetServices(reservations, PRICES, clock, uuid4), ACME, ThreadId(uuid4()), "assistant")
        for _ in range(10):
            try:
                held = await spending.reserve(lambda: state, PlannedCall("gpt", 400, 200), None)
            except BudgetExhausted:
                break
            await reservations.settle(held.id, Amount(400 + held.answer))
            granted += 400 + held.answer
    assert granted <= 3_000
    assert 2 * sum((await spent_in(ledgers[0], datetime.now(UTC))).values()) > 3_000, "and it was counted today"
