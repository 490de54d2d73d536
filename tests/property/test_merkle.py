"""Every path verifies; nothing else does. The trees are those of RFC 6962, computed here as its text defines them."""

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from domain.ids import SLICES
from domain.log.merkle import (
    EMPTY_ROOT,
    EMPTY_TREE,
    Inclusion,
    Tree,
    audit_path,
    log_root,
    root_from_inclusion,
    root_from_path,
    root_hash,
    slice_leaves,
)
from tests.support.examples import examples

leaves = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70, unique=True)


def defined(data: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\0" + data[0]).digest()
    k = 1
    while k * 2 < len(data):
        k *= 2
    return hashlib.sha256(b"\1" + defined(data[:k]) + defined(data[k:])).digest()


def defined_path(m: int, data: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(data) == 1:
        return []
    k = 1
    while k * 2 < len(data):
        k *= 2
    if m < k:
        return [*defined_path(m, data[:k]), defined(data[k:])]
    return [*defined_path(m - k, data[k:]), defined(data[:k])]


def test_the_roots_of_certificate_transparencys_test_vectors() -> None:
    texts = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    data = [bytes.fromhex(text) for text in texts]
    expected = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    assert [root_hash(data[:size]).hex() for size in range(9)] == expected


@given(leaves)
@settings(deadline=None)
def test_roots_and_paths_are_those_that_the_rfc_defines(data: list[bytes]) -> None:
    assert root_hash(data) == defined(data)
    for index in range(len(data)):
        assert list(audit_path(data, index)) == defined_path(index, data)
        assert root_from_path(data[index], index, len(data), audit_path(data, index)) == root_hash(data)


@given(st.lists(st.lists(st.binary(max_size=4), max_size=20), max_size=8))
def test_a_tree_that_grows_in_pieces_is_the_tree_of_all_its_leaves(pieces: list[list[bytes]]) -> None:
    tree = EMPTY_TREE
    data: list[bytes] = []
    for piece in pieces:
        tree, data = tree.extended(piece), [*data, *piece]
        assert (tree.size, tree.root) == (len(data), defined(data))


@given(leaves, st.data())
@settings(deadline=None)
def test_another_leaf_index_or_path_does_not_lead_to_the_root(data: list[bytes], draw: st.DataObject) -> None:
    index, size = draw.draw(st.integers(0, len(data) - 1)), len(data)
    met, goal = audit_path(data, index), root_hash(data)
    other = draw.draw(st.integers(-2, size + 2).filter(lambda number: number != index))
    assert root_from_path(data[index], other, size, met) != goal
    assert root_from_path(flipped(data[index], draw), index, size, met) != goal
    assert root_from_path(data[index], index, size, (*met, goal)) != goal
    assert root_from_path(data[index], index, len(met) and size, met[:-1]) != goal or not met
    if met:
        at = draw.draw(st.integers(0, len(met) - 1))
        changed = (*met[:at], flipped(met[at], draw), *met[at + 1 :])
        assert root_from_path(data[index], index, size, changed) != goal


@given(leaves, st.integers(0, SLICES - 1), st.data())
@settings(deadline=None, max_examples=examples(50))
def test_an_event_leads_to_the_logs_root_from_its_place_alone(
    data: list[bytes], slice_: int, draw: st.DataObject
) -> None:
    trees = [EMPTY_TREE] * SLICES
    trees[slice_] = EMPTY_TREE.extended(data)
    trees[(slice_ + 1) % SLICES] = Tree(1, (data[0],))
    index = draw.draw(st.integers(0, len(data) - 1))
    place = Inclusion(slice_, index + 1, len(data), audit_path(data, index), audit_path(slice_leaves(trees), slice_))
    goal = log_root(trees)
    assert root_from_inclusion(data[index], place) == goal
    changed = draw.draw(
        st.one_of(
            st.integers(-1, 2**63).filter(lambda n: n != place.size).map(lambda n: replace(place, size=n)),
            st.integers(-1, 99).filter(lambda n: n != place.position).map(lambda n: replace(place, position=n)),
            st.integers(-1, SLICES).filter(lambda n: n != place.slice).map(lambda n: replace(place, slice=n)),
            st.just(replace(place, slice_path=place.slice_path[:-1])),
            st.just(replace(place, slice_path=place.slice_path[::-1])),
            st.just(replace(place, path=(*place.path, EMPTY_ROOT))),
        )
    )
    assert root_from_inclusion(data[index], changed) != goal
    assert root_from_inclusion(flipped(data[index], draw), place) != goal


def test_there_is_no_path_of_a_leaf_that_is_not_there() -> None:
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"A tree of 2 leaves has no leaf {index}"):
            audit_path([b"a", b"b"], index)


def flipped(data: bytes, draw: st.DataObject) -> bytes:
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    return bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))
