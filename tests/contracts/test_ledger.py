"""The contract of every ledger."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from domain.budget.limits import is_limited
from domain.ids import Shard, Tenant, shard_of, slice_of
from domain.money import PER_DOLLAR
from domain.ports.ledger import Amount, Granted, Ledger, LimitUsage, Refused, Reservation, Scope, ScopeLimits
from domain.ports.log import Fence
from domain.thread.events import Limit
from domain.windows import EVER
from tests.streams import ACME, new_thread

AT = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
OTHER = Tenant("other")
ALL = Scope(ACME)
DAY = Limit("day", 100)


def a_call(tokens: int = 10, cost: int = 0, **more: Any) -> Reservation:
    given = Reservation(uuid4(), ACME, new_thread(), "assistant", "gpt", Amount(tokens, cost), AT)
    return replace(given, **more)


async def limited(ledger: Ledger, *limits: Limit, scope: Scope = ALL, at: datetime = AT, **spent: int) -> None:
    seeds = {window: Amount(tokens) for window, tokens in spent.items()}
    await ledger.set_limits(ScopeLimits(scope, limits, at, "ada"), seeds)


async def counted(ledger: Ledger, at: datetime = AT) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return the tokens that are spent and reserved, by limit."""
    return {
        (one.scope.agent, one.scope.model, one.limit.window): (one.spent.tokens, one.reserved.tokens)
        for one in await ledger.limit_usage(ACME, at)
        if one.scope
    }


async def tokens(ledger: Ledger, at: datetime = AT) -> tuple[int, int]:
    """Return the tokens that are spent and reserved of the only limit."""
    (found,) = (await counted(ledger, at)).values()
    return found


async def spend(ledger: Ledger, amount: int, **more: Any) -> Sequence[LimitUsage]:
    call = a_call(amount, **more)
    assert isinstance(await ledger.reserve(call), Granted)
    return await ledger.settle(call.id, Amount(amount, more.get("cost", 0)))


