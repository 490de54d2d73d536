"""What every snapshot store does."""

from msgspec.structs import replace

from domain.ids import ThreadId, Version
from domain.log.hash_chain import Head
from domain.ports.snapshots import Snapshot, SnapshotStore
from tests.streams import ACME, NOON, SECOND, new_thread


def snapshot(thread_id: ThreadId, version: int, fingerprint: str = "fold-1", state: str = "{}") -> Snapshot:
    return Snapshot(ACME, thread_id, Head(Version(version), bytes([version]) * 32, NOON), fingerprint, state)


async def test_a_thread_without_snapshots_has_none(snapshot_store: SnapshotStore) -> None:
    assert await snapshot_store.nearest(new_thread(), None, "fold-1") is None


async def test_a_snapshot_is_kept_as_it_was(snapshot_store: SnapshotStore) -> None:
    kept = snapshot(new_thread(), 3, state='{ "b": 1.0, "a": "👩‍👩‍👧 \\u00e9" }')

    await snapshot_store.save(kept)

    assert await snapshot_store.nearest(kept.thread_id, None, "fold-1") == kept


async def test_the_nearest_is_the_last_at_or_before_the_version(snapshot_store: SnapshotStore) -> None:
    thread_id = new_thread()
    for version in (20, 10, 30):
        await snapshot_store.save(snapshot(thread_id, version))

    async def nearest(upto: int | None) -> int | None:
        found = await snapshot_store.nearest(thread_id, None if upto is None else Version(upto), "fold-1")
        return found.head.version if found else None

    assert [await nearest(upto) for upto in (0, 9, 10, 19, 20, 29, 30, 99, None)] == [
        *(None, None, 10, 10, 20, 20, 30, 30, 30)
    ]


async def test_what_another_fold_made_is_passed_over(snapshot_store: SnapshotStore) -> None:
    thread_id = new_thread()
    await snapshot_store.save(snapshot(thread_id, 10, "fold-1"))
    await snapshot_store.save(snapshot(thread_id, 20, "fold-2"))

    found = await snapshot_store.nearest(thread_id, None, "fold-1")

    assert found is not None
    assert found.head.version == 10
    assert await snapshot_store.nearest(thread_id, None, "fold-3") is None


async def test_a_snapshot_of_the_same_version_is_replaced(snapshot_store: SnapshotStore) -> None:
    old = snapshot(new_thread(), 10, "fold-1", "1")
    new = replace(old, fingerprint="fold-2", state="2", head=replace(old.head, at=NOON + SECOND))
    for each in (old, new):
        await snapshot_store.save(each)

    assert await snapshot_store.nearest(old.thread_id, None, "fold-1") is None
    assert await snapshot_store.nearest(old.thread_id, None, "fold-2") == new


async def test_threads_do_not_share_snapshots(snapshot_store: SnapshotStore) -> None:
    await snapshot_store.save(snapshot(new_thread(), 10))

    assert await snapshot_store.nearest(new_thread(), None, "fold-1") is None
