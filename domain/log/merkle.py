"""Merkle trees over the log, as RFC 6962 defines them (SHA-256; 0x00 before a leaf, 0x01 before a pair).

A slice's tree has one leaf for each event: leaf number i (from 0) is the event at position i + 1, its data the event's
hash. The log's tree has one leaf for each of the 1,024 slices, in their order, with this data:

    slice (2 bytes, big endian) || size (8 bytes, big endian) || root of the slice's tree (32 bytes)

The root of an empty tree is SHA-256 of nothing. `docs/verify_event.py` checks the same without this module.
"""

import hashlib
from collections.abc import Iterable, Sequence

from msgspec import Struct

from domain.ids import SLICES

EMPTY_ROOT = hashlib.sha256(b"").digest()


class Tree(Struct, frozen=True):
    """A tree that can grow: how many leaves it has, and the roots of its complete parts, the largest first.

    The parts are as large as the ones in the binary notation of the size say.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extended(self, leaves: Iterable[bytes]) -> "Tree":
        """Return the tree with more leaves at its end."""
        size, peaks = self.size, list(self.peaks)
        for data in leaves:
            part, complete = leaf_hash(data), size
            while complete & 1:
                part = node_hash(peaks.pop(), part)
                complete >>= 1
            peaks.append(part)
            size += 1
        return Tree(size, tuple(peaks))

    @property
    def root(self) -> bytes:
        """Return the tree hash."""
        if not self.peaks:
            return EMPTY_ROOT
        *larger, joined = self.peaks
        for peak in reversed(larger):
            joined = node_hash(peak, joined)
        return joined


EMPTY_TREE = Tree()


def leaf_hash(data: bytes) -> bytes:
    """Hash a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two parts of a tree into one."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a tree with these leaves' data."""
    return EMPTY_TREE.extended(leaves).root


def audit_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return what a leaf is joined with on its way to the root, the nearest first. Raise `IndexError` if none is."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"A tree of {len(leaves)} leaves has no leaf {index}")
    level = [leaf_hash(data) for data in leaves]
    met = []
    while len(level) > 1:
        if (beside := index ^ 1) < len(level):
            met.append(level[beside])
        joined = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = [*joined, level[-1]] if len(level) % 2 else joined  # who has nobody beside it waits for the next level
        index //= 2
    return tuple(met)


def root_from_path(data: bytes, index: int, size: int, met: Sequence[bytes]) -> bytes | None:
    """Return the root that a path leads to; None if a tree of this size has no such path for this leaf.

    A root says nothing about its tree's size: where the size matters, it must be a part of what is compared.
    """
    if not 0 <= index < size:
        return None
    last, here = size - 1, leaf_hash(data)
    for other in met:
        if not last:
            return None
        if index & 1 or index == last:
            here = node_hash(other, here)
            while not index & 1 and index:  # the levels where there was nobody beside it
                index, last = index >> 1, last >> 1
        else:
            here = node_hash(here, other)
        index, last = index >> 1, last >> 1
    return None if last else here


def slice_leaf(slice_: int, size: int, slice_root: bytes) -> bytes:
    """Write a slice as the data of a leaf of the log's tree."""
    return slice_.to_bytes(2, "big") + size.to_bytes(8, "big") + slice_root


def slice_leaves(trees: Sequence[Tree]) -> list[bytes]:
    """Write all slices, in their order, as leaves of the log's tree."""
    return [slice_leaf(number, tree.size, tree.root) for number, tree in enumerate(trees)]


def log_root(trees: Sequence[Tree]) -> bytes:
    """Return the root of the whole log, of its slices' trees in their order."""
    return root_hash(slice_leaves(trees))


class Inclusion(Struct, frozen=True):
    """Where an event is in the log's tree: its slice and position, the slice's size, and the paths through both."""

    slice: int
    position: int
    size: int
    path: tuple[bytes, ...]
    slice_path: tuple[bytes, ...]


def root_from_inclusion(event_hash: bytes, place: Inclusion) -> bytes | None:
    """Return the log's root that an event leads to by its place; None if there is no such place."""
    if not (0 <= place.slice < SLICES and 0 < place.position <= place.size < 2**63):
        return None
    slice_root = root_from_path(event_hash, place.position - 1, place.size, place.path)
    if slice_root is None:
        return None
    return root_from_path(slice_leaf(place.slice, place.size, slice_root), place.slice, SLICES, place.slice_path)
