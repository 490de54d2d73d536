"""Verification of a log while other processes append to it."""

from collections.abc import Sequence

from domain.application.audit.verify import verify_heads, verify_slices, verify_thread
from domain.ids import DEFAULT_TENANT, ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Record, chain_records
from domain.ports.log import Append, ThreadRow
from domain.thread.codec import Metadata, encode
from domain.thread.events import ThreadOpened
from infrastructure.memory.event_store import MemoryEventStore
from tests.streams import NOON, new_thread


class BusyStore(MemoryEventStore):
    """A thread grows whenever its end is asked for, which is after its events were read."""

    async def thread(self, thread_id: ThreadId) -> ThreadRow | None:
        await grow(self, thread_id)
        return await super().thread(thread_id)


class ForgetfulStore(MemoryEventStore):
    """The events of every thread are gone; their heads are not."""

    async def read(self, *_: object, **__: object) -> Sequence[Record]:
        return []

    async def read_slice(self, *_: object) -> Sequence[Record]:
        return []


async def grow(store: MemoryEventStore, thread_id: ThreadId) -> None:
    row = await MemoryEventStore.thread(store, thread_id)
    before = row.head if row else EMPTY_HEAD
    records, head = chain_records(
        DEFAULT_TENANT, thread_id, before, [encode(ThreadOpened("assistant"), Metadata())], NOON
    )
    await store.append(Append(DEFAULT_TENANT, thread_id, before, head, records, in_turn=False))


async def test_a_thread_that_grows_meanwhile_is_no_problem() -> None:
    store, thread_id = BusyStore(), new_thread()
    await grow(store, thread_id)

    assert (await verify_thread(store, thread_id)).problems == ()
    assert (await verify_slices(store, [slice_of(thread_id)])).problems == ()


async def test_a_thread_whose_events_are_all_gone_is_found_by_its_head() -> None:
    store, thread_id = ForgetfulStore(), new_thread()
    await grow(store, thread_id)

    (problem,) = (await verify_slices(store, [slice_of(thread_id)])).problems
    assert problem == f"Slice {slice_of(thread_id)}: positions 1 to 1 are missing"
    assert (await verify_heads(store, [slice_of(thread_id)])).problems == (f"{thread_id}: versions 1 to 1 are missing",)
