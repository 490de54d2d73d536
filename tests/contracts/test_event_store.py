"""What every event store does."""

import asyncio
import contextlib
import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.errors import VersionConflict
from domain.ids import Position, Slice, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, GENESIS, Draft, Head, Record, chain_records, check_chain
from domain.ports.log import Append, EventStore, ThreadRow
from tests.streams import ACME, NOON, SECOND, a_command, appending, new_thread, numbered, threads_of
from tests.support.examples import examples

OTHER = Tenant("other")
START = Version(0)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8)

COMMANDS = st.uuids(allow_nil=True).flatmap(
    lambda command: st.sampled_from([str(command), command.hex, str(command).upper()])
)
METADATA = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(
            [
                *('{"causation":"', '{ "causation":"', '{"causation": "', '{"a":1,"causation":"'),
                *('{"command":"', '{ "command":"', '{"command":null,"causation":"', '{"command":"","command":"'),
            ]
        ),
        COMMANDS,
        st.sampled_from(
            [
                *('"}', '"} ', '" }', '","correlation":"é"}', '", "client":""}'),
                *('","causation":null} ', '","command":null}', '","command":null,"a":""}'),
            ]
        ),
    ),
)
"""Texts that are, or nearly are, what most events have."""


async def everything(store: EventStore, thread_id: ThreadId) -> list[Record]:
    return list(await store.read(thread_id, START))


class TestAppend:
    async def test_what_was_appended_is_read_back_as_it_was(self, event_store: EventStore) -> None:
        append = appending(new_thread(), EMPTY_HEAD, *numbered(3))

        first = await event_store.append(append)

        expected = [replace(r, position=Position(first + i)) for i, r in enumerate(append.records)]
        assert await everything(event_store, append.thread_id) == expected

    async def test_a_thread_that_nobody_opened_is_empty(self, event_store: EventStore) -> None:
        thread_id = new_thread()

        assert await everything(event_store, thread_id) == []
        assert await event_store.thread(thread_id) is None

    async def test_the_head_moves_with_each_append(self, event_store: EventStore) -> None:
        thread_id = new_thread()
        opened = appending(thread_id, EMPTY_HEAD, "{}", "{}", in_turn=True)
        await event_store.append(opened)
        assert await event_store.thread(thread_id) == ThreadRow(ACME, thread_id, opened.head, NOON, in_turn=True)

        moved = appending(thread_id, opened.head, "{}", at=NOON + SECOND)
        await event_store.append(moved)
        assert await event_store.thread(thread_id) == ThreadRow(ACME, thread_id, moved.head, NOON, in_turn=False)

    @pytest.mark.parametrize(
        "expected",
        [
            pytest.param(EMPTY_HEAD, id="it is not new"),
            pytest.param(Head(Version(1), bytes([1]) * 32, NOON), id="too low"),
            pytest.param(Head(Version(3), bytes([1]) * 32, NOON), id="too high"),
            pytest.param(Head(Version(2), bytes([1]) * 32, NOON), id="another history"),
        ],
    )
    async def test_another_head_than_the_expected_one_is_a_conflict(
        self, event_store: EventStore, expected: Head
    ) -> None:
        thread_id = new_thread()
        opened = appending(thread_id, EMPTY_HEAD, "{}", "{}")
        await event_store.append(opened)
        before = await event_store.thread(thread_id)
        command = a_command()

        with pytest.raises(VersionConflict) as conflict:
            await event_store.append(appending(thread_id, expected, "{}", in_turn=True, command=command))

        assert (conflict.value.expected, conflict.value.actual) == (expected.version, 2)
        assert [record.version for record in await everything(event_store, thread_id)] == [1, 2]
        assert await event_store.thread(thread_id) == before
        assert await event_store.command(thread_id, command.id) is None

    @pytest.mark.parametrize("expected", [Head(Version(1), GENESIS, NOON), Head(Version(0), b"x" * 32, NOON)])
    async def test_a_thread_that_is_not_there_has_no_such_head(self, event_store: EventStore, expected: Head) -> None:
        thread_id = new_thread()

        with pytest.raises(VersionConflict) as conflict:
            await event_store.append(appending(thread_id, expected, "{}"))

        assert conflict.value.actual == 0
        assert await event_store.thread(thread_id) is None

    async def test_a_thread_stays_with_its_tenant(self, event_store: EventStore) -> None:
        opened = appending(new_thread(), EMPTY_HEAD, "{}")
        await event_store.append(opened)

        with pytest.raises(VersionConflict):
            await event_store.append(appending(opened.thread_id, opened.head, "{}", tenant=OTHER))

        assert len(await everything(event_store, opened.thread_id)) == 1

    async def test_of_a_hundred_racing_appends_exactly_one_succeeds(self, event_store: EventStore) -> None:
        thread_id = new_thread()
        head = EMPTY_HEAD
        for _ in range(3):  # the first race is about opening the thread
            racing = [appending(thread_id, head, f'{{"racer": {n}}}', "{}") for n in range(100)]
            outcomes = await asyncio.gather(*map(event_store.append, racing), return_exceptions=True)

            won = [append for append, outcome in zip(racing, outcomes, strict=True) if isinstance(outcome, int)]
            assert len(won) == 1
            assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes) == 99
            stored = await everything(event_store, thread_id)
            assert [r.hash for r in stored[-2:]] == [r.hash for r in won[0].records]
            head = won[0].head
        assert check_chain(await everything(event_store, thread_id), EMPTY_HEAD) == head

    async def test_identical_appends_that_race_do_not_all_succeed(self, event_store: EventStore) -> None:
        append = appending(new_thread(), EMPTY_HEAD, "{}")

        outcomes = await asyncio.gather(*(event_store.append(append) for _ in range(10)), return_exceptions=True)

        assert sum(isinstance(outcome, int) for outcome in outcomes) == 1


