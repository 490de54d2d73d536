"""The contract of access logs."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from msgspec.structs import replace

from domain.ids import Tenant, ThreadId
from domain.ports.access_log import Access, AccessCursor, AccessFilter, AccessLog, RecordedAccess
from tests.streams import ACME, NOON, new_thread

OTHER = Tenant("other")
ALL = AccessFilter()


def an_access(second: int = 0, *threads: ThreadId, **more: object) -> Access:
    given = Access(NOON + timedelta(seconds=second), ACME, "state", f"/{second}", threads or (new_thread(),))
    return replace(given, **more)


async def listed(log: AccessLog, only: AccessFilter = ALL, tenant: Tenant = ACME) -> list[Access]:
    return [kept.access for kept in await log.page(tenant, only, None, 100)]


async def pages(log: AccessLog, limit: int, only: AccessFilter = ALL) -> list[Sequence[RecordedAccess]]:
    """Read page after page, up to the one that is not full."""
    found, before = [], None
    while True:
        page = await log.page(ACME, only, before, limit)
        found.append(page)
        if len(page) < limit:
            return found
        before = AccessCursor(page[-1].access.at, page[-1].number)


async def test_at_first_there_is_none(access_log: AccessLog) -> None:
    assert await listed(access_log) == []


@pytest.mark.parametrize(
    "access",
    [
        an_access(actor="ada", client="curl/8.9", correlation="ticket-7"),
        an_access(
            1, ThreadId(UUID(int=1)), ThreadId(UUID(int=2)), what="list", request="/v1/threads?search=naïve%20👍"
        ),
        an_access(what="export", threads=(), request="threadfold export 'a {b}, \"c\"'", actor="Ada, {Countess}"),
        an_access(actor="", client=""),
    ],
    ids=lambda access: access.what,
)
async def test_an_access_is_kept_as_it_was(access_log: AccessLog, access: Access) -> None:
    await access_log.record(access)
    assert await listed(access_log) == [access]


async def test_the_last_comes_first_whenever_it_was_recorded(access_log: AccessLog) -> None:
    late, early, middle = an_access(3), an_access(1), an_access(2)
    for access in (late, early, middle):
        await access_log.record(access)
    assert await listed(access_log) == [late, middle, early]


async def test_pages_meet_each_access_once_also_those_of_one_instant(access_log: AccessLog) -> None:
    for second in (0, 1, 1, 1, 1, 2):
        await access_log.record(an_access(second))
    for limit in (1, 2, 3, 6, 100):
        found = [kept for page in await pages(access_log, limit) for kept in page]
        assert len({kept.number for kept in found}) == len(found) == 6
        assert [kept.access for kept in found] == await listed(access_log)


async def test_it_can_be_asked_who_has_read_a_thread(access_log: AccessLog) -> None:
    mine, yours = new_thread(), new_thread()
    for second, threads in enumerate([(mine,), (yours,), (yours, mine), (new_thread(), yours)]):
        await access_log.record(an_access(second, *threads))
    only = AccessFilter(mine)
    assert [access.request for access in await listed(access_log, only)] == ["/2", "/0"]
    assert [[kept.access.request for kept in page] for page in await pages(access_log, 1, only)] == [["/2"], ["/0"], []]
    assert await listed(access_log, AccessFilter(new_thread())) == []


FILTERS = {
    "by actor": (AccessFilter(actor="ada"), {0, 2}),
    "by an unknown actor": (AccessFilter(actor="eve"), set()),
    "by what was shown": (AccessFilter(what="messages"), {1, 2}),
    "from an instant on": (AccessFilter(since=NOON + timedelta(seconds=1)), {1, 2, 3}),
    "before an instant": (AccessFilter(until=NOON + timedelta(seconds=2)), {0, 1}),
    "between instants": (AccessFilter(since=NOON + timedelta(seconds=1), until=NOON + timedelta(seconds=2)), {1}),
    "by all of them": (AccessFilter(None, "ada", "messages", NOON, NOON + timedelta(seconds=9)), {2}),
    "by actor and time": (AccessFilter(actor="ada", until=NOON + timedelta(seconds=1)), {0}),
}


@pytest.mark.parametrize("of_thread", [False, True])
@pytest.mark.parametrize("name", FILTERS)
async def test_accesses_are_filtered(access_log: AccessLog, name: str, *, of_thread: bool) -> None:
    thread, (only, expected) = new_thread(), FILTERS[name]
    await access_log.record(an_access(0, thread, actor="ada"))
    await access_log.record(an_access(1, thread, what="messages"))
    await access_log.record(an_access(2, thread, actor="ada", what="messages"))
    await access_log.record(an_access(3, thread, actor="bob"))
    found = await listed(access_log, replace(only, thread_id=thread if of_thread else None))
    assert {int(access.request[1:]) for access in found} == expected


async def test_tenants_see_their_own(access_log: AccessLog) -> None:
    thread = new_thread()
    mine, yours = an_access(0, thread, actor="ada"), an_access(1, thread, actor="ada", tenant=OTHER)
    await access_log.record(mine)
    await access_log.record(yours)
    for only in (ALL, AccessFilter(thread), AccessFilter(actor="ada"), AccessFilter(what="state")):
        assert await listed(access_log, only) == [mine]
        assert await listed(access_log, only, OTHER) == [yours]


async def test_of_many_that_come_at_once_each_is_kept(access_log: AccessLog) -> None:
    accesses = [an_access(second) for second in range(300)]
    await asyncio.gather(*map(access_log.record, accesses))
    found = [kept.access for page in await pages(access_log, 1_000) for kept in page]
    assert found == accesses[::-1]
