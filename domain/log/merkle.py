"""Merkle trees over the log, as RFC 6962 defines them (SHA-256; 0x00 before a leaf, 0x01 before a pair).

A slice's tree has one leaf for each event: leaf number i (from 0) is the event at position i + 1, its data the event's
hash. The log's tree has one leaf for each of the 1,024 slices, in their order, with this data:

    slice (2 bytes, big endian) || size (8 bytes, big endian) || root of the slice's tree (32 bytes)

The root of an empty tree is SHA-256 of nothing. `docs/verify_event.py` does the same checks without this module.
"""

import hashlib
from collections.abc import Iterable, Sequence

from msgspec import Struct

from domain.ids import SLICES

EMPTY_ROOT = hashlib.sha256(b"").digest()


class Tree(Struct, frozen=True):
    """A tree that leaves can be appended to: its number of leaves, and the roots of its complete subtrees.

    The sizes of the subtrees are the powers of two in the size's binary notation, the largest first.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extended(self, leaves: Iterable[bytes]) -> "Tree":
        """Return the tree with more leaves appended."""
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
    """Hash two subtrees' roots into one."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a tree, given the data of its leaves."""
    return EMPTY_TREE.extended(leaves).root


def audit_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the sibling hashes from a leaf to the root, the nearest first. Raise `IndexError` for an unknown leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"A tree of {len(leaves)} leaves has no leaf {index}")
    level = [leaf_hash(data) for data in leaves]
    siblings = []
    while len(level) > 1:
        if (sibling := index ^ 1) < len(level):
            siblings.append(level[sibling])
        joined = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = [*joined, level[-1]] if len(level) % 2 else joined  # a node without a sibling moves up a level
        index //= 2
    return tuple(siblings)


def root_from_path(data: bytes, index: int, size: int, siblings: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf's path leads to; None if a tree of this size has no such path for this leaf.

    A root does not determine its tree's size. If the size matters, compare it, too.
    """
    if not 0 <= index < size:
        return None
    last, here = size - 1, leaf_hash(data)
    for sibling in siblings:
        if not last:
            return None
        if index & 1 or index == last:
            here = node_hash(sibling, here)
            while not index & 1 and index:  # skip the levels at which the node had no sibling
                index, last = index >> 1, last >> 1
        else:
            here = node_hash(here, sibling)
        index, last = index >> 1, last >> 1
    return None if last else here


def slice_leaf(slice_: int, size: int, slice_root: bytes) -> bytes:
    """Return the data of a slice's leaf in the log's tree."""
    return slice_.to_bytes(2, "big") + size.to_bytes(8, "big") + slice_root


def slice_leaves(trees: Sequence[Tree]) -> list[bytes]:
    """Return the data of all leaves of the log's tree, given the slices' trees in their order."""
    return [slice_leaf(number, tree.size, tree.root) for number, tree in enumerate(trees)]


def log_root(trees: Sequence[Tree]) -> bytes:
    """Return the root of the log's tree, given the slices' trees in their order."""
    return root_hash(slice_leaves(trees))


class Inclusion(Struct, frozen=True):
    """An event's place in the log's tree: its slice and position, the slice's size, and the paths in both trees."""

    slice: int
    position: int
    size: int
    path: tuple[bytes, ...]
    slice_path: tuple[bytes, ...]


def root_from_inclusion(event_hash: bytes, place: Inclusion) -> bytes | None:
    """Return the log's root that an event's place leads to; None if no log has such a place."""
    if not (0 <= place.slice < SLICES and 0 < place.position <= place.size < 2**63):
        return None
    slice_root = root_from_path(event_hash, place.position - 1, place.size, place.path)
    if slice_root is None:
        return None
    return root_from_path(slice_leaf(place.slice, place.size, slice_root), place.slice, SLICES, place.slice_path)
