"""The views that reports are made of outlive the tables behind them."""

import asyncio
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace as replaced

from domain.errors import NotRebuildable
from domain.read_models.queries import Aggregate, Where
from domain.read_models.tables import Column
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.read_models.store import PostgresReadModels
from tests.streams import NOON
from tests.support.notes import NOTES, SHAPE, TAGS, Desk, note

REPORT = "CREATE VIEW public.report AS SELECT id, last FROM analytics.notes"
SEEN = "SELECT last FROM public.report ORDER BY id"


@pytest.fixture
async def desk(pool: asyncpg.Pool) -> Desk:
    desk = await Desk(PostgresReadModels(pool), PostgresEventStore(pool)).opened()
    await desk.write(note(1, last="old", who=UUID(int=1)))
    return desk


async def rebuilt(desk: Desk) -> bool:
    """Build the notes anew, and let them serve."""
    line = await desk.models.rebuild([SHAPE])
    await desk.write(note(1, last="new"), instance=await desk.instance("building"))
    await desk.models.prepare(line)
    return await desk.models.switch(line)


async def test_a_report_s_own_views_and_rights_survive_a_switch(desk: Desk, owner: asyncpg.Connection) -> None:
    await owner.execute(REPORT)
    await owner.execute("GRANT SELECT ON analytics.notes TO pg_monitor")

    assert await rebuilt(desk)

    assert await owner.fetchval(SEEN) == "new"
    assert await owner.fetchval("SELECT has_table_privilege('pg_monitor', 'analytics.notes', 'SELECT')")
    await desk.models.roll_back("notes")
    assert await owner.fetchval(SEEN) == "old"


async def test_what_is_built_is_analysed_before_it_serves(desk: Desk, owner: asyncpg.Connection) -> None:
    """The application's role has made the tables, so it may: nobody waits for autovacuum."""
    assert await rebuilt(desk)

    counted = "SELECT reltuples FROM pg_class WHERE oid = ('read_models.notes_' || $1)::regclass"
    served, built = [await owner.fetchval(counted, str(one.id)) for one in await desk.models.instances()]
    assert (served, built) == (-1, 1), "-1 is what was never counted"


async def test_columns_may_be_added_under_a_report_and_taken_away_where_there_is_none(
    desk: Desk, owner: asyncpg.Connection
) -> None:
    fewer = replace(NOTES, columns=tuple(c for c in NOTES.columns if c.name != "until"), indexes=())
    await desk.models.rebuild([replaced(SHAPE, version=2, tables=(fewer, TAGS))])
    building = await desk.instance("building")
    await desk.models.commit(await desk.batch(instance=building))
    await owner.execute(REPORT)

    with pytest.raises(NotRebuildable, match=r"view report depends on view analytics\.notes"):
        await desk.models.switch(building.group)

    assert await owner.fetchval(SEEN) == "old", "what served goes on"
    await owner.execute("DROP VIEW public.report")
    assert await desk.models.switch(building.group)
    await owner.execute(REPORT)
    await desk.models.roll_back("notes")
    assert await owner.fetchval(SEEN) == "old"


async def test_a_long_report_delays_a_switch_and_nobody_else_for_long(desk: Desk, database_url: str) -> None:
    reporter, reader = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    async with reporter.transaction():
        await reporter.fetch("SELECT FROM analytics.notes")
        switching = asyncio.create_task(rebuilt(desk))
        async with asyncio.timeout(60):
            while not switching.done():
                assert await reader.fetchval("SELECT last FROM analytics.notes") == "old"
                await asyncio.sleep(0.01)
        assert not await switching

    assert await desk.models.switch((await desk.instance("building")).group)
    assert await reader.fetchval("SELECT last FROM analytics.notes") == "new"
    await reporter.close()
    await reader.close()


async def test_the_planner_knows_what_was_built_before_it_serves(desk: Desk, owner: asyncpg.Connection) -> None:
    await rebuilt(desk)

    new = (await desk.instance()).id

    assert await owner.fetchval(f"SELECT reltuples FROM pg_class WHERE relname = 'notes_{new}'") == 1


async def test_a_table_is_dropped_when_nobody_reads_it_and_nobody_waits_for_that_for_long(
    desk: Desk, database_url: str
) -> None:
    reporter = await asyncpg.connect(database_url)
    old = await desk.instance()
    async with reporter.transaction():
        await reporter.fetch("SELECT FROM analytics.notes")
        assert not await rebuilt(desk)
        building = await desk.instance("building")
        async with asyncio.timeout(60):
            with pytest.raises(NotRebuildable, match="reads instance"):
                await desk.models.drop(old.id, serving=True)
        await desk.models.drop(building.id)
    await reporter.close()


async def test_code_that_knows_more_columns_than_the_view_that_serves_reads_nothing_in_them(desk: Desk) -> None:
    fewer = replace(NOTES, columns=tuple(c for c in NOTES.columns if c.name not in {"added", "last"}), indexes=())
    line = await desk.models.rebuild([replaced(SHAPE, version=2, tables=(fewer, TAGS))])
    await desk.models.commit(
        await desk.batch(
            (fewer, fewer.row(id=1, slice=7, least=NOON, greatest=0)), instance=await desk.instance("building")
        )
    )
    assert await desk.models.switch(line)

    (row,) = await desk.rows(where=(Where("id", "=", 1), Where("last", "=", "")))
    assert (row["id"], row["last"], row["added"], row["least"]) == (1, "", 0, NOON)
    assert await desk.models.aggregate(Aggregate(NOTES, ("added",), group_by=("last",))) == [("", 0)]


async def test_a_view_that_something_depends_on_is_not_rolled_back(desk: Desk, owner: asyncpg.Connection) -> None:
    more = replace(NOTES, columns=(*NOTES.columns, Column("new", "text")))
    line = await desk.models.rebuild([replaced(SHAPE, version=2, tables=(more, TAGS))])
    await desk.models.commit(await desk.batch(instance=await desk.instance("building")))
    assert await desk.models.switch(line)
    await owner.execute("CREATE VIEW public.report AS SELECT id, new FROM analytics.notes")

    with pytest.raises(NotRebuildable, match="depends on"):
        await desk.models.roll_back("notes")
