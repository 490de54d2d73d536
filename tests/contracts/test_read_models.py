"""What every store of read models does: rows and positions together, one instance that serves, and queries."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from msgspec.structs import replace

from domain.errors import NotRebuildable, Unwritable
from domain.ids import Position, Slice, ThreadId, Version, slice_of
from domain.ports.log import EventStore
from domain.ports.read_models import Instance, Move, Parked, ReadModels, Shape
from domain.read_models.queries import Aggregate, Among, Histogram, Select, Spanning, Where
from domain.read_models.tables import Rows
from domain.recall.terms import exact_search
from tests.streams import NOON, threads_of
from tests.support.notes import HERE, LATER, NOTES, SHAPE, TAGS, Desk, note, replace_name


@pytest.fixture
async def desk(read_models: ReadModels, event_store: EventStore) -> Desk:
    return await Desk(read_models, event_store).opened()


class TestWriting:
    async def test_each_column_has_its_rule(self, desk: Desk) -> None:
        assert await desk.write(note(1, last="a", added=2, least=LATER, greatest=5, more="[1]"))
        assert await desk.write(
            note(1, last="b", first="x", added=3, greatest=4, joined="b"), note(1, first="y", added=1, last="c")
        )
        (row,) = await desk.rows()
        assert (row["last"], row["first"], row["added"], row["least"]) == ("c", "x", 6, NOON)
        assert (row["greatest"], row["joined"], row["words"]) == (5, "a,b,a", None)

    async def test_rows_and_position_are_written_together_or_not_at_all(self, desk: Desk) -> None:
        serving = await desk.instance()
        assert await desk.write(note(1))
        stale = Move(HERE, Position(0), Position(2))
        assert not await desk.write(note(2), moves=(stale,))
        assert not await desk.write(note(2), group=serving.group + 100)
        with pytest.raises(Unwritable) as unwritable:
            await desk.write(note(2**40))
        assert unwritable.value.table == "notes"
        assert await desk.ids() == [1]
        assert await desk.models.position(serving.group, HERE) == 1

    async def test_of_writers_at_the_same_position_one_writes(self, desk: Desk) -> None:
        written = await asyncio.gather(*[desk.write(note(1, added=1)) for _ in range(8)])
        assert written.count(True) >= 1
        (row,) = await desk.rows()
        assert row["added"] == written.count(True) == await desk.models.position((await desk.instance()).group, HERE)

    async def test_lag_is_exact(self, desk: Desk) -> None:
        serving = await desk.instance()
        await desk.write(note(1))
        (slot,) = await desk.models.behind(serving.group, [HERE, Slice(8)])
        assert (slot.slice, slot.position, slot.head) == (HERE, 1, 20)
        assert not await desk.models.behind(serving.group, [Slice(8)]), "only the slices that are asked for"
        group = await desk.group(serving)
        assert (group.done, group.left) == (1, 19)
        assert await desk.models.reached("notes", HERE, Position(1))
        assert not await desk.models.reached("notes", HERE, Position(2))

    async def test_a_text_with_nul_is_stored(self, desk: Desk) -> None:
        assert await desk.write(note(1, last="a\x00b", words="nul\x00 here"))
        assert len(await desk.rows()) == 1


class TestParking:
    def parked(self, instance: Instance) -> Parked:
        thread_id = next(iter(threads_of(HERE)))
        return Parked(instance.id, thread_id, Version(3), Position(1), "NoteTaken", "ValueError: no", 3, NOON)

    async def test_what_is_parked_is_told_and_fences_those_who_do_not_know(self, desk: Desk) -> None:
        serving = await desk.instance()
        parked = self.parked(serving)
        assert await desk.write(note(1), parking=(parked,))
        assert await desk.models.parked([serving.id], [HERE]) == [parked]
        assert await desk.models.parked([serving.id], [Slice(8)]) == []
        assert not await desk.write(note(2)), "it does not know what is parked"
        assert await desk.write(note(2), parked=frozenset({(serving.id, parked.thread_id)}))

    async def test_a_thread_goes_on_once_and_where_its_slice_is(self, desk: Desk) -> None:
        serving = await desk.instance()
        parked = self.parked(serving)
        await desk.write(note(1), parking=(parked,))
        rows = Rows()
        rows.add([note(9)])
        assert not await desk.models.unpark(parked, Position(2), rows, None)
        assert await desk.models.unpark(parked, Position(1), rows, None)
        assert not await desk.models.unpark(parked, Position(1), rows, None)
        assert await desk.ids() == [1, 9]
        assert slice_of(ThreadId(parked.thread_id)) == HERE
        assert await desk.write(note(2))

    async def test_a_thread_may_be_parked_again(self, desk: Desk) -> None:
        serving = await desk.instance()
        parked = self.parked(serving)
        await desk.write(note(1), parking=(parked,))
        again = replace(parked, version=Version(4), attempts=6)
        assert await desk.models.unpark(parked, Position(1), Rows(), again)
        assert await desk.models.parked([serving.id], [HERE]) == [again]

    async def test_a_row_that_cannot_be_stored_leaves_it_parked(self, desk: Desk) -> None:
        serving = await desk.instance()
        parked = self.parked(serving)
        await desk.write(note(1), parking=(parked,))
        rows = Rows()
        rows.add([note(2**40)])
        with pytest.raises(Unwritable):
            await desk.models.unpark(parked, Position(1), rows, None)
        assert await desk.models.parked([serving.id], [HERE]) == [parked]


class TestInstances:
    async def test_registering_again_changes_nothing(self, desk: Desk) -> None:
        before = await desk.models.instances()
        await asyncio.gather(*[desk.models.register([SHAPE]) for _ in range(4)])
        assert await desk.models.instances() == before

    async def test_a_new_version_is_built_beside_and_serves_when_it_is_there(self, desk: Desk) -> None:
        old = await desk.instance()
        await desk.write(note(1, last="old"))
        await desk.write(note(1, last="old"))
        await desk.models.register([SHAPE, replace(SHAPE, version=2)])
        new = await desk.instance("building")
        assert (new.version, await desk.models.position(new.group, HERE)) == (2, 0)
        assert not await desk.models.switch(new.group), "it is behind"
        await desk.write(note(1, last="new"), instance=new)
        assert not await desk.models.switch(new.group), "it is behind still"
        assert (await desk.rows())[0]["last"] == "old"
        await desk.write(note(2, last="new"), instance=new)
        assert await desk.models.switch(new.group)
        assert not await desk.models.switch(new.group), "there is nothing to switch any more"
        assert [(i.id, i.status) for i in await desk.models.instances()] == [(old.id, "kept"), (new.id, "serving")]
        assert [row["last"] for row in await desk.rows()] == ["new", "new"]

    async def test_the_old_one_can_serve_again_unless_it_is_behind(self, desk: Desk) -> None:
        with pytest.raises(NotRebuildable):
            await desk.models.roll_back("notes")
        old = await desk.instance()
        await desk.write(note(1, last="old"))
        group = await desk.models.rebuild([SHAPE])
        new = await desk.instance("building")
        assert new.group == group
        await desk.write(note(1, last="new"), instance=new)
        assert await desk.models.switch(group)
        await desk.write(note(2, last="new"))
        with pytest.raises(NotRebuildable):
            await desk.models.roll_back("notes")
        await desk.write(note(2, last="old"), instance=old)
        assert (await desk.models.roll_back("notes")).id == old.id
        assert [row["last"] for row in await desk.rows()] == ["old", "old"]

    async def test_one_is_built_at_a_time_and_what_does_not_serve_can_be_dropped(self, desk: Desk) -> None:
        group = await desk.models.rebuild([SHAPE], throttle=100)
        with pytest.raises(NotRebuildable):
            await desk.models.rebuild([SHAPE])
        assert (await desk.group(await desk.instance("building"))).throttle == 100
        with pytest.raises(NotRebuildable):
            await desk.models.drop((await desk.instance()).id)
        await desk.models.drop((await desk.instance("building")).id)
        assert group not in {one.id for one in await desk.models.groups()}
        await desk.models.rebuild([SHAPE])

    async def test_while_a_line_pauses_it_writes_nothing(self, desk: Desk) -> None:
        await desk.models.rebuild([SHAPE])
        group = [(await desk.instance()).group]
        await desk.models.pause(group, 30)
        assert not await desk.write(note(1))
        assert await desk.write(note(1), instance=await desk.instance("building"))
        await desk.models.pause(group, 0)
        await asyncio.sleep(0.01)
        assert await desk.write(note(1))

    async def test_an_instance_that_is_not_known_here_goes_on_by_itself(self, desk: Desk) -> None:
        other = Shape("others", 1, (replace_name(TAGS, "others"),))
        await desk.write(note(1))
        shared = await desk.models.rebuild([SHAPE, other])
        await desk.models.register([other])
        building = {i.projection: i.group for i in await desk.models.instances() if i.status == "building"}
        assert building["others"] == shared
        assert building["notes"] != shared

    async def test_who_did_not_hear_that_an_instance_has_left_its_line_writes_nothing(self, desk: Desk) -> None:
        other = Shape("others", 1, (replace_name(TAGS, "others"),))
        await desk.models.rebuild([SHAPE, other])
        building = {i.projection: i for i in await desk.models.instances() if i.status == "building"}
        batch = await desk.batch(note(1, added=1), instance=building["notes"])
        batch = replace(batch, rows={**batch.rows, building["others"].id: Rows()})
        await desk.models.register([other])
        assert not await desk.models.commit(batch), "notes has a group of its own now, and would be written twice"
        assert await desk.models.commit(replace(batch, rows={building["others"].id: Rows()}))

    async def test_a_version_that_is_being_built_gives_way_to_another_one(self, desk: Desk) -> None:
        await desk.models.rebuild([SHAPE])
        for version in (2, 3):
            await desk.models.register([replace(SHAPE, version=version)])
            there = [(i.version, i.status) for i in await desk.models.instances()]
            assert there == [(1, "serving"), (version, "building")]

    async def test_one_that_serves_is_forgotten_only_if_that_is_said(self, desk: Desk) -> None:
        serving = await desk.instance()
        await desk.write(note(1))
        with pytest.raises(NotRebuildable):
            await desk.models.drop(serving.id)
        await desk.models.drop(serving.id, serving=True)
        assert await desk.models.instances() == []
        assert await desk.rows() == []


class TestQueries:
    @pytest.fixture
    async def full(self, desk: Desk) -> Desk:
        await desk.write(
            *[
                note(
                    n,
                    last=f"{'even' if n % 2 == 0 else 'odd'} {n}",
                    added=n,
                    greatest=n % 3,
                    words=f"The quick note {n}",
                    who=UUID(int=n),
                    since=NOON + timedelta(minutes=n),
                    until=NOON + timedelta(minutes=n + 3) if n < 8 else None,
                )
                for n in range(1, 11)
            ],
            (TAGS, TAGS.row(id=2, tag="red")),
            (TAGS, TAGS.row(id=5, tag="red")),
            (TAGS, TAGS.row(id=5, tag="blue")),
        )
        return desk

    async def test_pages_go_on_after_the_last_row_in_either_order(self, full: Desk) -> None:
        order = ("greatest", "id")
        up = await full.rows(order=order, limit=4)
        assert [(row["greatest"], row["id"]) for row in up] == [(0, 3), (0, 6), (0, 9), (1, 1)]
        assert await full.ids(order=order, after=(1, 1), limit=3) == [4, 7, 10]
        assert await full.ids(order=order, descending=True, after=(1, 4), limit=3) == [1, 9, 6]

    async def test_conditions(self, full: Desk) -> None:
        assert await full.ids(Where("id", ">", 3), Where("id", "<=", 5)) == [4, 5]
        assert await full.ids(Where("id", "in", [1, 2, 99])) == [1, 2]
        assert await full.ids(Where("last", "begins", "even")) == [2, 4, 6, 8, 10]
        assert await full.ids(Where("last", "begins", "%")) == []
        assert await full.ids(Where("who", "=", UUID(int=3))) == [3]
        assert await full.ids(Where("words", "matches", exact_search("note 7"))) == [7]
        assert await full.ids(Where("words", "matches", exact_search("nothing"))) == []
        assert await full.ids(Where("words", "matches", exact_search("7 note"))) == [7]
        assert await full.ids(Where("words", "matches", exact_search("-note 7"))) == [7], "a dash takes nothing away"
        assert await full.ids(Where("words", "matches", exact_search("-marmalade"))) == []
        assert await full.ids(Where("words", "matches", exact_search("note or marmalade"))) == []
        assert await full.ids(Where("words", "matches", exact_search('"7 note'))) == [7], (
            "nor do quotes ask for an order"
        )
        assert await full.ids(Where("greatest", "!=", 0), Where("id", ">=", 7)) == [7, 8, 10]

    async def test_a_search_is_for_all_groups_any_row_and_all_words(self, full: Desk) -> None:
        assert await full.ids(Where("words", "matches", ((("7",), ("8",)), (("note",),)))) == [7, 8]
        assert await full.ids(Where("words", "matches", ((("note", "7"), ("nothing",)),))) == [7]
        assert await full.ids(Where("words", "matches", ((("not",),),))) == [], "words are whole"

    async def test_what_was_so_at_an_instant(self, full: Desk) -> None:
        at = NOON + timedelta(minutes=6)
        assert await full.ids(Spanning("since", "until", at)) == [4, 5, 6]
        assert await full.ids(Spanning("since", "until", NOON + timedelta(days=1))) == [8, 9, 10]

    async def test_rows_that_another_table_agrees_with(self, full: Desk) -> None:
        assert await full.ids(Among(("id",), TAGS, (Where("tag", "=", "red"),))) == [2, 5]

    async def test_sums_by_group_and_by_width_of_time(self, full: Desk) -> None:
        sums = await full.models.aggregate(Aggregate(NOTES, ("added",), group_by=("greatest",)))
        assert [tuple(row) for row in sums] == [(0, 18), (1, 22), (2, 15)]
        assert [tuple(row) for row in await full.models.aggregate(Aggregate(NOTES, ("added", "id")))] == [(55, 55)]
        most = await full.models.aggregate(
            Aggregate(NOTES, ("added",), group_by=("greatest",), most=("added",), limit=2)
        )
        assert [tuple(row) for row in most] == [(1, 22), (0, 18)]
        hourly = Aggregate(NOTES, ("added",), (Where("id", "<", 3),), bucket="hour", at="least")
        hour = NOON.replace(minute=0, second=0, microsecond=0)
        assert [tuple(row) for row in await full.models.aggregate(hourly)] == [(hour, 3)]
        weekly = await full.models.aggregate(replace(hourly, bucket="week"))
        assert weekly[0][0] == datetime(2026, 11, 23, tzinfo=UTC)
        monthly = await full.models.aggregate(replace(hourly, bucket="month"))
        assert monthly[0][0] == datetime(2026, 11, 1, tzinfo=UTC)

    async def test_a_sum_may_be_larger_than_any_of_its_numbers(self, desk: Desk) -> None:
        largest = 2**63 - 1
        await desk.write(note(1, added=largest), note(2, added=largest), note(3, added=-largest, greatest=1))
        (row,) = await desk.models.aggregate(Aggregate(NOTES, ("added", "id"), (Where("id", "<", 3),)))
        assert [(type(value), value) for value in row] == [(int, 2 * largest), (int, 3)]
        most = await desk.models.aggregate(Aggregate(NOTES, ("added",), group_by=("greatest",), most=("added",)))
        assert [tuple(row) for row in most] == [(0, 2 * largest), (1, -largest)]

    async def test_counts_by_value_are_gathered_by_group(self, full: Desk) -> None:
        spread = Histogram(NOTES, "greatest", "added", (Where("id", "<", 6),), bucket="day", at="least")
        (row,) = await full.models.histogram(spread)
        assert row == (datetime(2026, 11, 23, tzinfo=UTC), {0: 3, 1: 5, 2: 7})
        by_group = await full.models.histogram(Histogram(NOTES, "id", "added", group_by=("greatest",)))
        assert [(row[0], sorted(row[1])) for row in by_group] == [(0, [3, 6, 9]), (1, [1, 4, 7, 10]), (2, [2, 5, 8])]
        nobody = replace(spread, where=(Where("id", "<", 0),))
        assert list(await full.models.histogram(nobody)) == []
        assert list(await full.models.histogram(replace(nobody, bucket=None))) == []

    async def test_a_table_that_nobody_fills_is_empty(self, full: Desk) -> None:
        nothing = replace_name(TAGS, "nothing")
        assert list(await full.models.select(Select(nothing, order=("id",)))) == []
