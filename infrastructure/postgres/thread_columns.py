"""Threads, and shards, as the arrays that statements take."""

from collections.abc import Iterable

from domain.ids import Shard, Slice, ThreadId, slice_of, slices_of


def thread_columns(numbers: Iterable[tuple[ThreadId, int]]) -> tuple[list[Slice], list[ThreadId], list[int]]:
    """Return the slices of some threads, the threads, and their numbers: versions or epochs."""
    pairs = list(numbers)
    return [slice_of(thread_id) for thread_id, _ in pairs], [id_ for id_, _ in pairs], [number for _, number in pairs]


def slices_in(shards: Iterable[Shard]) -> list[int]:
    """Return all slices of some shards."""
    return [slice_ for shard in shards for slice_ in slices_of(shard)]
