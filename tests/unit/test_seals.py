"""A seal is made only if the log matches the last one; later changes of seals are found."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from msgspec.structs import replace

from domain.application.audit.check_seals import SealsChecked, check_seal, check_seals
from domain.application.audit.sealer import Sealer
from domain.application.background_tasks import BackgroundTasks
from domain.errors import CannotSeal, CorruptLog, StoreUnavailable
from domain.ids import ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Head
from domain.log.merkle import EMPTY_ROOT, slice_leaf
from domain.log.merkle import root_hash as root_of
from domain.log.seal import NO_PREVIOUS_SEAL, Seal, seal_digest, signed_text
from domain.ports.log import EventStore
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.seals import MemorySealStore
from infrastructure.signing import Ed25519Signer
from tests.streams import appending, new_thread
from tests.support.runtime import Clock
from tests.support.seals import VERIFIER, a_signer, sealer


@dataclass
class Desk:
    """A log with its seals and sealers."""

    events: MemoryEventStore = field(default_factory=MemoryEventStore)
    seals: MemorySealStore = field(default_factory=MemorySealStore)
    clock: Clock = field(default_factory=Clock)
    signer: Ed25519Signer = field(default_factory=a_signer)
    head: Head = EMPTY_HEAD
    thread_id: ThreadId = field(default_factory=new_thread)

    def __post_init__(self) -> None:
        self.sealer = self.another_process()

    def another_process(self, signer: Ed25519Signer | None = None) -> Sealer:
        return sealer(self.events, self.seals, self.clock, signer or self.signer)

    async def grow(self) -> None:
        append = appending(self.thread_id, self.head, "{}", at=self.clock.now())
        await self.events.append(append)
        self.head = append.head

    async def sealed(self) -> Seal:
        await self.grow()
        self.clock.pass_(60)
        seal = await self.sealer.make()
        assert seal is not None
        return seal

    async def check(self, *trusted: bytes) -> Sequence[str]:
        return (await check_seals(self.events, self.seals, VERIFIER, trusted)).problems

    def tamper(self) -> None:
        records = self.events._slices[slice_of(self.thread_id)]
        records[0] = replace(records[0], hash=b"x" * 32)

    def cut_off(self) -> None:
        """Remove the last event, so that nothing but a seal knows of it."""
        self.events._slices[slice_of(self.thread_id)].pop()
        self.events._events[self.thread_id].pop()


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_seal_says_what_the_log_holds_and_is_signed(desk: Desk) -> None:
    first, second = await desk.sealed(), await desk.sealed()

    assert (first.number, first.previous, first.events) == (1, NO_PREVIOUS_SEAL, 1)
    assert (second.number, second.previous, second.events) == (2, seal_digest(first), 2)
    assert second.at - first.at == timedelta(seconds=60)
    text = f"threadfold seal 1\n2\n2026-11-23T10:02:00.000000Z\n{second.root.hex()}\n{seal_digest(first).hex()}\n"
    assert signed_text(second).decode() == text + desk.signer.key_id
    assert VERIFIER.verify(desk.signer.public_key, second.signature, signed_text(second))
    assert await check_seals(desk.events, desk.seals, VERIFIER) == SealsChecked(2, 2)


async def test_the_root_is_that_of_all_slices_in_their_order(desk: Desk) -> None:
    seal = await desk.sealed()

    [record] = await desk.events.read(desk.thread_id, EMPTY_HEAD.version)
    own = slice_of(desk.thread_id)
    leaves = [slice_leaf(number, 0, EMPTY_ROOT) for number in range(1024)]
    leaves[own] = slice_leaf(own, 1, root_of([record.hash]))
    assert seal.root == root_of(leaves)


async def test_without_anything_new_there_is_no_new_seal(desk: Desk) -> None:
    assert await desk.sealer.make() is None
    await desk.sealed()

    assert await desk.sealer.make() is None
    assert await desk.another_process().make() is None


async def test_of_processes_that_race_one_makes_the_seal(desk: Desk) -> None:
    for number in (1, 2, 3):
        await desk.grow()
        processes = [desk.another_process() for _ in range(8)]
        made = [seal for seal in await asyncio.gather(*(one.make() for one in processes)) if seal]
        assert [seal.number for seal in made] == [number]
    assert await desk.check(desk.signer.public_key) == ()


async def test_a_process_reads_each_hash_once(desk: Desk) -> None:
    read: list[tuple[int, int]] = []
    hashes = desk.events.hashes

    async def counted(slice_: object, upto: int, after: int = 0) -> Sequence[bytes]:
        read.append((after, upto))
        return await hashes(slice_, upto, after)  # type: ignore[arg-type]

    desk.events.hashes = counted  # type: ignore[method-assign]
    for _ in range(3):
        await desk.sealed()

    assert read == [(0, 1), (1, 2), (2, 3)]


async def test_a_clock_that_runs_backwards_does_not_make_a_seal_older_than_the_last(desk: Desk) -> None:
    first = await desk.sealed()
    desk.clock.pass_(-600)
    second = await desk.sealed()

    assert second.at == first.at
    assert await desk.check() == ()


# --- what is not sealed


@pytest.mark.parametrize("change", ["tamper", "cut_off"])
async def test_a_log_that_was_changed_since_the_last_seal_is_not_sealed_again(desk: Desk, change: str) -> None:
    await desk.sealed()
    await desk.sealed()
    getattr(desk, change)()

    with pytest.raises(CorruptLog):
        await desk.another_process().make()

    assert len(await desk.seals.page(0, 10)) == 2


async def test_a_process_that_has_seen_the_original_never_seals_the_change(desk: Desk) -> None:
    await desk.sealed()
    desk.tamper()
    await desk.sealed()

    (problem,) = await desk.check()
    assert problem.startswith("Seal 1: the root of the 1 events that it covers is not the signed one.")


async def test_seals_that_vanish_or_are_exchanged_are_noticed_by_who_made_them(desk: Desk) -> None:
    last = await desk.sealed()
    desk.seals._seals[0] = _signed(replace(last, at=last.at + timedelta(days=1)), desk.signer)
    await desk.grow()
    with pytest.raises(CorruptLog, match="Seal 1 was replaced by another one"):
        await desk.sealer.make()

    desk.seals._seals.clear()
    with pytest.raises(CorruptLog, match="Seal 1 is missing: the last one is none now"):
        await desk.sealer.make()


async def test_no_seal_follows_another_keys_seal_without_new_key(desk: Desk) -> None:
    await desk.sealed()
    changed = desk.another_process(a_signer())
    await desk.grow()
    with pytest.raises(CannotSeal, match="If you changed the key, run: threadfold seals make --new-key"):
        await changed.make()

    seal = await changed.make(new_key=True)

    assert seal is not None
    assert await desk.check(seal.public_key) == ()
    assert len(await desk.check(desk.signer.public_key)) == 1


async def test_a_new_key_takes_over_even_if_nothing_else_is_new(desk: Desk) -> None:
    await desk.sealed()

    seal = await desk.another_process(a_signer()).make(new_key=True)

    assert seal is not None
    assert (seal.number, seal.events) == (2, 1)


async def test_a_seal_with_a_wrong_signature_is_not_gone_on_from(desk: Desk) -> None:
    last = await desk.sealed()
    desk.seals._seals[0] = replace(last, signature=bytes(64))

    with pytest.raises(CorruptLog, match="Seal 1 has an invalid signature"):
        await desk.another_process().make()


async def test_without_a_key_nothing_is_sealed(desk: Desk) -> None:
    keyless = Sealer(desk.events, desk.seals, desk.clock, VERIFIER, None, 60)
    with pytest.raises(CannotSeal, match="SIGNING_KEY is not set"):
        await keyless.make()
    assert await keyless.due() is None


# --- what is found


CHANGES = {
    "at": ({"at": Clock().now() - timedelta(days=1)}, "Seal 2 has an invalid signature"),
    "root": ({"root": b"x" * 32}, "Seal 2 has an invalid signature"),
    "previous": ({"previous": b"x" * 32}, "Seal 2 does not follow the seal before it"),
    "public_key": ({"public_key": a_signer().public_key}, "Seal 2 has an invalid signature"),
    "no key": ({"public_key": b"x"}, "Seal 2 has an invalid signature"),
    "signature": ({"signature": b"x" * 64}, "Seal 2 has an invalid signature"),
    "number": ({"number": 7}, "Seal 2 is missing, 7 came instead"),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_seal_that_was_changed_is_found(desk: Desk, name: str) -> None:
    for _ in range(3):
        await desk.sealed()
    change, expected = CHANGES[name]
    desk.seals._seals[1] = replace(desk.seals._seals[1], **change)  # type: ignore[arg-type]

    assert any(problem.startswith(expected) for problem in await desk.check())


async def test_a_seal_in_the_middle_cannot_be_left_out_or_made_anew(desk: Desk) -> None:
    for _ in range(3):
        await desk.sealed()
    kept = list(desk.seals._seals)
    del desk.seals._seals[1]
    assert "Seal 2 is missing, 3 came instead" in await desk.check()

    desk.seals._seals[:] = kept
    desk.seals._seals[1] = _signed(replace(kept[1], root=b"x" * 32), desk.signer)
    follows, root = await desk.check()
    assert follows.startswith("Seal 3 does not follow the seal before it")
    assert root.startswith("Seal 2: the root of the 2 events")


async def test_what_an_older_seal_says_to_cover_is_checked_too(desk: Desk) -> None:
    for _ in range(3):
        await desk.sealed()
    first = desk.seals._seals[0]
    desk.seals._seals[0] = replace(first, sizes=tuple(0 for _ in first.sizes))
    (problem,) = await desk.check()
    assert problem.startswith("Seal 1: the root of the 0 events that it covers is not the signed one.")


async def test_sizes_that_shrink_from_seal_to_seal_are_found(desk: Desk) -> None:
    first, second = await desk.sealed(), await desk.sealed()
    desk.seals._seals[:] = [replace(first, sizes=second.sizes), replace(second, sizes=first.sizes)]

    assert any("covers 1 events of slice" in problem for problem in await desk.check())


async def test_sizes_are_a_part_of_what_is_signed(desk: Desk) -> None:
    await desk.grow()
    seal = await desk.sealed()
    sizes = list(seal.sizes)
    sizes[slice_of(desk.thread_id)] = 1
    desk.seals._seals[0] = replace(seal, sizes=tuple(sizes))

    (problem,) = await desk.check()
    assert "the root of the 1 events" in problem


async def test_events_that_were_cut_off_and_replaced_are_found(desk: Desk) -> None:
    await desk.sealed()
    before = desk.head
    await desk.sealed()
    desk.cut_off()
    own = slice_of(desk.thread_id)
    (problem,) = await desk.check()
    assert problem == f"Seal 2 covers 2 events of slice {own}. Slice {own}: positions 2 to 2 are missing"

    desk.events._threads[desk.thread_id] = replace(desk.events._threads[desk.thread_id], head=before)
    await desk.events.append(appending(desk.thread_id, before, '{"other": 1}'))
    (problem,) = await desk.check()
    assert "An event was changed or replaced" in problem


async def test_an_earlier_seal_can_be_checked_by_itself(desk: Desk) -> None:
    first = await desk.sealed()
    await desk.sealed()
    assert await check_seal(desk.events, first, VERIFIER, [desk.signer.public_key]) == SealsChecked(1, 1)
    desk.tamper()
    (problem,) = (await check_seal(desk.events, first, VERIFIER)).problems
    assert problem.startswith("Seal 1: the root of the 1 events")
    untrusted = await check_seal(desk.events, first, VERIFIER, [a_signer().public_key])
    assert untrusted.problems[-1].endswith("which is not trusted")


# --- all the time


@asynccontextmanager
async def sealing(events: EventStore, seals: MemorySealStore, every: float) -> AsyncIterator[Sealer]:
    clock = Clock()

    async def pass_time() -> None:
        while True:
            await asyncio.sleep(0)
            clock.pass_(0.01)

    one = sealer(events, seals, clock, every=every)
    passing = asyncio.create_task(pass_time())
    async with BackgroundTasks().running("sealer", one.run):
        yield one
    passing.cancel()


async def made(seals: MemorySealStore, number: int) -> Seal:
    async with asyncio.timeout(60):
        while (seal := await seals.get(number)) is None:
            await asyncio.sleep(0.005)
    return seal


async def test_seals_are_made_all_the_time_while_anything_is_new(desk: Desk) -> None:
    await desk.grow()
    async with sealing(desk.events, desk.seals, 0.1) as one:
        await made(desk.seals, 1)
        await asyncio.sleep(0.3)
        assert await desk.seals.get(2) is None
        await desk.grow()
        await made(desk.seals, 2)
        assert await one.due() is not None


async def test_a_store_that_fails_for_a_while_only_delays_the_next_seal(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.grow()
    errors: list[Exception] = [RuntimeError("a defect"), StoreUnavailable(), CorruptLog("a change")]
    heads = desk.events.slice_heads

    async def failing() -> Sequence[int]:
        if errors:
            raise errors.pop()
        return await heads()

    monkeypatch.setattr(desk.events, "slice_heads", failing)
    async with sealing(desk.events, desk.seals, 0.1):
        await made(desk.seals, 1)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "ERROR"]


async def test_a_clock_that_was_ahead_once_does_not_hold_up_the_next_seals(desk: Desk) -> None:
    desk.clock.pass_(365 * 24 * 3600)
    await desk.sealed()
    desk.clock.pass_(-365 * 24 * 3600)

    due = await desk.another_process().due()

    assert due is not None
    assert due - desk.clock.now() == timedelta(hours=1)


def _signed(seal: Seal, signer: Ed25519Signer) -> Seal:
    return replace(seal, signature=signer.sign(signed_text(seal)))
