"""The slices' Merkle trees, read from the log and grown from one seal to the next."""

import asyncio
from collections.abc import Sequence

from domain.ids import SLICES, Position, Slice
from domain.log.merkle import EMPTY_TREE, Tree
from domain.ports.log import EventStore

PAGE_HASHES = 10_000
"""Hashes in a page."""

EMPTY_TREES: tuple[Tree, ...] = (EMPTY_TREE,) * SLICES
"""The slices' trees of a log without events."""


async def grow_all(store: EventStore, trees: Sequence[Tree], sizes: Sequence[int]) -> tuple[Tree, ...]:
    """Return the slices' trees at the given sizes. Events that `trees` cover already are not read again.

    Raises `CorruptLog` if an event is missing.
    """
    slices = enumerate(zip(trees, sizes, strict=True))
    return tuple([await grow(store, Slice(number), tree, size) for number, (tree, size) in slices])


async def grow(store: EventStore, slice_: Slice, tree: Tree, size: int) -> Tree:
    """Return a slice's tree at a size, given its tree at another size. Raises `CorruptLog`."""
    if tree.size > size:
        tree = EMPTY_TREE
    while tree.size < size:
        upto = min(size, tree.size + PAGE_HASHES)
        tree = tree.extended(await store.hashes(slice_, Position(upto), Position(tree.size)))
        await asyncio.sleep(0)  # hashing blocks the event loop, so other tasks run in between
    return tree
