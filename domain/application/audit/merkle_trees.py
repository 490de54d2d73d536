"""The slices' Merkle trees, read from the log and grown from one seal to the next."""

import asyncio
from collections.abc import Sequence

from domain.ids import SLICES, Position, Slice
from domain.log.merkle import EMPTY_TREE, Tree
from domain.ports.log import EventStore

PAGE_HASHES = 10_000
"""Hashes read at a time."""

EMPTY_TREES: tuple[Tree, ...] = (EMPTY_TREE,) * SLICES
"""The trees of a log without events."""


async def grow_all(store: EventStore, trees: Sequence[Tree], sizes: Sequence[int]) -> tuple[Tree, ...]:
    """Return the slices' trees at some sizes. What `trees` have already is not read again.

    Raises `CorruptLog` where an event is missing.
    """
    return tuple(
        [
            await grow(store, Slice(number), tree, size)
            for number, (tree, size) in enumerate(zip(trees, sizes, strict=True))
        ]
    )


async def grow(store: EventStore, slice_: Slice, tree: Tree, size: int) -> Tree:
    """Return one slice's tree at a size, from the tree of an earlier one. Raises `CorruptLog`."""
    if tree.size > size:
        tree = EMPTY_TREE
    while tree.size < size:
        upto = min(size, tree.size + PAGE_HASHES)
        tree = tree.extended(await store.hashes(slice_, Position(upto), Position(tree.size)))
        await asyncio.sleep(0)  # hashing takes a while: let others have a turn
    return tree
