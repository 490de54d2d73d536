"""Every change that a superuser makes to events is found by verification, and by an independent check of proofs."""

import random
import runpy
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from api.runtime.stores import SystemClock
from api.schemas.seals import proof_view
from domain.application.audit.check_seals import check_seals
from domain.application.audit.proofs import prove, verify_proof
from domain.application.audit.verify import verify_heads, verify_slices
from domain.errors import CorruptLog, UnknownEvent
from domain.ids import DEFAULT_TENANT, CommandId, Slice, ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Head, chain_records
from domain.ports.log import Append, EventStore
from domain.thread.codec import Metadata, encode
from domain.thread.events import Event, StateUpdated, ThreadForked, ThreadOpened
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.seals import PostgresSealStore
from tests.streams import NOON, new_thread, threads_of
from tests.support.seals import SCRIPT, VERIFIER, a_signer, sealer

check_outside: Callable[..., str] = runpy.run_path(str(SCRIPT))["check"]
VERIFY_SQL = (SCRIPT.parent / "verify.sql").read_text()
WHY = Metadata(causation=CommandId(UUID(int=7)), correlation="ticket-7", actor="somebody")
SEED = 20261124


@dataclass
class SealedLog:
    """Two threads of one slice and a fork in another, sealed."""

    owner: asyncpg.Connection
    events: PostgresEventStore
    seals: PostgresSealStore
    thread: ThreadId
    neighbour: ThreadId
    fork: ThreadId

    @property
    def slices(self) -> Sequence[Slice]:
        return sorted({slice_of(self.thread), slice_of(self.fork)})

    async def problems(self) -> Sequence[str]:
        log = await verify_slices(self.events, self.slices)
        heads = await verify_heads(self.events, self.slices)
        return [*log.problems, *heads.problems, *await self.seal_problems()]

    async def seal_problems(self) -> Sequence[str]:
        return (await check_seals(self.events, self.seals, VERIFIER)).problems

    async def proved(self, thread_id: ThreadId, version: int) -> bool:
        """Prove an event in a new process; say what outsiders find, who must agree with us."""
        try:
            proof = await prove(self.events, sealer(self.events, self.seals, SystemClock()), thread_id, version)
        except (CorruptLog, UnknownEvent):
            return False
        document = msgspec.to_builtins(proof_view(proof))
        try:
            check_outside(document, None)
        except Exception:  # noqa: BLE001  (the script says no by any exception)
            assert not verify_proof(proof, VERIFIER)
            return False
        assert verify_proof(proof, VERIFIER)
        return True

    async def tamper(self, *statements: tuple[str, Sequence[Any]]) -> None:
        async with self.owner.transaction():
            await self.owner.execute("ALTER TABLE events DISABLE TRIGGER append_only")
            for statement, arguments in statements:
                await self.owner.execute(statement, *arguments)
            await self.owner.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER append_only")


async def store(events: EventStore, thread_id: ThreadId, after: Head, *what: Event, forked: bool = False) -> Head:
    records, head = chain_records(DEFAULT_TENANT, thread_id, after, [encode(event, WHY) for event in what], NOON)
    await events.append(Append(DEFAULT_TENANT, thread_id, after, head, records, in_turn=False, forked=forked))
    return head


@pytest.fixture
async def log(pool: asyncpg.Pool, owner: asyncpg.Connection) -> AsyncIterator[SealedLog]:
    events, seals = PostgresEventStore(pool), PostgresSealStore(pool)
    thread = new_thread()
    slice_ = slice_of(thread)
    neighbour = next(threads_of(slice_))
    fork = next(thread_id for _ in range(99) if slice_of(thread_id := new_thread()) != slice_)
    changes = [StateUpdated({"text": "naïve 👍", "n": n}) for n in range(5)]
    head = await store(events, thread, EMPTY_HEAD, ThreadOpened("assistant"), *changes[:2])
    await store(events, neighbour, EMPTY_HEAD, ThreadOpened("assistant"), *changes)
    await store(events, fork, head, ThreadForked(thread, head.version), *changes[:1], forked=True)
    await store(events, thread, head, *changes[2:])
    await sealer(events, seals, SystemClock(), a_signer()).make()
    yield SealedLog(owner, events, seals, thread, neighbour, fork)
    await events.close()


async def test_an_untouched_log_has_no_problem_and_all_its_events_are_proved(log: SealedLog) -> None:
    assert await log.problems() == []
    for thread_id, versions in ((log.thread, 6), (log.neighbour, 6), (log.fork, 5)):
        assert all([await log.proved(thread_id, version) for version in range(1, versions + 1)])


# --- single bytes


def text_byte(chance: random.Random, value: str) -> str:
    raw = bytearray(value.encode())
    raw[chance.randrange(len(raw))] = chance.randrange(1, 256)
    return raw.decode()  # or UnicodeDecodeError: the database would not take it