class TestPayload:
    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            "[]",
            "null",
            '"naïve \\u0041 日本語 👩‍👩‍👧 \U0010ffff"',
            '{"b": 1, "a": 2, "b": 3}',
            '{ "spaces" :  [1,2 , 3] }',
            "1.0",
            "1e400",
            "-0.0",
            "18446744073709551615",
            '{"": ""}',
            '"\\ud83d\\ude00 \\/ \\\\ \\""',
            '"' + "x" * 100_000 + '"',
            "[" * 64 + "]" * 64,
        ],
    )
    async def test_any_json_is_kept_byte_for_byte(self, event_store: EventStore, text: str) -> None:
        append = appending(new_thread(), EMPTY_HEAD, text)

        await event_store.append(append)

        [record] = await everything(event_store, append.thread_id)
        assert record.payload == text
        assert check_chain([record], EMPTY_HEAD) == append.head

    @given(values=st.lists(VALUES, min_size=1, max_size=4), ascii_only=st.booleans())
    @settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    async def test_whatever_is_stored_verifies(
        self, event_store: EventStore, values: list[object], *, ascii_only: bool
    ) -> None:
        texts = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
        thread_id = new_thread()
        records, head = chain_records(
            ACME, thread_id, EMPTY_HEAD, [Draft("Ereignis·ß", n, t, t) for n, t in enumerate(texts)], NOON
        )

        await event_store.append(Append(ACME, thread_id, EMPTY_HEAD, head, records, in_turn=False))

        stored = await everything(event_store, thread_id)
        assert [record.payload for record in stored] == texts
        assert check_chain(stored, EMPTY_HEAD) == head

    @given(texts=st.lists(METADATA, min_size=1, max_size=9))
    @settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    async def test_metadata_come_back_as_they_were_written(self, event_store: EventStore, texts: list[str]) -> None:
        thread_id = new_thread()
        records, head = chain_records(ACME, thread_id, EMPTY_HEAD, [Draft("T", 1, "{}", text) for text in texts], NOON)

        first = await event_store.append(Append(ACME, thread_id, EMPTY_HEAD, head, records, in_turn=False))

        assert [record.metadata for record in await everything(event_store, thread_id)] == texts
        found = await event_store.read_slice(slice_of(thread_id), Position(first - 1), 9)
        assert [record.metadata for record in found] == texts