class TestSetting:
    async def test_at_first_nothing_is_limited(self, ledger: Ledger) -> None:
        assert (await ledger.limits(ACME), await ledger.history(ACME, 9), await ledger.limit_usage(ACME, AT)) == (
            [],
            [],
            [],
        )
        call = a_call(10**15, 10**15)
        assert await ledger.reserve(call) == Granted()
        assert await ledger.open_reservations([shard_of(slice_of(call.thread_id))]) == []
        assert await ledger.settle(call.id, Amount(1)) == []

    async def test_limits_are_kept_as_they_were_set_by_scope_and_tenant(self, ledger: Ledger) -> None:
        every = (Limit("turn", 5), Limit("hour", 10, 20, 0.5), Limit("lifetime", cost=10**18, warn_at=1e-7))
        await limited(ledger, *every, scope=Scope(ACME, "assistant", "gpt ünï"))
        await limited(ledger, DAY)
        await limited(ledger, Limit("month", 7), scope=Scope(OTHER))
        assert await ledger.limits(ACME) == [
            ScopeLimits(ALL, (DAY,), AT, "ada"),
            ScopeLimits(Scope(ACME, "assistant", "gpt ünï"), every, AT, "ada"),
        ]
        assert await ledger.limits(OTHER) == [ScopeLimits(Scope(OTHER), (Limit("month", 7),), AT, "ada")]

    async def test_the_history_has_what_was_set_and_lifted_and_no_repetition(self, ledger: Ledger) -> None:
        for limits in ((DAY,), (DAY,), (), (), (Limit("hour", 3),)):
            await limited(ledger, *limits)
        await limited(ledger, DAY, scope=Scope(OTHER))
        assert [each.limits for each in await ledger.history(ACME, 9)] == [(Limit("hour", 3),), (), (DAY,)]
        assert [each.limits for each in await ledger.history(ACME, 1)] == [(Limit("hour", 3),)]

    async def test_what_was_spent_before_counts_where_nothing_has_counted_so_far(self, ledger: Ledger) -> None:
        await limited(ledger, DAY, day=40)
        await spend(ledger, 10)
        await limited(ledger, Limit("hour", 30), Limit("day", 200), hour=20, day=77)
        assert await counted(ledger) == {("", "", "hour"): (20, 0), ("", "", "day"): (50, 0)}

    async def test_of_a_limit_that_was_lifted_the_new_figure_counts_once_it_is_set_again(self, ledger: Ledger) -> None:
        await limited(ledger, DAY, day=40)
        under_way = a_call(7)
        await ledger.reserve(under_way)
        await limited(ledger)
        assert await counted(ledger) == {}
        await spend(ledger, 1_000)
        await limited(ledger, DAY, day=60)
        assert await tokens(ledger) == (60, 0)
        await ledger.settle(under_way.id, Amount(7))
        assert await tokens(ledger) == (60, 0)

    async def test_without_a_figure_nothing_was_spent(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        assert await ledger.limit_usage(ACME, AT) == [LimitUsage(ALL, DAY, AT.replace(hour=0, minute=0))]

    async def test_limits_that_are_set_at_once_come_one_after_the_other(self, ledger: Ledger) -> None:
        await asyncio.gather(*[limited(ledger, Limit("day", 100 + n), day=5) for n in range(20)])
        assert len(await ledger.history(ACME, 99)) == 20
        assert await tokens(ledger) == (5, 0)


class TestReserving:
    async def test_what_is_reserved_is_taken_until_it_is_settled(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        call = a_call(60)
        assert await ledger.reserve(call) == Granted()
        assert await tokens(ledger) == (0, 60)
        refused = await ledger.reserve(a_call(41))
        assert refused == Refused((await ledger.limit_usage(ACME, AT))[0], temporary=True)
        await ledger.settle(call.id, Amount(15))
        assert await tokens(ledger) == (15, 0)
        assert await ledger.reserve(a_call(85)) == Granted()
        assert await tokens(ledger) == (15, 85)

    async def test_what_would_not_fit_alone_is_refused_for_good(self, ledger: Ledger) -> None:
        await limited(ledger, DAY, day=50)
        refused = await ledger.reserve(a_call(51))
        assert isinstance(refused, Refused)
        assert not refused.temporary
        assert await tokens(ledger) == (50, 0)

    async def test_money_is_limited_likewise(self, ledger: Ledger) -> None:
        await limited(ledger, Limit("lifetime", cost=PER_DOLLAR))
        assert isinstance(await ledger.reserve(a_call(10**15, PER_DOLLAR + 1)), Refused)
        call = a_call(10**15, PER_DOLLAR)
        assert await ledger.reserve(call) == Granted()
        await ledger.settle(call.id, Amount(10**15, PER_DOLLAR // 2))
        (usage,) = await ledger.limit_usage(ACME, AT)
        assert (usage.start, usage.spent) == (EVER, Amount(10**15, PER_DOLLAR // 2))

    async def test_every_limit_whose_scope_fits_has_it_or_none(self, ledger: Ledger) -> None:
        for agent, model in (
            ("", ""),
            ("assistant", ""),
            ("", "gpt"),
            ("assistant", "gpt"),
            ("desk", ""),
            ("", "tiny"),
        ):
            await limited(ledger, Limit("hour", 100), DAY, scope=Scope(ACME, agent, model))
        await limited(ledger, Limit("day", 1), scope=Scope(OTHER))
        await ledger.reserve(a_call(60))
        found = await counted(ledger)
        assert {scope[:2] for scope, sums in found.items() if sums == (0, 60)} == {
            ("", ""),
            ("assistant", ""),
            ("", "gpt"),
            ("assistant", "gpt"),
        }
        assert {scope[:2] for scope, sums in found.items() if sums == (0, 0)} == {("desk", ""), ("", "tiny")}
        refused = await ledger.reserve(a_call(60, agent="desk"))
        assert isinstance(refused, Refused)
        assert await counted(ledger) == found

    async def test_a_limit_of_a_subject_counts_calls_about_it_alone_or_with_an_agent_and_a_model(
        self, ledger: Ledger
    ) -> None:
        ada = [Scope(ACME, *of, "ada") for of in (("", ""), ("assistant", ""), ("", "gpt"), ("assistant", "gpt"))]
        others = [Scope(ACME, subject="bob"), Scope(ACME, "desk", subject="ada"), Scope(ACME, "ada")]
        for scope in (ALL, *ada, *others):
            await limited(ledger, DAY, scope=scope)
        await limited(ledger, DAY, scope=Scope(OTHER, subject="ada"))
        call = a_call(60, subject="ada")
        assert await ledger.reserve(call) == Granted()
        usage = {one.scope: one.reserved.tokens for one in await ledger.limit_usage(ACME, AT)}
        assert usage == {**dict.fromkeys((ALL, *ada), 60), **dict.fromkeys(others, 0)}
        assert isinstance(await ledger.reserve(a_call(41, agent="desk", model="tiny", subject="ada")), Refused)
        (found,) = await ledger.open_reservations([shard_of(slice_of(call.thread_id))])
        assert found == call
        told = await ledger.settle(call.id, Amount(90))
        assert sorted(one.scope for one in told if one.scope) == sorted((ALL, *ada))
        await limited(ledger, scope=ALL)
        refused = await ledger.reserve(a_call(11, subject="ada", agent="other", model="tiny"))
        assert isinstance(refused, Refused)
        assert (refused.usage.scope, refused.temporary) == (Scope(ACME, subject="ada"), False)
        assert await ledger.reserve(a_call(100, subject="bob", agent="other")) == Granted()
        assert await ledger.reserve(a_call(10**6, agent="other")) == Granted(), "it is about no subject"

    async def test_limits_and_their_history_are_found_by_subject(self, ledger: Ledger) -> None:
        every = [ALL, Scope(ACME, "assistant"), Scope(ACME, subject="ada"), Scope(ACME, "assistant", subject="bob ünï")]
        for scope in every:
            await limited(ledger, DAY, scope=scope)
        await limited(ledger, scope=Scope(ACME, subject="ada"))
        await limited(ledger, Limit("hour", 7), scope=Scope(ACME, subject="ada"))

        async def scopes(*subjects: str) -> list[Scope]:
            return [given.scope for given in await ledger.limits(ACME, set(subjects))]

        assert [given.scope for given in await ledger.limits(ACME)] == sorted(every)
        assert await scopes("", "ada") == [every[0], every[2], every[1]]
        assert await scopes("bob ünï", "eve") == [every[3]]
        assert await scopes() == []
        assert [len(given.limits) for given in await ledger.history(ACME, 9, "ada")] == [1, 0, 1]
        assert [given.scope for given in await ledger.history(ACME, 9, "")] == [every[1], ALL]
        assert len(await ledger.history(ACME, 2, "ada")) == 2
        assert [one.scope for one in await ledger.limit_usage(ACME, AT, {every[1], every[2]})] == [every[2], every[1]]
        assert await ledger.limit_usage(ACME, AT, []) == []

    async def test_of_several_limits_the_one_is_named_that_has_too_little_for_longest(self, ledger: Ledger) -> None:
        await limited(ledger, Limit("hour", 50), Limit("day", 55), Limit("month", 60), day=10)
        await ledger.reserve(a_call(45))
        both = await ledger.reserve(a_call(16))
        assert isinstance(both, Refused)
        assert (both.usage.limit.window, both.temporary) == ("month", True)
        for_good = await ledger.reserve(a_call(46))
        assert isinstance(for_good, Refused)
        assert (for_good.usage.limit.window, for_good.temporary) == ("day", False)

    async def test_a_limit_for_turns_counts_nothing_here(self, ledger: Ledger) -> None:
        await limited(ledger, Limit("turn", 1))
        assert await ledger.reserve(a_call(50)) == Granted()
        assert await ledger.limit_usage(ACME, AT) == []

    async def test_windows_begin_anew(self, ledger: Ledger) -> None:
        await limited(ledger, Limit("hour", 10))
        for hour in range(5):
            assert isinstance(await ledger.reserve(a_call(11, at=AT + hour * HOUR)), Refused)
            assert isinstance(await ledger.reserve(a_call(10, at=AT + hour * HOUR)), Granted)
            assert isinstance(await ledger.reserve(a_call(1, at=AT + hour * HOUR)), Refused)
        assert await tokens(ledger, AT + 4 * HOUR) == (0, 10)
        assert isinstance(await ledger.reserve(a_call(1, at=AT + 3 * HOUR)), Refused), "a clock may be late"

    async def test_a_call_is_settled_in_the_windows_that_it_was_reserved_in(self, ledger: Ledger) -> None:
        await limited(ledger, Limit("hour", 10))
        call = a_call(10)
        await ledger.reserve(call)
        await ledger.reserve(a_call(4, at=AT + HOUR))
        await ledger.settle(call.id, Amount(8))
        assert await tokens(ledger, AT + HOUR) == (0, 4)
        assert await tokens(ledger) == (8, 0)

    async def test_reserving_twice_is_reserving_once(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        call = a_call(90)
        answers = await asyncio.gather(*[ledger.reserve(call) for _ in range(5)])
        assert answers == [Granted()] * 5
        assert await tokens(ledger) == (0, 90)

    async def test_the_limits_may_change_while_a_call_is_under_way(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        call, other = a_call(90), a_call(10)
        await ledger.reserve(call)
        await limited(ledger, Limit("day", 50), scope=ALL)
        assert await tokens(ledger) == (0, 90)
        assert isinstance(await ledger.reserve(other), Refused)
        await limited(ledger, Limit("day", 50), Limit("hour", 50))
        await ledger.settle(call.id, Amount(20))
        assert await counted(ledger) == {("", "", "day"): (20, 0), ("", "", "hour"): (0, 0)}
        assert isinstance(await ledger.reserve(other), Granted)


class TestSettling:
    async def test_settling_and_releasing_count_once(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        one, two = a_call(20), a_call(30)
        await ledger.reserve(one)
        await ledger.reserve(two)
        for _ in range(2):
            await ledger.settle(one.id, Amount(5))
            await ledger.release(two.id)
            await ledger.settle(two.id, Amount(5))
            await ledger.release(one.id)
        assert await tokens(ledger) == (5, 0)
        assert await ledger.settle(uuid4(), Amount(5)) == []

    async def test_a_call_that_took_more_than_was_reserved_counts_with_all_of_it(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        call = a_call(20)
        await ledger.reserve(call)
        (told,) = await ledger.settle(call.id, Amount(500, 3))
        assert told == LimitUsage(ALL, DAY, AT.replace(hour=0, minute=0), Amount(500, 3))
        assert await ledger.limit_usage(ACME, AT) == [told]
        refused = await ledger.reserve(a_call(1))
        assert refused == Refused(told, temporary=False)

    async def test_a_share_that_is_spent_is_told_once_in_each_window(self, ledger: Ledger) -> None:
        await limited(ledger, Limit("hour", 100, warn_at=0.5), Limit("day", 1_000, warn_at=0.1))
        assert await spend(ledger, 49) == []
        assert [told.limit.window for told in await spend(ledger, 1)] == ["hour"]
        assert [told.limit.window for told in await spend(ledger, 50)] == ["day"]
        (later,) = await spend(ledger, 60, at=AT + HOUR)
        assert (later.limit.window, later.start, later.spent) == ("hour", AT.replace(hour=23, minute=0), Amount(60))

    async def test_of_another_limit_it_is_told_anew(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        assert len(await spend(ledger, 80)) == 1
        await limited(ledger, DAY, Limit("month", 10_000))
        assert await spend(ledger, 1) == []
        await limited(ledger, Limit("day", 110), Limit("month", 10_000))
        assert await spend(ledger, 1) == []
        assert len(await spend(ledger, 10)) == 1

    async def test_a_share_of_money_is_told_to_the_unit(self, ledger: Ledger) -> None:
        await limited(ledger, Limit("day", cost=PER_DOLLAR, warn_at=0.7))
        assert await spend(ledger, 0, cost=7 * PER_DOLLAR // 10 - 1) == []
        assert len(await spend(ledger, 0, cost=1)) == 1

    async def test_what_was_settled_quietly_is_told_by_the_next(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        call = a_call(90)
        await ledger.reserve(call)
        assert await ledger.settle(call.id, Amount(90), quietly=True) == []
        assert [told.spent.tokens for told in await spend(ledger, 1)] == [91]

    async def test_what_was_released_reaches_nothing(self, ledger: Ledger) -> None:
        await limited(ledger, DAY, day=90)
        call = a_call(1)
        assert await ledger.reserve(call) == Granted()
        await ledger.release(call.id)
        assert len(await spend(ledger, 1)) == 1

    async def test_what_is_open_is_found_by_the_shard_of_its_thread(self, ledger: Ledger) -> None:
        await limited(ledger, DAY)
        calls = [a_call(1), a_call(2, 7), a_call(3)]
        shards = [shard_of(slice_of(call.thread_id)) for call in calls]
        calls[0] = replace(calls[0], fence=Fence(shards[0], 12))
        for call in calls:
            await ledger.reserve(call)
        every = [Shard(number) for number in range(64)]
        assert sorted(await ledger.open_reservations(every), key=lambda call: call.worst_case.tokens) == calls
        mine = [call for call, shard in zip(calls, shards, strict=True) if shard == shards[0]]
        assert {call.id for call in await ledger.open_reservations(shards[:1])} == {call.id for call in mine}
        assert await ledger.open_reservations([]) == []
        await ledger.settle(calls[0].id, Amount(1))
        await ledger.release(calls[1].id)
        assert await ledger.open_reservations(every) == calls[2:]


SCOPES = (
    *(ALL, Scope(ACME, "assistant"), Scope(ACME, "", "gpt"), Scope(ACME, "assistant", "gpt")),
    *(Scope(ACME, subject="ada"), Scope(ACME, "assistant", "gpt", "ada")),
)


@pytest.mark.parametrize("seed", range(3))
async def test_many_at_once_never_pass_a_limit_and_every_token_is_counted_once(ledger: Ledger, seed: int) -> None:
    dice = random.Random(seed)
    limits = {scope: Limit("day", dice.randint(300, 1_500), warn_at=0.5) for scope in SCOPES}
    for scope, limit in limits.items():
        await limited(ledger, limit, Limit("lifetime", 10**6), scope=scope)
    truth: dict[Scope, int] = dict.fromkeys(SCOPES, 0)
    told: list[Scope] = []
    done = asyncio.Event()

    async def call() -> None:
        agent, model = dice.choice(["assistant", "desk"]), dice.choice(["gpt", "tiny"])
        most = dice.randint(1, 60)
        subject = dice.choice(["ada", "bob", ""])
        asked = a_call(most, agent=agent, model=model, subject=subject)
        granted = [await ledger.reserve(asked) for _ in range(dice.randint(1, 2))]
        if not isinstance(granted[-1], Granted):  # another try may have more luck
            return
        await asyncio.sleep(dice.random() / 100)
        taken = dice.randint(0, most)
        if dice.random() < 0.2:
            await ledger.release(asked.id)
            return
        for warnings in await asyncio.gather(*[ledger.settle(asked.id, Amount(taken)) for _ in range(2)]):
            told.extend(warned.scope for warned in warnings if warned.scope)
        for scope in SCOPES:
            if scope.agent in {"", agent} and scope.model in {"", model} and scope.subject in {"", subject}:
                truth[scope] += taken

    async def watch() -> None:
        while not done.is_set():
            for one in await ledger.limit_usage(ACME, AT):
                assert one.spent.tokens + one.reserved.tokens <= (one.limit.tokens or 0)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        for _ in range(4):
            await asyncio.gather(*[call() for _ in range(60)])
        done.set()
    assert {one.scope: one.spent.tokens for one in await ledger.limit_usage(ACME, AT)} == truth
    assert all(one.reserved == Amount() for one in await ledger.limit_usage(ACME, AT))
    passed = {scope for scope in SCOPES if truth[scope] * 2 >= (limits[scope].tokens or 0)}
    assert sorted(told) == sorted(passed)
    assert await ledger.open_reservations([Shard(number) for number in range(64)]) == []


async def test_it_is_known_without_asking_which_calls_are_limited(ledger: Ledger) -> None:
    await limited(ledger, DAY, scope=Scope(ACME, "assistant"))
    await limited(ledger, Limit("turn", 9), scope=Scope(ACME, "", "gpt"))
    found = await ledger.limits(ACME)
    assert [is_limited(found, agent, "gpt") for agent in ("assistant", "desk")] == [True, False]