def raw_byte(chance: random.Random, value: bytes) -> bytes:
    at = chance.randrange(len(value))
    return value[:at] + bytes([value[at] ^ chance.randrange(1, 256)]) + value[at + 1 :]


def number_byte(size: int) -> Callable[[random.Random, int], int]:
    def change(chance: random.Random, value: int) -> int:
        return int.from_bytes(raw_byte(chance, value.to_bytes(size, "big", signed=True)), "big", signed=True)

    return change


BYTES: dict[str, tuple[str, str, Callable[[random.Random, Any], Any]]] = {
    "type": ("type", "$1", text_byte),
    "tenant": ("tenant", "$1", text_byte),
    "payload": ("payload::text", "$1::text::json", text_byte),
    "metadata": ("metadata::text", "$1::text::json", text_byte),
    "causation": ("uuid_send(causation)", "encode($1::bytea, 'hex')::uuid", raw_byte),
    "hash": ("hash", "$1", raw_byte),
    "thread_id": ("uuid_send(thread_id)", "encode($1::bytea, 'hex')::uuid", raw_byte),
    "slice": ("slice", "$1", number_byte(2)),
    "schema": ("schema", "$1", number_byte(2)),
    "version": ("version", "$1", number_byte(4)),
    "position": ("position", "$1", number_byte(8)),
    "recorded_at": (
        "(extract(epoch FROM recorded_at) * 1000000)::bigint",
        "'1970-01-01Z'::timestamptz + $1::bigint * interval '1 microsecond'",
        number_byte(8),
    ),
}
"""Of each column: what it is read as, how it is written, and how one of its bytes is changed."""

REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeDecodeError)
"""What the database does not take at all."""


@pytest.mark.parametrize("column", BYTES)
async def test_a_change_of_any_single_byte_is_found(log: SealedLog, column: str) -> None:
    chance = random.Random(f"{SEED} {column}")
    read, written, change = BYTES[column]
    await log.owner.execute("CREATE TABLE kept AS SELECT * FROM events")
    ids = await log.owner.fetch("SELECT slice, position, thread_id, version FROM events ORDER BY slice, position")
    effective = 0
    for _ in range(2_000):
        if effective == 12:
            break
        row = chance.choice(ids)
        place = (row["slice"], row["position"])
        before = await log.owner.fetchval(f"SELECT {read} FROM events WHERE slice = $1 AND position = $2", *place)
        try:
            after = change(chance, before)
            update = f"UPDATE events SET {column} = {written} WHERE slice = $2 AND position = $3"
            await log.tamper((update, (after, *place)))
        except REFUSED:
            continue
        if after == before:
            continue
        effective += 1
        told = f"{column}: {before!r} became {after!r}"
        assert await log.problems(), told
        assert not await log.proved(row["thread_id"], row["version"]), told
        await log.tamper(("DELETE FROM events", ()), ("INSERT INTO events SELECT * FROM kept", ()))
    assert effective == 12
    assert await log.problems() == []


# --- events removed and reordered


async def test_a_thread_without_its_last_event_is_found(log: SealedLog) -> None:
    await log.tamper(("DELETE FROM events WHERE thread_id = $1 AND version = 6", (log.thread,)))

    problems = await log.problems()

    assert f"{log.thread}: versions 6 to 6 are missing" in problems
    assert await log.seal_problems()
    assert not await log.proved(log.thread, 6)
    assert not await log.proved(log.thread, 5)


MEND = (
    """UPDATE threads AS t SET version = e.version, hash = e.hash, at = e.recorded_at
         FROM events AS e
        WHERE e.slice = t.slice AND e.thread_id = t.thread_id AND t.thread_id = $1 AND e.version = 5""",
    "UPDATE slices SET head = (SELECT max(position) FROM events WHERE slice = $1) WHERE slice = $1",
)


async def test_heads_that_were_mended_to_hide_that_do_not_hide_it_from_the_seal(log: SealedLog) -> None:
    own = slice_of(log.thread)
    await log.tamper(
        ("DELETE FROM events WHERE thread_id = $1 AND version = 6", (log.thread,)),
        (MEND[0], (log.thread,)),
        (MEND[1], (own,)),
    )

    assert (await verify_slices(log.events, log.slices)).problems == ()
    assert (await verify_heads(log.events, log.slices)).problems == ()
    (problem,) = await log.problems()
    assert problem == f"Seal 1 covers 12 events of slice {own}. Slice {own}: positions 12 to 12 are missing"
    assert not await log.proved(log.thread, 6)
    with pytest.raises(CorruptLog):
        await sealer(log.events, log.seals, SystemClock()).make(new_key=True)