class TestCommand:
    async def test_a_command_is_stored_with_its_events(self, event_store: EventStore) -> None:
        command = a_command('{"ünï": "👍"}')
        append = appending(new_thread(), EMPTY_HEAD, "{}", command=command)

        await event_store.append(append)

        assert await event_store.command(append.thread_id, command.id) == command

    async def test_an_unknown_command_is_none(self, event_store: EventStore) -> None:
        assert await event_store.command(new_thread(), a_command().id) is None

    async def test_a_repeated_command_stores_nothing(self, event_store: EventStore) -> None:
        opened = appending(new_thread(), EMPTY_HEAD, "{}", command=a_command("1"))
        await event_store.append(opened)
        again = replace(a_command("2"), id=opened.command.id if opened.command else uuid.uuid4())

        with pytest.raises(VersionConflict):
            await event_store.append(appending(opened.thread_id, opened.head, "{}", command=again))

        assert len(await everything(event_store, opened.thread_id)) == 1
        assert await event_store.command(opened.thread_id, again.id) == opened.command

    async def test_a_command_without_events_moves_nothing(self, event_store: EventStore) -> None:
        opened = appending(new_thread(), EMPTY_HEAD, "{}")
        await event_store.append(opened)
        command = a_command()

        position = await event_store.append(appending(opened.thread_id, opened.head, command=command))

        thread = await event_store.thread(opened.thread_id)
        assert position == 0
        assert thread is not None
        assert (thread.head.version, thread.head.hash) == (1, opened.head.hash)
        assert await event_store.command(opened.thread_id, command.id) == command

        following = appending(opened.thread_id, opened.head, "{}")
        assert await event_store.append(following) == 2

    async def test_a_command_without_events_needs_the_expected_head(self, event_store: EventStore) -> None:
        opened = appending(new_thread(), EMPTY_HEAD, "{}")
        await event_store.append(opened)
        command = a_command()

        for wrong in (EMPTY_HEAD, replace(opened.head, hash=GENESIS)):
            with pytest.raises(VersionConflict):
                await event_store.append(appending(opened.thread_id, wrong, command=command))

        assert await event_store.command(opened.thread_id, command.id) is None

    async def test_a_command_cannot_come_before_its_thread(self, event_store: EventStore) -> None:
        append = appending(new_thread(), EMPTY_HEAD, command=a_command())

        with pytest.raises(VersionConflict):
            await event_store.append(append)

        assert await event_store.thread(append.thread_id) is None

    @pytest.mark.parametrize("payloads", [("{}",), ()], ids=["with events", "without events"])
    async def test_of_a_command_that_comes_many_times_at_once_one_is_stored(
        self, event_store: EventStore, payloads: tuple[str, ...]
    ) -> None:
        opened = appending(new_thread(), EMPTY_HEAD, "{}")
        await event_store.append(opened)
        command = a_command()
        racing = [appending(opened.thread_id, opened.head, *payloads, command=command) for _ in range(50)]

        outcomes = await asyncio.gather(*map(event_store.append, racing), return_exceptions=True)

        assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes) == 49
        assert len(await everything(event_store, opened.thread_id)) == 1 + len(payloads)


class TestSlice:
    async def test_positions_have_no_gaps_over_many_threads(self, event_store: EventStore) -> None:
        slice_ = Slice(7)
        threads = [thread_id for thread_id, _ in zip(threads_of(slice_), range(20), strict=False)]
        firsts = await asyncio.gather(
            *(event_store.append(appending(t, EMPTY_HEAD, *numbered(1 + n % 3))) for n, t in enumerate(threads))
        )
        for thread_id in threads[:5]:  # a refused append leaves no gap
            with contextlib.suppress(VersionConflict):
                await event_store.append(appending(thread_id, EMPTY_HEAD, "{}"))
        await event_store.append(appending(next(threads_of(slice_)), EMPTY_HEAD, "{}"))

        records = await event_store.read_slice(slice_, Position(0), 1000)

        assert [record.position for record in records] == list(range(1, sum(1 + n % 3 for n in range(20)) + 2))
        for first, thread_id in zip(firsts, threads, strict=True):
            own = [r.position for r in records if r.thread_id == thread_id]
            assert own == list(range(first, first + len(own)))

    async def test_each_slice_counts_for_itself(self, event_store: EventStore) -> None:
        for slice_ in (Slice(0), Slice(1023)):
            assert await event_store.append(appending(next(threads_of(slice_)), EMPTY_HEAD, "{}")) == 1

    async def test_a_slices_head_is_its_last_position(self, event_store: EventStore) -> None:
        thread_id = new_thread()
        slice_ = slice_of(thread_id)
        assert await event_store.slice_head(slice_) == 0
        await event_store.append(appending(thread_id, EMPTY_HEAD, *numbered(3)))
        assert await event_store.slice_head(slice_) == 3

    async def test_a_slice_is_read_in_pages(self, event_store: EventStore) -> None:
        append = appending(new_thread(), EMPTY_HEAD, *numbered(5))
        await event_store.append(append)
        slice_ = slice_of(append.thread_id)

        assert [r.position for r in await event_store.read_slice(slice_, Position(0), 2)] == [1, 2]
        assert [r.position for r in await event_store.read_slice(slice_, Position(2), 2)] == [3, 4]
        assert [r.position for r in await event_store.read_slice(slice_, Position(4), 2)] == [5]
        assert list(await event_store.read_slice(slice_, Position(5), 2)) == []

    @pytest.mark.parametrize("limit", [1, 2, 9])
    async def test_of_each_slice_so_many_are_read(self, event_store: EventStore, limit: int) -> None:
        slices = [Slice(3), Slice(8)]
        for slice_ in slices:
            for thread_id in islice(threads_of(slice_), 3):
                await event_store.append(appending(thread_id, EMPTY_HEAD, *numbered(2)))

        found = await event_store.read_after({Slice(3): Position(0), Slice(8): Position(2)}, limit)

        read = [(slice_of(record.thread_id), record.position) for record in found]
        upto = [(3, n) for n in range(1, min(limit, 6) + 1)] + [(8, n) for n in range(3, min(limit + 2, 6) + 1)]
        assert read == upto


class TestRead:
    @pytest.mark.parametrize(
        ("after", "upto", "limit", "versions"),
        [
            (0, None, None, [1, 2, 3, 4, 5]),
            (2, None, None, [3, 4, 5]),
            (5, None, None, []),
            (9, None, None, []),
            (0, 3, None, [1, 2, 3]),
            (1, 3, None, [2, 3]),
            (3, 3, None, []),
            (4, 2, None, []),
            (0, 0, None, []),
            (0, 9, None, [1, 2, 3, 4, 5]),
            (0, None, 2, [1, 2]),
            (2, 4, 1, [3]),
            (0, None, 0, []),
        ],
    )
    async def test_a_part_of_a_thread(
        self, event_store: EventStore, after: int, upto: int | None, limit: int | None, versions: list[int]
    ) -> None:
        append = appending(new_thread(), EMPTY_HEAD, *numbered(5))
        await event_store.append(append)

        until = None if upto is None else Version(upto)
        records = await event_store.read(append.thread_id, Version(after), until, limit)

        assert [record.version for record in records] == versions


class TestVersionAt:
    async def test_every_instant_has_its_version(self, event_store: EventStore) -> None:
        thread_id, head = new_thread(), EMPTY_HEAD
        for step, size in enumerate([1, 3, 1, 2]):  # at seconds 0, 10, 20 and 30; events of one append share a time
            append = appending(thread_id, head, *numbered(size), at=NOON + 10 * step * SECOND)
            await event_store.append(append)
            head = append.head

        tick = timedelta(microseconds=1)
        expected = {
            NOON - tick: 0,
            NOON: 1,
            NOON + 5 * SECOND: 1,
            NOON + 10 * SECOND - tick: 1,
            NOON + 10 * SECOND: 4,
            NOON + 20 * SECOND - tick: 4,
            NOON + 20 * SECOND: 5,
            NOON + 29 * SECOND: 5,
            NOON + 30 * SECOND: 7,
            NOON + timedelta(days=9999): 7,
            datetime(1, 1, 1, tzinfo=UTC): 0,
        }
        assert {at: await event_store.version_at(thread_id, at) for at in expected} == expected

    async def test_the_instant_may_be_given_in_any_time_zone(self, event_store: EventStore) -> None:
        append = appending(new_thread(), EMPTY_HEAD, "{}")
        await event_store.append(append)
        india = timezone(timedelta(hours=5, minutes=30))

        assert await event_store.version_at(append.thread_id, NOON.astimezone(india)) == 1

    async def test_a_thread_that_is_not_there_has_version_0_always(self, event_store: EventStore) -> None:
        assert await event_store.version_at(new_thread(), NOON) == 0