async def test_an_event_that_was_put_in_the_place_of_the_last_is_found_by_the_seal(log: SealedLog) -> None:
    own = slice_of(log.thread)
    await log.tamper(
        ("DELETE FROM events WHERE thread_id = $1 AND version = 6", (log.thread,)),
        (MEND[0], (log.thread,)),
        (MEND[1], (own,)),
    )
    row = await log.events.thread(log.thread)
    assert row is not None
    await store(log.events, log.thread, row.head, StateUpdated({"n": 99}))

    assert (await verify_slices(log.events, log.slices)).problems == ()
    (problem,) = await log.problems()
    assert "the root of the 14 events that it covers is not the signed one" in problem
    assert not await log.proved(log.thread, 6)


async def test_a_thread_that_was_removed_with_its_head_is_found_by_the_seal(log: SealedLog) -> None:
    await log.tamper(
        ("DELETE FROM events WHERE thread_id = $1", (log.fork,)),
        ("DELETE FROM threads WHERE thread_id = $1", (log.fork,)),
        ("UPDATE slices SET head = 0 WHERE slice = $1", (slice_of(log.fork),)),
    )

    assert (await verify_slices(log.events, log.slices)).problems == ()
    assert len(await log.problems()) == 1
    assert not await log.proved(log.thread, 1)


async def test_a_thread_of_any_tenant_whose_events_are_gone_is_found_by_its_head(log: SealedLog) -> None:
    await log.tamper(
        ("UPDATE threads SET tenant = 'other' WHERE thread_id = $1", (log.fork,)),
        ("DELETE FROM events WHERE thread_id = $1", (log.fork,)),
    )

    found = (await verify_heads(log.events, log.slices)).problems
    assert found == (f"{log.fork}: versions 4 to 5 are missing",)


def swap(column: str) -> Sequence[str]:
    """Exchange a column of two events, around the unique indexes."""
    where = "WHERE thread_id = $1 AND version = $2"
    by_position = "WHERE slice = $1 AND position = $2"
    at = where if column == "position" else by_position
    return (f"UPDATE events SET {column} = -{column} {at}", f"UPDATE events SET {column} = $3 {at}")


async def test_two_versions_that_were_exchanged_are_found(log: SealedLog) -> None:
    own = slice_of(log.thread)
    rows = await log.events.read_slice(own, 0, 99)  # type: ignore[arg-type]
    one, other = [record for record in rows if record.thread_id == log.thread][2:4]
    away, back = swap("version")
    await log.tamper(
        (away, (own, one.position)),
        (back, (own, other.position, one.version)),
        (back, (own, one.position, other.version)),
    )

    assert any("version" in problem for problem in await log.problems())
    assert not await log.proved(log.thread, one.version)
    assert not await log.proved(log.thread, other.version)


@pytest.mark.parametrize("same_thread", [True, False])
async def test_two_positions_that_were_exchanged_are_found(log: SealedLog, *, same_thread: bool) -> None:
    partner = log.thread if same_thread else log.neighbour
    one = (await log.events.read(log.thread, 0))[2]  # type: ignore[arg-type]
    other = (await log.events.read(partner, 0))[3]  # type: ignore[arg-type]
    away, back = swap("position")
    await log.tamper(
        (away, (log.thread, one.version)),
        (back, (partner, other.version, one.position)),
        (back, (log.thread, one.version, other.position)),
    )

    assert await log.problems()
    assert await log.seal_problems()
    assert not await log.proved(log.thread, one.version)
    assert not await log.proved(partner, other.version)


# --- columns of threads that are read without their events


@pytest.mark.parametrize(
    "change",
    ["tenant = 'evil'", "base = 3", "opened_at = opened_at - interval '1 day'", "at = '2999-01-01T00:00:00Z'"],
)
async def test_a_thread_s_row_that_says_otherwise_than_its_events_is_found(log: SealedLog, change: str) -> None:
    await log.tamper((f"UPDATE threads SET {change} WHERE thread_id = $1", [log.thread]))

    (problem,) = await log.problems()
    assert problem.startswith(f"{log.thread}: the thread's {change.split(maxsplit=1)[0]} is ")
    assert [row["thread_id"] for row in await log.owner.fetch(VERIFY_SQL)] == [log.thread]


async def test_events_that_were_copied_into_another_slice_are_found(log: SealedLog) -> None:
    there = slice_of(log.fork)
    head = await log.owner.fetchval("SELECT head FROM slices WHERE slice = $1", there)
    copied = """
        INSERT INTO events
               (slice, thread_id, version, position, tenant, type, schema, payload, metadata, causation, recorded_at,
                hash)
        SELECT $2, thread_id, version, $3 + version, tenant, type, schema, payload, metadata, causation, recorded_at,
               hash
          FROM events WHERE thread_id = $1
    """
    moved = "UPDATE slices SET head = head + 6 WHERE slice = $1"
    await log.tamper((copied, [log.thread, there, head]), (moved, [there]))

    assert f"{log.thread}: an event of this thread is in slice {there}, which is not its own" in await log.problems()
    assert log.thread in {row["thread_id"] for row in await log.owner.fetch(VERIFY_SQL)}
